"""Stanford Cars, as Cars196: either of its two distributions.

::

    cars_annos.mat                        annotations, class_names        car_ims/000001.jpg

    devkit/cars_meta.mat                  class_names
    devkit/cars_train_annos.mat           annotations                     cars_train/00001.jpg
    cars_test_annos_withlabels.mat        annotations (or in devkit/)     cars_test/00001.jpg
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy.typing as npt

from cache import ImageSource
from cache.errors import RecordsError
from cache.source import Box
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row
from stages.datasets.benchmarks.matlab import read_fields, read_matlab

TRAINED = 98
"""The first classes are trained on, the others tested, whatever half of the classification task an image was in."""

_SIDES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


@dataclass(frozen=True, kw_only=True)
class Cars196Benchmark(BenchmarkConfig):
    """Cars196: 8,054 images of the first 98 models to train, 8,131 of the last 98 to test.

    A label is the model with its number, ``001 AM General Hummer SUV 2000``; a key the image's path.

    Attributes:
        crop: cut every image to the box of the car.
    """

    kind: Literal["cars196"] = "cars196"
    crop: bool = False

    title: ClassVar[str] = "Stanford Cars (Cars196)"
    distributor: ClassVar[str] = "Stanford (Krause)"

    def rows(self) -> Iterator[Row]:
        """The images of ``cars_annos.mat`` where that is there, else those of the two halves of the devkit."""
        if self.has("cars_annos.mat", "car_ims"):
            path = self.file("cars_annos.mat")
            self.folder("car_ims")
            annotations, models = read_matlab(path, "annotations", "class_names")
            for name, label, split, box in _annotated(path, annotations, models, "relative_im_path"):
                yield Row(name, self._uri(self.root / name, box), label, split)
            return
        (models,) = read_matlab(self.file("devkit/cars_meta.mat", "cars_meta.mat"), "class_names")
        for folder, file in (("cars_train", "cars_train_annos.mat"), ("cars_test", "cars_test_annos_withlabels.mat")):
            path = self.file(f"devkit/{file}", file)
            images = self.folder(f"{folder}/{folder}", folder)  # one copy that goes round has them a folder deeper
            (annotations,) = read_matlab(path, "annotations")
            for name, label, split, box in _annotated(path, annotations, models, "fname"):
                yield Row(f"{folder}/{name}", self._uri(images / name, box), label, split)

    def _uri(self, path: Path, box: Box) -> str:
        return ImageSource(str(path), box=box).uri if self.crop else str(path)


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
