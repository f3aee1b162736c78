"""Products-10K.

::

    train.csv               name, class, group                train/<name>
    test_kaggletest.csv     name, class, Usage (or test.csv)  test/<name>
"""

from __future__ import annotations

from collections.abc import Iterator

from cache.errors import RecordsError
from stages.datasets.benchmarks.layout import Layout, read_named_columns
from stages.datasets.benchmarks.rows import Row, as_source
from stages.datasets.config import DatasetConfig, Source

ROLES = {"train": ("train",), "query": ("test",), "gallery": ("train",)}


def read_products10k(config: DatasetConfig) -> Source:
    """Read Products-10K: 9,691 products; each test image searches for its product among the training images.

    A label is the class, a key the image's path; ``attributes.group`` is the kind of product, which the training
    list has for each class. The products of test are those of train: for unseen ones split = "class-disjoint".
    """
    layout = Layout.of(config, "Products-10K", "JD AI Research (also as a Kaggle competition)")
    return as_source(config, _rows(layout), ROLES)


def _rows(layout: Layout) -> Iterator[Row]:
    train, test = layout.file("train.csv"), layout.file("test_kaggletest.csv", "test.csv")
    names, classes, groups = read_named_columns(train, "name", "class", "group")
    group_of = dict(zip(classes, groups, strict=True))
    test_names, test_classes = read_named_columns(test, "name", "class")
    for split, path, images, labels in (("train", train, names, classes), ("test", test, test_names, test_classes)):
        folder = layout.folder(f"{split}/{split}", split)
        for row, (name, label) in enumerate(zip(images, labels, strict=True), 1):
            if name is None or label is None:
                raise RecordsError(f"{path}, row {row}: the name or the class is empty")
            about = {"group": group_of.get(label)}
            yield Row(f"{split}/{name}", str(folder / name), label, split, attributes=about)
