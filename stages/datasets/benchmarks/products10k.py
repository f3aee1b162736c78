"""Products-10K.

::

    train.csv               name, class, group                train/<name>
    test_kaggletest.csv     name, class, Usage (or test.csv)  test/<name>
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
class Products10kBenchmark(BenchmarkConfig):
    """Products-10K: 9,691 products; each test image searches for its product among the training images.

    A label is the class, a key the image's path; ``attributes.group`` is the kind of product, which the training
    list has for each class. The products of test are those of train: for unseen ones split = "class-disjoint".
    """

    kind: Literal["products10k"] = "products10k"

    title: ClassVar[str] = "Products-10K"
    distributor: ClassVar[str] = "JD AI Research (also as a Kaggle competition)"
    roles: ClassVar[Roles] = {"train": ("train",), "query": ("test",), "gallery": ("train",)}

    def rows(self) -> Iterator[Row]:
        """The images of ``train.csv``, then of the test list."""
        train, test = self.file("train.csv"), self.file("test_kaggletest.csv", "test.csv")
        names, classes, groups = read_named_columns(train, "name", "class", "group")
        group_of_class = dict(zip(classes, groups, strict=True))
        test_names, test_classes = read_named_columns(test, "name", "class")
        for split, path, images, labels in (("train", train, names, classes), ("test", test, test_names, test_classes)):
            folder = self.folder(f"{split}/{split}", split)
            for row, (name, label) in enumerate(zip(images, labels, strict=True), 1):
                if name is None or label is None:
                    raise RecordsError(f"{path}, row {row}: the name or the class is empty")
                attributes = {"group": group_of_class.get(label)}
                yield Row(f"{split}/{name}", str(folder / name), label, split, attributes=attributes)
