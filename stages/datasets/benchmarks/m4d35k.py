"""M4D-35k, the training set of UniFEx: four domains, 34,800 classes.

::

    m4d-35k_train.csv                     img_path, label
    products-10k/  google_landmark_recognition_2021/  deepfashion/  stanford_cars/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row
from stages.datasets.benchmarks.files import read_named_columns
from stages.datasets.config import Roles


@dataclass(frozen=True, kw_only=True)
class M4d35kBenchmark(BenchmarkConfig):
    """M4D-35k: 328,400 images, all of them to train on. A domain is the first folder of the path, a key the path.

    There is nothing to test on: split = "class-disjoint" sets some of the classes aside for that.
    """

    kind: Literal["m4d35k"] = "m4d35k"

    title: ClassVar[str] = "M4D-35k"
    distributor: ClassVar[str] = "the UniFEx repository (the images: their own distributors)"
    roles: ClassVar[Roles] = {"train": ("train",)}

    def rows(self) -> Iterator[Row]:
        """The images of the table, in its order."""
        path = self.file("m4d-35k_train.csv", "data/m4d-35k_train.csv")
        domains: set[str] = set()
        for row, (image, label) in enumerate(zip(*read_named_columns(path, "img_path", "label"), strict=True), 1):
            if image is None:
                raise RecordsError(f"{path}, row {row}: img_path is empty")
            domain = image.split("/")[0]
            if domain not in domains:
                self.folder(domain)
                domains.add(domain)
            yield Row(image, str(self.root / image), label, "train", domain)
