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

from cache import ImageSource
from cache.errors import RecordsError
from stages.datasets.benchmarks.layout import Layout, as_number, read_words
from stages.datasets.benchmarks.rows import LEAVE_ONE_OUT, Row, as_source
from stages.datasets.config import DatasetConfig, Source

TRAINED = 100
"""The first classes are trained on, the others tested."""


def read_cub200(config: DatasetConfig) -> Source:
    """Read CUB: 5,864 images of the first 100 classes to train, 5,924 of the last 100 to test.

    A label is the class's name, a key the image's path below ``images``. ``crop = true`` cuts to the bird.
    """
    layout = Layout.of(config, "CUB-200-2011", "Caltech (CUB_200_2011.tgz)")
    return as_source(config, _rows(layout, config.crop), LEAVE_ONE_OUT)


def _rows(layout: Layout, crop: bool) -> Iterator[Row]:
    images = layout.folder("images")
    listed, labelled = layout.file("images.txt"), layout.file("image_class_labels.txt")
    class_of = dict(read_words(labelled, 2))
    name_of = dict(read_words(layout.file("classes.txt"), 2))
    boxes = {number: box for number, *box in read_words(layout.file("bounding_boxes.txt"), 5)} if crop else {}
    for number, path in read_words(listed, 2):
        class_id = class_of.get(number, "")
        if class_id not in name_of:
            raise RecordsError(f"{listed}: image {number} has no class in {labelled.name}, or its class no name")
        uri = str(images / path)
        if crop:
            if number not in boxes:
                raise RecordsError(f"{listed}: image {number} has no box in bounding_boxes.txt, and crop = true")
            left, top, width, height = (
                as_number(side, f"bounding_boxes.txt, image {number}") for side in boxes[number]
            )
            uri = ImageSource(uri, box=(round(left), round(top), round(left + width), round(top + height))).uri
        split = "train" if as_number(class_id, labelled.name) <= TRAINED else "test"
        yield Row(path, uri, name_of[class_id], split)
