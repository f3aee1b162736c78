"""iNaturalist 2018, with the split by species that retrieval uses (Smooth-AP, Brown et al. 2020).

::

    train2018.json  val2018.json                                  images, annotations
    Inat_dataset_splits/Inaturalist_train_set1.txt                one path a line
    Inat_dataset_splits/Inaturalist_test_set1.txt
    train_val2018/Aves/2761/...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row
from stages.datasets.benchmarks.files import checked_entries, read_json, read_words


@dataclass(frozen=True, kw_only=True)
class Inat2018Benchmark(BenchmarkConfig):
    """iNaturalist 2018: 325,846 images of 5,690 species to train, 136,093 of 2,452 others to test.

    A label is the category id, a key the image's path; ``attributes.supercategory`` is the kingdom or class, Aves.
    """

    kind: Literal["inat2018"] = "inat2018"

    title: ClassVar[str] = "iNaturalist 2018"
    distributor: ClassVar[str] = "Visipedia (its splits: the Smooth-AP repository)"

    def rows(self) -> Iterator[Row]:
        """The images of the training list, then of the test list."""
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
