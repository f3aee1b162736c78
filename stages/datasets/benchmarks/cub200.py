"""Caltech-UCSD Birds-200-2011.

::

    images.txt                 image_id path
    image_class_labels.txt     image_id class_id
    classes.txt                class_id name
    bounding_boxes.txt         image_id x y width height
    images/001.Black_footed_Albatross/...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from cache import ImageSource
from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row
from stages.datasets.benchmarks.files import as_number, read_words

TRAINED = 100
"""The first classes are trained on, the others tested."""


@dataclass(frozen=True, kw_only=True)
class Cub200Benchmark(BenchmarkConfig):
    """CUB: 5,864 images of the first 100 classes to train, 5,924 of the last 100 to test.

    A label is the class's name, a key the image's path below ``images``.

    Attributes:
        crop: cut every image to the box of the bird.
    """

    kind: Literal["cub200"] = "cub200"
    crop: bool = False

    title: ClassVar[str] = "CUB-200-2011"
    distributor: ClassVar[str] = "Caltech (CUB_200_2011.tgz)"

    def rows(self) -> Iterator[Row]:
        """The images of ``images.txt``, in its order."""
        images = self.folder("images")
        listed, labelled = self.file("images.txt"), self.file("image_class_labels.txt")
        class_ids = dict(read_words(labelled, 2))
        names = dict(read_words(self.file("classes.txt"), 2))
        boxes = {number: box for number, *box in read_words(self.file("bounding_boxes.txt"), 5)} if self.crop else {}
        for number, path in read_words(listed, 2):
            class_id = class_ids.get(number, "")
            if class_id not in names:
                raise RecordsError(f"{listed}: image {number} has no class in {labelled.name}, or its class no name")
            uri = str(images / path)
            if self.crop:
                if number not in boxes:
                    raise RecordsError(f"{listed}: image {number} has no box in bounding_boxes.txt, and crop = true")
                left, top, width, height = (
                    as_number(side, f"bounding_boxes.txt, image {number}") for side in boxes[number]
                )
                uri = ImageSource(uri, box=(round(left), round(top), round(left + width), round(top + height))).uri
            split = "train" if as_number(class_id, labelled.name) <= TRAINED else "test"
            yield Row(path, uri, names[class_id], split)
