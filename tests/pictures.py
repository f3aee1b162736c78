"""Small images and tables that tests draw for themselves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def draw(path: Path, seed: int, size: tuple[int, int] = (40, 32)) -> Path:
    """A smooth picture that is a function of ``seed``, as a PNG or JPEG by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def draw_folder(root: Path, classes: Mapping[str, int], seed: int = 0) -> Path:
    """A folder a class, with so many images each."""
    for at, (name, count) in enumerate(classes.items()):
        for number in range(count):
            draw(root / name / f"{number}.png", seed + 1000 * at + number)
    return root


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """A csv with the keys of the first row as its header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
