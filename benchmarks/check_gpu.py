"""Stage 1 on a card: are the features right, do they survive kills and a small memory, is the card kept busy?

    python -m benchmarks.check_gpu [--device cuda] [--output benchmarks/results/gpu.json]

Prints one line a check and writes one JSON. Under fifteen minutes on one card. The exit status is 1 when a check fails,
when something that it needs is lacking, or when there is no card. ``--device cpu --quick`` runs the same code with tiny
networks and says nothing about a card.

Nothing is downloaded: weights are random, but for EfficientNet-Lite0 where its package is installed, and images are
drawn. It needs what ``NEEDS`` lists.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.gpu_work import (
    Scale,
    contents,
    copies,
    cosines,
    decode_rate,
    photograph_network,
    random_backbone,
    rate_alone,
    utilisation,
)

if TYPE_CHECKING:
    from stages.records import Records

NEEDS: dict[str, Any] = {
    "packages": {  # distribution: the module that it is imported as
        "torch": "torch",  # 2.9 or later, built for the CUDA of the machine
        "torchvision": "torchvision",
        "timm": "timm",
        "open_clip_torch": "open_clip",
        "numpy": "numpy",
        "pillow": "PIL",
        "pyarrow": "pyarrow",
        "zarr": "zarr",
        "google-crc32c": "google_crc32c",
        "pydantic": "pydantic",
        "safetensors": "safetensors",
        "scikit-learn": "sklearn",
        "faiss-cpu": "faiss",
    },
    "programs": ["nvidia-smi"],
    "card": "one NVIDIA card of compute capability 8.0 or later with 16 GB",
    "memory": "16 GB",
    "disk": "4 GB in the folder of temporary files (TMPDIR)",
}
_LEAST_TORCH = (2, 9)
_MOST_IMAGES = 20_000  # of about 70 kB
_LARGE = ("vit_base_patch16_224", "resnet50", "vit_so400m_patch14_siglip_384")
_SMALL = ("test_vit", "test_resnet")


CARD = Scale(_LARGE, 1500, 15.0, 5, 256, 500)
QUICK = Scale(_SMALL, 40, 0.2, 1, 8, 96)


class Check(NamedTuple):
    """A question, its answer, the figures behind it, and the seconds that it took."""

    name: str
    passed: bool
    figures: dict[str, Any]
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Run every check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few images: to test this script")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "gpu.json")
    parser.add_argument("--extract", nargs=3, metavar=("TABLE", "FOLDER", "BATCH"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    scale = QUICK if given.quick else CARD
    device = given.device
    if given.extract:
        _extract_to_be_killed(device, given.quick, *given.extract)
        return 0
    if lacking := [*_lacking_packages(), *_lacking_hardware(device)]:
        print(f"check-gpu needs what this machine lacks: {'; '.join(lacking)}", file=sys.stderr)
        return 1
    from stages.device import keep_freed_memory

    keep_freed_memory()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        checks = list(_checks(device, scale, given.quick, Path(scratch)))
    report = {
        "machine": _machine(device),
        "versions": _versions(),
        "date": date.today().isoformat(),
        "seconds": round(time.perf_counter() - began, 1),
        "passed": all(check.passed for check in checks),
        "checks": [check._asdict() for check in checks],
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'all passed' if report['passed'] else 'FAILED'} in {report['seconds']:.0f} s: {given.output}")
    return 0 if report["passed"] else 1


def _checks(device: str, scale: Scale, quick: bool, scratch: Path) -> Iterator[Check]:
    from stages.datasets.drawn import draw_catalogue
    from stages.records import read_records

    instances = max(4, scale.compared // 10)
    table = draw_catalogue(scratch / "catalogue", instances=instances, size=scale.pixels // 2)
    records = read_records(table, label="label")
    steps: list[tuple[str, Callable[[], tuple[bool, dict[str, Any]]]]] = [
        ("features equal those of the CPU", lambda: features(device, quick, records, scratch)),
        ("bytes are equal after kills", lambda: kills(device, scale, quick, table, scratch)),
        ("a batch that does not fit is halved", lambda: small_memory(device, scale)),
        ("all processors decode", lambda: decoding(device, scale)),
    ]
    for name in scale.networks:
        for precision in ("float32",) if device == "cpu" else ("tf32", "bfloat16"):
            work = f"{name} in {precision} is kept busy"
            steps.append((work, lambda n=name, p=precision: throughput(device, scale, n, p, scratch)))  # type: ignore[misc]
    for name, step in steps:
        started = time.perf_counter()
        try:
            passed, figures = step()
        except Exception as error:  # noqa: BLE001 - the other checks are wanted all the same
            passed, figures = False, {"error": f"{type(error).__name__}: {error}"}
        check = Check(name, passed, figures, round(time.perf_counter() - started, 1))
        print(f"{'pass' if passed else 'FAIL'}  {name} ({check.seconds:.0f} s): {json.dumps(figures)}", flush=True)
        yield check


# The checks


def features(device: str, quick: bool, records: Records, scratch: Path) -> tuple[bool, dict[str, Any]]:
    """Cosine and mMP@5 of each precision on the device against float32 on the CPU."""
    from stages.extraction import extract_all, load_backbone
    from stages.retrieval import evaluate

    config = photograph_network(quick)
    precisions = ("float32", "bfloat16") if device == "cpu" else ("float32", "tf32", "bfloat16")
    backbones = {"cpu": load_backbone(replace(config, precision="float32"))}  # type: ignore[arg-type]
    for precision in precisions:
        backbones[precision] = load_backbone(replace(config, precision=precision), device=device)  # type: ignore[arg-type]
    rows: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for way, backbone in backbones.items():
        (filled,) = extract_all(records, [backbone], scratch / "features" / way, dtype="float32")
        vectors = filled.store.read(records.digests).astype(np.float64)
        rows[way] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        (score,) = [
            score
            for score in evaluate(filled.store, queries=records, gallery=records, metrics=("mmp@5",))
            if score.metric == "mmp@5"
        ][:1]
        cosine = np.einsum("nd,nd->n", rows["cpu"], rows[way])
        figures[way] = {"least cosine": float(cosine.min()), "mean cosine": float(cosine.mean()), "mmp@5": score.value}
    figures["cpu"]["network"] = config.name
    limits = {"float32": 0.99999, "tf32": 0.9999, "bfloat16": 0.98}
    near = all(figures[way]["least cosine"] >= limits[way] for way in precisions)
    same = all(abs(figures[way]["mmp@5"] - figures["cpu"]["mmp@5"]) <= 0.005 for way in precisions)
    return near and same, figures


def kills(device: str, scale: Scale, quick: bool, table: Path, scratch: Path) -> tuple[bool, dict[str, Any]]:
    """Every file of a store that was killed and resumed against one that was not."""
    peace, war = scratch / "peace", scratch / "war"
    command = [sys.executable, "-m", "benchmarks.check_gpu", "--device", device, *(["--quick"] if quick else [])]
    command += ["--extract", str(table)]
    started = time.perf_counter()
    subprocess.run([*command, str(peace), "16"], check=True)
    alone = time.perf_counter() - started
    rng, killed = random.Random(0), 0
    for _ in range(scale.kills):
        process = subprocess.Popen([*command, str(war), "16"])
        try:
            process.wait(timeout=rng.uniform(0.3, 0.95) * alone)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    subprocess.run([*command, str(war), "16"], check=True)
    one, other = contents(peace), contents(war)
    return one == other and bool(one), {"kills": killed, "files": len(one), "seconds uninterrupted": round(alone, 1)}


def small_memory(device: str, scale: Scale) -> tuple[bool, dict[str, Any]]:
    """A batch on a card that may use two thirds of what it takes; the same features, and the size is remembered."""
    import torch

    from stages.extraction.embedder import forward_in_memory

    backbone = random_backbone(scale.networks[0], "float32", device)
    size = backbone.preprocess.size
    planes = np.random.default_rng(0).integers(0, 256, (64, 3, size, size), dtype=np.uint8)
    largest: list[int] = []

    def watched(batch: Any) -> Any:
        if device == "cpu" and len(batch) > 20:
            raise torch.OutOfMemoryError("pretended")
        rows = backbone.forward(batch)
        largest.append(len(batch))
        return rows

    whole = backbone.forward(planes)
    if device != "cpu":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        at_rest = torch.cuda.memory_allocated(device)
        backbone.forward(planes)
        taken = at_rest + (torch.cuda.max_memory_reserved(device) - at_rest) * 2 / 3
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(
            taken / torch.cuda.get_device_properties(device).total_memory, device
        )
    try:
        first, second = forward_in_memory(watched, planes), forward_in_memory(watched, planes)
    finally:
        if device != "cpu":
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    cosine = cosines(first, whole).min()
    figures = {"batch": len(planes), "fitted": max(largest), "least cosine": float(cosine)}
    return max(largest) < len(planes) and cosine > 0.9999 and bool(np.array_equal(first, second)), figures


def decoding(device: str, scale: Scale) -> tuple[bool, dict[str, Any]]:
    """Images a second that all processors decode and resize to 224 pixels, and what one does."""
    from stages.processes import processors

    one, every = decode_rate(scale, 1), decode_rate(scale, processors())
    figures = {"processors": processors(), "pixels": f"{scale.pixels} x {scale.pixels * 3 // 4}"}
    figures |= {"images/s on one": round(one, 1), "images/s on all": round(every, 1)}
    return device == "cpu" or every > 0.5 * processors() * one, figures


def throughput(device: str, scale: Scale, name: str, precision: str, scratch: Path) -> tuple[bool, dict[str, Any]]:
    """``extract_all`` against the network alone on tensors in memory, at the batch size that extraction chose.

    It passes at nine tenths of the network alone, or of what all processors decode where that is less.
    """
    from cache import FeatureStore
    from stages.extraction import extract_all
    from stages.processes import processors

    backbone = random_backbone(name, precision, device)
    few = copies(scale, 64, scratch / f"{name}-{precision}-few")
    (filled,) = extract_all(few, [backbone], scratch / "warm")
    store = FeatureStore.at(filled.store.path)
    batch = store.provenance(next(iter(store.chunks()))).batch_size or 32
    alone = rate_alone(backbone, batch, scale.seconds)
    count = min(_MOST_IMAGES, max(64, int(alone * scale.seconds)))
    records = copies(scale, count, scratch / f"{name}-{precision}")
    with utilisation(device) as samples:
        started = time.perf_counter()
        extract_all(records, [backbone], scratch / "timed")
        rate = len(records) / (time.perf_counter() - started)
    for folder in ("timed", "warm", f"{name}-{precision}", f"{name}-{precision}-few"):
        shutil.rmtree(scratch / folder)
    limit = min(alone, decode_rate(scale, processors()))
    figures = {
        "batch size": batch,
        "images": len(records),
        "images/s": round(rate, 1),
        "network alone, images/s": round(alone, 1),
        "ratio": round(rate / alone, 3),
        "ratio to the limit": round(rate / limit, 3),
        "GPU utilisation, %": round(statistics.mean(samples), 1) if samples else None,
    }
    return device == "cpu" or rate >= 0.9 * limit, figures


def _extract_to_be_killed(device: str, quick: bool, table: str, folder: str, batch: str) -> None:
    from stages.extraction import extract_all, load_backbone
    from stages.records import read_records

    backbone = load_backbone(photograph_network(quick), device=device)
    extract_all(read_records(table, label="label"), [backbone], folder, batch_size=int(batch), chunk_rows=32)


# What it needs, and where it ran


def _lacking_packages() -> list[str]:
    lacking = []
    for distribution, module in NEEDS["packages"].items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            lacking.append(f"the package {distribution} ({error})")
    return lacking


def _lacking_hardware(device: str) -> list[str]:
    if device == "cpu":
        return []
    try:
        import torch
    except ImportError:  # named with the packages
        return []
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _LEAST_TORCH:
        return [f"torch {'.'.join(map(str, _LEAST_TORCH))} or later (there is {torch.__version__})"]
    if not torch.cuda.is_available():
        return [f"a card: {NEEDS['card']}"]
    lacking = [f"the program {name}" for name in NEEDS["programs"] if shutil.which(name) is None]
    if (
        torch.cuda.get_device_capability(device) < (8, 0)
        or torch.cuda.get_device_properties(device).total_memory < 15e9
    ):
        lacking.append(f"a larger card: {NEEDS['card']}")
    if shutil.disk_usage(tempfile.gettempdir()).free < 4e9:
        lacking.append(f"disk: {NEEDS['disk']}")
    return lacking


def _machine(device: str) -> dict[str, Any]:
    from benchmarks.measured import machine
    from stages.device import device_name

    return {"host": machine(), "processors": os.cpu_count(), "device": device_name(device)}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for distribution in NEEDS["packages"]:
        try:
            versions[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return versions


if __name__ == "__main__":
    sys.exit(main())
