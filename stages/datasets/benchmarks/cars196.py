"""Stanford Cars, as Cars196: either of its two distributions.

::

    cars_annos.mat                        annotations, class_names        car_ims/000001.jpg

    devkit/cars_meta.mat                  class_names
    devkit/cars_train_annos.mat           annotations                     cars_train/00001.jpg
    cars_test_annos_withlabels.mat        annotations (or in devkit/)     cars_test/00001.jpg
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from cache import ImageSource
from cache.errors import RecordsError
from cache.source import Box
from stages.datasets.benchmarks.layout import Layout
from stages.datasets.benchmarks.matlab import read_fields, read_matlab
from stages.datasets.benchmarks.rows import LEAVE_ONE_OUT, Row, as_source
from stages.datasets.config import DatasetConfig, Source

TRAINED = 98
"""The first classes are trained on, the others tested; whose half an image was in for classification is no matter."""

_SIDES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def read_cars196(config: DatasetConfig) -> Source:
    """Read Cars196: 8,054 images of the first 98 models to train, 8,131 of the last 98 to test.

    A label is the model with its number, ``001 AM General Hummer SUV 2000``; a key the image's path.
    ``crop = true`` cuts to the car.
    """
    layout = Layout.of(config, "Stanford Cars (Cars196)", "Stanford (Krause)")
    rows = _whole(layout, config.crop) if layout.has("cars_annos.mat", "car_ims") else _devkit(layout, config.crop)
    return as_source(config, rows, LEAVE_ONE_OUT)


def _whole(layout: Layout, crop: bool) -> Iterator[Row]:
    path = layout.file("cars_annos.mat")
    layout.folder("car_ims")
    annotations, models = read_matlab(path, "annotations", "class_names")
    for name, label, split, box in _annotated(path, annotations, models, "relative_im_path"):
        yield Row(name, _uri(layout.root / name, box if crop else None), label, split)


def _devkit(layout: Layout, crop: bool) -> Iterator[Row]:
    (models,) = read_matlab(layout.file("devkit/cars_meta.mat", "cars_meta.mat"), "class_names")
    for folder, file in (("cars_train", "cars_train_annos.mat"), ("cars_test", "cars_test_annos_withlabels.mat")):
        path = layout.file(f"devkit/{file}", file)
        images = layout.folder(f"{folder}/{folder}", folder)  # one copy that goes round has them a folder deeper
        (annotations,) = read_matlab(path, "annotations")
        for name, label, split, box in _annotated(path, annotations, models, "fname"):
            yield Row(f"{folder}/{name}", _uri(images / name, box if crop else None), label, split)


def _annotated(
    path: Path, annotations: npt.NDArray[Any], models: npt.NDArray[Any], image: str
) -> Iterator[tuple[str, str, str, Box]]:
    """The image, label, split and box of each annotation."""
    names, numbers, *sides = read_fields(path, annotations, image, "class", *_SIDES)
    for name, number, left, top, right, bottom in zip(names, numbers, *sides, strict=True):
        if not 1 <= number <= len(models):
            raise RecordsError(f"{path}: {name} is of class {number}, and there are {len(models)} class names")
        label = f"{number:03d} {models[number - 1]}"
        # MATLAB counts pixels from 1, and the right and bottom ones are still in the box.
        box = int(left) - 1, int(top) - 1, int(right), int(bottom)
        yield str(name), label, "train" if number <= TRAINED else "test", box


def _uri(path: Path, box: Box | None) -> str:
    return str(path) if box is None else ImageSource(str(path), box=box).uri
