"""Stage 1 against the network alone, a plain loop, reading alone, and the limits of the machine.

Every figure is a rate measured in a process of its own, the sides in turn, REPEATS times; the table has the medians.

    python benchmarks/extraction.py [--images 640] [--repeats 3] [--device cpu] [--models NAME ...]

Photographs are those of PERMAFROST_DATA/grocery. Weights are random: they do not change the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.measured import Row, write

BATCH = 32
ON_CPU = ("mobilenetv2_100", "vit_base_patch16_224")
ON_GPU = ("vit_so400m_patch14_siglip_384", "vit_base_patch16_224", "resnet50")
FOUR = ("mobilenetv2_100", "efficientnet_lite0", "resnet18", "vit_tiny_patch16_224")


def main() -> None:
    """Run one measurement (``--measure``), or all of them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--measure", choices=sorted(MEASURES))
    parser.add_argument("--folder", help="the photographs, instead of grocery's")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(MEASURES[arguments.measure](arguments)))
        return
    write("extraction" if arguments.device == "cpu" else "extraction_gpu", side_by_side(arguments))


# Measurements, each in a process of its own


def photographs(arguments: argparse.Namespace) -> list[str]:
    """The paths of the photographs, as many as asked for, taken evenly."""
    folder = Path(arguments.folder or Path(os.environ["PERMAFROST_DATA"]) / "grocery" / "images")
    paths = sorted(str(path) for path in folder.rglob("*.jpg"))
    wanted = arguments.images or len(paths)
    return [paths[at * len(paths) // wanted] for at in range(min(wanted, len(paths)))]


def ours(arguments: argparse.Namespace) -> float:
    """Images a second of ``extract_all``, from records to committed stores."""
    from stages.extraction import TimmConfig, extract_all, load_backbone
    from stages.records import Records

    backbones = [
        load_backbone(TimmConfig(name=name, weights="random", precision=arguments.precision), device=arguments.device)
        for name in arguments.models
    ]
    records: Records = _records(photographs(arguments))
    size = BATCH if arguments.device == "cpu" else None
    with tempfile.TemporaryDirectory() as scratch:
        extract_all(records.take(np.arange(BATCH)), backbones, scratch, batch_size=size)  # warm
        started = time.perf_counter()
        extract_all(records, backbones, Path(scratch) / "timed", batch_size=size)
        return len(records) / (time.perf_counter() - started)


def forward_only(arguments: argparse.Namespace) -> float:
    """Images a second of the network alone on normalised tensors that are in memory, laid out as we do."""
    import torch

    from stages.device import keep_freed_memory

    keep_freed_memory()
    rates = []
    for name in arguments.models:
        network, size = _network(name)
        network = network.to(arguments.device)
        images = torch.randn(BATCH, 3, size, size, device=arguments.device)
        if sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) > 1:
            network, images = (x.to(memory_format=torch.channels_last) for x in (network, images))
        half = arguments.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=half):
            network(images)
            rounds = max(1, arguments.images // BATCH)
            started = time.perf_counter()
            for _ in range(rounds):
                network(images).sum().item()  # waits for the GPU
            rates.append(rounds * BATCH / (time.perf_counter() - started))
    return 1 / sum(1 / rate for rate in rates)


def plain_loop(arguments: argparse.Namespace) -> float:
    """Images a second of what one writes first: timm's transform, a DataLoader, the network in its defaults."""
    import torch
    from PIL import Image
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    (name,) = arguments.models
    network, _ = _network(name)
    network = network.to(arguments.device)
    transform = create_transform(**resolve_model_data_config(network), is_training=False)

    class Photographs(torch.utils.data.Dataset[torch.Tensor]):
        def __init__(self) -> None:
            self.paths = photographs(arguments)

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, row: int) -> torch.Tensor:
            image: torch.Tensor = transform(Image.open(self.paths[row]).convert("RGB"))
            return image

    def features(workers: int) -> Iterator[torch.Tensor]:
        half = arguments.precision == "bfloat16"
        with torch.no_grad(), torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=half):
            for images in torch.utils.data.DataLoader(Photographs(), batch_size=BATCH, num_workers=workers):
                yield network(images.to(arguments.device)).float().cpu()

    network(torch.randn(BATCH, 3, *resolve_model_data_config(network)["input_size"][1:], device=arguments.device))
    best = 0.0
    for workers in (0, os.cpu_count() or 1):  # whichever is faster here
        started = time.perf_counter()
        count = sum(len(batch) for batch in features(workers))
        best = max(best, count / (time.perf_counter() - started))
    return best


def reading(arguments: argparse.Namespace) -> float:
    """Images a second of reading, decoding and resizing alone, on as many threads as extraction uses."""
    from concurrent.futures import ThreadPoolExecutor

    from stages.device import compute_with
    from stages.extraction.decode import decode
    from stages.processes import processors

    preprocess = _trivial().preprocess

    def one(path: str) -> int:
        return len(preprocess.square(decode(Path(path).read_bytes())))

    paths = photographs(arguments)
    with ThreadPoolExecutor(processors(), initializer=compute_with, initargs=(1,)) as pool:
        list(pool.map(one, paths[:BATCH]))
        started = time.perf_counter()
        list(pool.map(one, paths, chunksize=8))
        return len(paths) / (time.perf_counter() - started)


def read_in_processes(arguments: argparse.Namespace) -> float:
    """As :func:`reading`, in processes that send the pixels back."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    from stages.extraction.decode import decode
    from stages.processes import processors

    preprocess = _trivial().preprocess

    class Photographs(Dataset[torch.Tensor]):
        paths = photographs(arguments)

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, row: int) -> torch.Tensor:
            return torch.from_numpy(preprocess(decode(Path(self.paths[row]).read_bytes())))

    started = time.perf_counter()
    count = sum(len(batch) for batch in DataLoader(Photographs(), batch_size=BATCH, num_workers=processors()))
    return count / (time.perf_counter() - started)


def ours_reading(arguments: argparse.Namespace) -> float:
    """Images a second of ``extract_all`` with a network that takes no time."""
    from stages.extraction import extract_all

    records = _records(photographs(arguments))
    with tempfile.TemporaryDirectory() as scratch:
        extract_all(records.take(np.arange(BATCH)), [_trivial()], scratch)
        started = time.perf_counter()
        extract_all(records, [_trivial()], Path(scratch) / "timed")
        return len(records) / (time.perf_counter() - started)


def decode_on_one_core(arguments: argparse.Namespace) -> float:
    """JPEGs a second that Pillow decodes on one core: the limit of reading."""
    import io

    from PIL import Image

    contents = [Path(path).read_bytes() for path in photographs(arguments)]
    started = time.perf_counter()
    for content in contents:
        Image.open(io.BytesIO(content)).load()
    return len(contents) / (time.perf_counter() - started)


def matrix_rate(arguments: argparse.Namespace) -> float:
    """GFLOP/s of a large matrix product in the precision asked for: the limit of the networks."""
    import torch

    dtype = torch.bfloat16 if arguments.precision == "bfloat16" else torch.float32
    side = 2048 if arguments.device == "cpu" else 8192
    one = torch.randn(side, side, device=arguments.device).to(dtype)
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        one @ one
        if arguments.device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - started) / 1e9)
    return best


def memory_rate(_: argparse.Namespace) -> float:
    """GB/s of copying 1 GB, read and written: the limit of everything between."""
    source = np.ones(1 << 27, np.float64)
    target = np.empty_like(source)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        np.copyto(target, source)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - started) / 1e9)
    return best


def disk_rate(_: argparse.Namespace) -> float:
    """MB/s of writing 512 MB and flushing it: the limit of committing."""
    block = os.urandom(1 << 24)
    with tempfile.TemporaryFile(dir=".") as file:
        started = time.perf_counter()
        for _ in range(32):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return 32 * len(block) / (time.perf_counter() - started) / 1e6


MEASURES: dict[str, Callable[[argparse.Namespace], float]] = {
    measure.__name__: measure
    for measure in (
        ours,
        forward_only,
        plain_loop,
        reading,
        read_in_processes,
        ours_reading,
        decode_on_one_core,
        matrix_rate,
        memory_rate,
        disk_rate,
    )
}


def _records(paths: list[str]):  # type: ignore[no-untyped-def]
    import csv

    from stages.records import read_records

    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "table.csv"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "split"), *((path, "a", "gallery") for path in paths)])
        return read_records(table, label="label")


def _network(name: str):  # type: ignore[no-untyped-def]
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0).eval()
    return network, network.pretrained_cfg["input_size"][-1]


def _trivial():  # type: ignore[no-untyped-def]
    """A backbone that takes the mean of each channel: nothing but reading is left."""
    from cache import Identity
    from stages.extraction import Backbone, PreprocessConfig

    preprocess = PreprocessConfig().resolve(size=224, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=0.875)
    identity = Identity({"backbone": "mean", "preprocess": preprocess.identity()})
    return Backbone("mean", 3, identity, preprocess, lambda batch: batch[:, :, ::32, ::32].mean((2, 3), np.float32))


# Side by side


def side_by_side(arguments: argparse.Namespace) -> list[Row]:
    """Every comparison, the sides measured in turn."""
    device, precisions = arguments.device, ("float32", "bfloat16")
    matrix = {precision: measure(arguments, "matrix_rate", precision=precision) for precision in precisions}
    memory, disk = measure(arguments, "memory_rate"), measure(arguments, "disk_rate")
    decoded = measure(arguments, "decode_on_one_core")
    limits = f"memory {memory:.0f} GB/s, disk {disk:,.0f} MB/s, one core decodes {decoded:,.0f} images/s"
    print(f"limits: {limits}; matrix product {matrix['float32']:,.0f} GFLOP/s, bfloat16 {matrix['bfloat16']:,.0f}")
    read = measure(arguments, "reading") if device == "cpu" else 0.0
    rows = []
    for name in arguments.models or (ON_CPU if device == "cpu" else ON_GPU):
        for precision in precisions:
            few = {"images": 64} if device == "cpu" and name.startswith("vit_base") else {}
            sides = {"models": [name], "precision": precision, **few}
            us, alone, plain = medians(arguments, ("ours", "forward_only", "plain_loop"), **sides)
            limit = f"matrix product {matrix[precision]:,.0f} GFLOP/s"
            if device == "cpu":  # the processors that compute the network read the images too
                limit += f"; read, then computed: {1 / (1 / alone + 1 / read):,.1f} images/s"
            work = f"{name}, {precision}, {device}"
            rows.append(Row(work, us, "the network alone", alone, "images/s", us / alone, 0.95, limit))
            rows.append(Row(work, us, "Pillow transform, DataLoader", plain, "images/s", us / plain, 2.0, limit))
            print(rows[-2], rows[-1], sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        large = _enlarged(arguments, Path(scratch))
        us, alone, processes = medians(
            arguments, ("ours_reading", "reading", "read_in_processes"), folder=str(large), images=0
        )
        limit = (
            f"one core decodes {measure(arguments, 'decode_on_one_core', folder=str(large), images=0):,.0f} images/s"
        )
    work = "reading 1,280 px photographs, a network that takes no time"
    rows.append(Row(work, us, "reading alone, same threads", alone, "images/s", us / alone, 0.9, limit))
    rows.append(Row(work, us, "reading in processes (DataLoader)", processes, "images/s", us / processes, 1.0, limit))
    us, forwards = medians(arguments, ("ours", "forward_only"), models=list(FOUR))
    (read,) = medians(arguments, ("ours_reading",))
    parts = 1 / (1 / forwards + 1 / read)
    work = "four backbones in one pass: " + ", ".join(FOUR)
    rows.append(Row(work, us, "one reading and four forwards", parts, "images/s", us / parts, 1 / 1.1, limits))
    return rows


def medians(arguments: argparse.Namespace, names: tuple[str, ...], **changes: object) -> list[float]:
    """The median of each measurement over the repeats, taken in turn."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(arguments.repeats):
        for name in names:
            rates[name].append(measure(arguments, name, **changes))
    print({name: [round(value, 1) for value in values] for name, values in rates.items()}, changes, flush=True)
    return [statistics.median(values) for values in rates.values()]


def measure(arguments: argparse.Namespace, name: str, **changes: object) -> float:
    """One measurement in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.extraction", "--measure", name]
    for key, value in (vars(arguments) | changes).items():
        if key in ("measure", "repeats") or value is None:
            continue
        command += [f"--{key}", *(map(str, value) if isinstance(value, (list, tuple)) else [str(value)])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _enlarged(arguments: argparse.Namespace, folder: Path) -> Path:
    """Photographs as cameras make them, longer side 1,280 pixels."""
    from PIL import Image

    arguments = argparse.Namespace(**(vars(arguments) | {"images": 200}))
    for number, path in enumerate(photographs(arguments)):
        with Image.open(path) as image:
            ratio = 1280 / max(image.size)
            larger = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BICUBIC)
            larger.save(folder / f"{number}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
