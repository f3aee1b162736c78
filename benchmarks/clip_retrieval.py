"""Stage 1 against ``clip-retrieval inference``: whole processes, the same images, network and weights (random).

    python -m benchmarks.clip_retrieval [ENVIRONMENT]

The peer pins old libraries and gets an environment of its own, made in ENVIRONMENT (.venv-clip-retrieval) if need be.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measured import Row, write

_IMAGES, _REPEATS, _MODEL = 640, 3, "ViT-B-32"
_PACKAGES = ("clip-retrieval==2.45.0", "setuptools<81")
_RUN = """
artifacts = {artifacts}
[dataset]
kind = "folder"
path = {images}
[[backbones]]
kind = "open_clip"
name = "ViT-B-32"
weights = {weights}
projection = true
precision = {precision}
[backbones.preprocess]
interpolation = "bicubic"
mean = [0.48145466, 0.4578275, 0.40821073]
std = [0.26862954, 0.26130258, 0.27577711]
"""


def main(environment: Path) -> None:
    """Time both, in turn, and write ``results/clip_retrieval.json``."""
    if not environment.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([environment / "bin/pip", "install", "--quiet", *_PACKAGES], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = _prepare(folder)
        peer, ours = [], {"float32": [], "bfloat16": []}
        for repeat in range(_REPEATS):
            peer.append(_timed([str(environment / "bin/clip-retrieval"), *_arguments(folder, weights, repeat)]))
            for precision, times in ours.items():
                text = _RUN.format(
                    artifacts=json.dumps(str(folder / f"ours{repeat}{precision}")),
                    images=json.dumps(str(folder / "images")),
                    weights=json.dumps(str(weights)),
                    precision=json.dumps(precision),
                )
                (folder / "run.toml").write_text(text)
                times.append(_timed([sys.executable, "-m", "pipeline", "extract", str(folder / "run.toml"), "--quiet"]))
            print(f"clip-retrieval {peer[-1]:.1f} s", {name: f"{times[-1]:.1f} s" for name, times in ours.items()})
    theirs = _IMAGES / statistics.median(peer)
    rows = []
    for precision, times in ours.items():
        rate = _IMAGES / statistics.median(times)
        work = f"{_IMAGES} photographs through {_MODEL}, {precision}, whole process"
        rows.append(
            Row(work, rate, "clip-retrieval inference", theirs, "images/s", rate / theirs, 3.0, "start included")
        )
    write("clip_retrieval", rows)


def _prepare(folder: Path) -> Path:
    """Copy the photographs, and write random weights as a state dict."""
    import open_clip
    import torch

    (folder / "images/all").mkdir(parents=True)
    source = Path(os.environ["PERMAFROST_DATA"]) / "grocery" / "images"
    paths = sorted(source.rglob("*.jpg"))
    for number in range(_IMAGES):
        (folder / f"images/all/{number}.jpg").write_bytes(paths[number * len(paths) // _IMAGES].read_bytes())
    torch.manual_seed(0)
    torch.save(open_clip.create_model(_MODEL).state_dict(), folder / "random.pt")
    return folder / "random.pt"


def _arguments(folder: Path, weights: Path, repeat: int) -> list[str]:
    return [
        "inference",
        *("--input_dataset", str(folder / "images")),
        *("--output_folder", str(folder / f"theirs{repeat}")),
        *("--clip_model", f"open_clip:{_MODEL}/{weights}"),
        *("--enable_text", "False", "--num_prepro_workers", "1", "--batch_size", "64"),
    ]


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".venv-clip-retrieval"))
