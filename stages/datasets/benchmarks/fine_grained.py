"""Kinds and products that look alike: Cars196, CUB, Food2K, iNaturalist 2018, SOP, In-Shop, Products-10K, RP2K."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy.typing as npt

from cache import ImageSource
from cache.errors import RecordsError
from cache.source import Box
from stages.datasets.benchmarks.benchmark import (
    BenchmarkConfig,
    Row,
    as_number,
    checked_entries,
    read_fields,
    read_json,
    read_matlab,
    read_named_columns,
    read_words,
)
from stages.datasets.config import Roles
from stages.datasets.folder import FolderConfig

_SIDES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


@dataclass(frozen=True, kw_only=True)
class Cars196Benchmark(BenchmarkConfig):
    """Cars196: 8,054 images of the first 98 models to train, 8,131 of the last 98 to test.

    In one folder, ``cars_annos.mat`` and ``car_ims``, or in ``devkit``, ``cars_train`` and ``cars_test``. A label is
    the model with its number, ``001 AM General Hummer SUV 2000``; a key the image's path.

    Attributes:
        crop: cut every image to the box of the car.
    """

    kind: Literal["cars196"] = "cars196"
    crop: bool = False
    origin: ClassVar[str] = "Stanford Cars (Cars196) of Stanford (Krause)"

    def _rows(self) -> Iterator[Row]:
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
    names, numbers, *sides = read_fields(path, annotations, image, "class", *_SIDES)
    for name, number, left, top, right, bottom in zip(names, numbers, *sides, strict=True):
        if not 1 <= number <= len(models):
            raise RecordsError(f"{path}: {name} is of class {number}, and there are {len(models)} class names")
        label = f"{number:03d} {models[number - 1]}"
        # MATLAB counts pixels from 1, and the right and bottom ones are still in the box.
        box = int(left) - 1, int(top) - 1, int(right), int(bottom)
        yield str(name), label, "train" if number <= 98 else "test", box


@dataclass(frozen=True, kw_only=True)
class Cub200Benchmark(BenchmarkConfig):
    """CUB: 5,864 images of the first 100 classes to train, 5,924 of the last 100 to test.

    A label is the class's name, a key the image's path below ``images``.

    Attributes:
        crop: cut every image to the box of the bird.
    """

    kind: Literal["cub200"] = "cub200"
    crop: bool = False
    origin: ClassVar[str] = "CUB-200-2011 of Caltech (CUB_200_2011.tgz)"

    def _rows(self) -> Iterator[Row]:
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
            split = "train" if as_number(class_id, labelled.name) <= 100 else "test"
            yield Row(path, uri, names[class_id], split)


@dataclass(frozen=True, kw_only=True)
class Food2kBenchmark(BenchmarkConfig):
    """Food2K, dishes of 2,000 classes: images of ``test`` are searched for among themselves, likewise of ``val``.

    A label is the class's number, a key the image's path. The classes of the three lists are the same; to test on
    unseen ones take split = "class-disjoint", or the splits of ``uned``.
    """

    kind: Literal["food2k"] = "food2k"
    origin: ClassVar[str] = "Food2K of the Institute of Computing Technology, CAS (ICT)"
    roles: ClassVar[Roles] = {
        "train": ("train",),
        "validation_query": ("val",),
        "validation_gallery": ("val",),
        "query": ("test",),
        "gallery": ("test",),
    }

    def _rows(self) -> Iterator[Row]:
        lists = {
            split: self.file(*(f"{place}{split}_finetune.txt" for place in ("", "meta_data/", "Food2k_complete/")))
            for split in ("train", "val", "test")
        }
        tops = ("", "images/", "Food2k_complete/", "Food2k_complete_jpg/")
        images = None
        for split, listed in lists.items():
            for path, label in read_words(listed, 2):
                path = path.removeprefix("/")
                if images is None:
                    images = self.folder(*(f"{top}{path.split('/')[0]}" for top in tops)).parent
                yield Row(path, str(images / path), label, split)


@dataclass(frozen=True, kw_only=True)
class Inat2018Benchmark(BenchmarkConfig):
    """iNaturalist 2018: 325,846 images of 5,690 species to train, 136,093 of 2,452 others to test.

    A label is the category id, a key the image's path; ``attributes.supercategory`` is the kingdom or class, Aves.
    """

    kind: Literal["inat2018"] = "inat2018"
    origin: ClassVar[str] = "iNaturalist 2018 of Visipedia (its splits: the Smooth-AP repository)"

    def _rows(self) -> Iterator[Row]:
        lists = {
            split: self.file(f"Inat_dataset_splits/Inaturalist_{split}_set1.txt", f"Inaturalist_{split}_set1.txt")
            for split in ("train", "test")
        }
        categories = _categories(self.file("train2018.json")) | _categories(self.file("val2018.json"))
        self.folder("train_val2018")
        for split, listed in lists.items():
            for (path,) in read_words(listed, 1):
                if path not in categories:
                    raise RecordsError(f"{listed} lists {path}, which neither train2018.json nor val2018.json has")
                parts = path.split("/")  # train_val2018/Aves/2761/<hash>.jpg
                attributes = {"supercategory": parts[1] if len(parts) == 4 else None}
                yield Row(path, str(self.root / path), categories[path], split, attributes=attributes)


def _categories(path: Path) -> dict[str, str]:
    """The category of each image that an annotation file lists, by the image's path."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise RecordsError(f"{path} must hold an object with images and annotations")
    images = checked_entries(content["images"], f"{path}, images", "id", "file_name")
    annotations = checked_entries(content["annotations"], f"{path}, annotations", "image_id", "category_id")
    category = {entry["image_id"]: str(entry["category_id"]) for entry in annotations}
    return {image["file_name"]: category[image["id"]] for image in images if image["id"] in category}


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
