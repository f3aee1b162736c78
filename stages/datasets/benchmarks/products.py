"""Products for sale: SOP, In-Shop, Products-10K and RP2K."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row, read_named_columns, read_words
from stages.datasets.config import Roles
from stages.datasets.folder import FolderConfig


@dataclass(frozen=True, kw_only=True)
class SopBenchmark(BenchmarkConfig):
    """Stanford Online Products: 59,551 images of 11,318 classes to train, 60,502 of 11,316 others to test.

    A label is the class id, a key the image's path, ``attributes.super_class`` the kind of product.
    """

    kind: Literal["sop"] = "sop"
    origin: ClassVar[str] = "Stanford Online Products of Stanford (Deep Metric Learning via Lifted Structure)"

    def _rows(self) -> Iterator[Row]:
        check_folder = cache(self.folder)
        for split in ("train", "test"):
            for _, label, _, path in read_words(self.file(f"Ebay_{split}.txt"), 4, skip=1):
                folder = path.split("/")[0]
                check_folder(folder)
                attributes = {"super_class": folder.removesuffix("_final")}
                yield Row(path, str(self.root / path), label, split, attributes=attributes)


@dataclass(frozen=True, kw_only=True)
class InshopBenchmark(BenchmarkConfig):
    """In-Shop: 25,882 images to train, 14,218 queries, 12,612 in the gallery, of other items.

    A label is the item id, a key the image's name in the list; attributes are ``gender`` and ``category``.
    """

    kind: Literal["inshop"] = "inshop"
    origin: ClassVar[str] = "DeepFashion In-Shop Clothes Retrieval of the Multimedia Lab of CUHK (MMLab)"
    roles: ClassVar[Roles] = {name: (name,) for name in ("train", "query", "gallery")}

    def _rows(self) -> Iterator[Row]:
        listed = self.file("Eval/list_eval_partition.txt", "list_eval_partition.txt")
        images = self.folder("img", "Img/img").parent
        for name, item, split in read_words(listed, 3, skip=2):
            if split not in self.roles:
                raise RecordsError(f"{listed}: {name} is in {split!r}; expected train, query or gallery")
            parts = name.split("/")  # img/WOMEN/Dresses/id_00000002/02_1_front.jpg
            attributes = {"gender": parts[1], "category": parts[2]} if len(parts) == 5 else {}
            yield Row(name, str(images / name), item, split, attributes=attributes)


@dataclass(frozen=True, kw_only=True)
class Products10kBenchmark(BenchmarkConfig):
    """Products-10K: 9,691 products; each test image searches for its product among the training images.

    A label is the class, a key the image's path; ``attributes.group`` is the kind of product, which the training list
    has for each class. The products of test are those of train: for unseen ones split = "class-disjoint".
    """

    kind: Literal["products10k"] = "products10k"
    origin: ClassVar[str] = "Products-10K of JD AI Research (also a Kaggle competition)"
    roles: ClassVar[Roles] = {"train": ("train",), "query": ("test",), "gallery": ("train",)}

    def _rows(self) -> Iterator[Row]:
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


@dataclass(frozen=True, kw_only=True)
class Rp2kBenchmark(BenchmarkConfig):
    """RP2K: heads learn from the ``train`` folder; the images of ``test`` are searched for among themselves.

    A label is the product's folder. The products of both folders are the same; to test on unseen ones take split =
    "class-disjoint", or the splits of ``uned``.
    """

    kind: Literal["rp2k"] = "rp2k"
    origin: ClassVar[str] = "RP2K of Pinlan Data Technology"

    def _rows(self) -> Iterator[Row]:
        for split in ("train", "test"):
            folder = self.folder(f"all/{split}", f"rp2k_dataset/all/{split}", split)
            table = FolderConfig(path=str(folder)).read().table
            for key, uri, label in zip(*(table[name].to_pylist() for name in ("key", "uri", "label")), strict=True):
                yield Row(f"{split}/{key}", uri, label, split)
