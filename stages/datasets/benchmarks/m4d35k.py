"""M4D-35k, the training set of UniFEx: four domains, 34,800 classes.

::

    m4d-35k_train.csv                     img_path, label
    products-10k/  google_landmark_recognition_2021/  deepfashion/  stanford_cars/
"""

from __future__ import annotations

from collections.abc import Iterator

from cache.errors import RecordsError
from stages.datasets.benchmarks.layout import Layout, read_named_columns
from stages.datasets.benchmarks.rows import Row, as_source
from stages.datasets.config import DatasetConfig, Source

ROLES = {"train": ("train",)}


def read_m4d35k(config: DatasetConfig) -> Source:
    """Read M4D-35k: 328,400 images, all of them to train on. A domain is the first folder of the path, a key the path.

    There is nothing to test on: with split = "class-disjoint" some of the classes are kept for that.
    """
    layout = Layout.of(config, "M4D-35k", "the UniFEx repository (the images: their own distributors)")
    return as_source(config, _rows(layout), ROLES)


def _rows(layout: Layout) -> Iterator[Row]:
    path = layout.file("m4d-35k_train.csv", "data/m4d-35k_train.csv")
    seen: set[str] = set()
    for row, (image, label) in enumerate(zip(*read_named_columns(path, "img_path", "label"), strict=True), 1):
        if image is None:
            raise RecordsError(f"{path}, row {row}: img_path is empty")
        domain = image.split("/")[0]
        if domain not in seen:
            layout.folder(domain)
            seen.add(domain)
        yield Row(image, str(layout.root / image), label, "train", domain)
