"""iNaturalist 2018, with the split by species that retrieval uses (Smooth-AP, Brown et al. 2020).

::

    train2018.json  val2018.json                                  images, annotations
    Inat_dataset_splits/Inaturalist_train_set1.txt                one path a line
    Inat_dataset_splits/Inaturalist_test_set1.txt
    train_val2018/Aves/2761/...
"""

from __future__ import annotations

from collections.abc import Iterator

from cache.errors import RecordsError
from stages.datasets.benchmarks.layout import Layout, checked_entries, read_json, read_words
from stages.datasets.benchmarks.rows import LEAVE_ONE_OUT, Row, as_source
from stages.datasets.config import DatasetConfig, Source


def read_inat2018(config: DatasetConfig) -> Source:
    """Read iNaturalist 2018: 325,846 images of 5,690 species to train, 136,093 of 2,452 others to test.

    A label is the category id, a key the image's path; ``attributes.supercategory`` is the kingdom or class, Aves.
    """
    layout = Layout.of(config, "iNaturalist 2018", "Visipedia (its splits: the Smooth-AP repository)")
    return as_source(config, _rows(layout), LEAVE_ONE_OUT)


def _rows(layout: Layout) -> Iterator[Row]:
    lists = {
        split: layout.file(f"Inat_dataset_splits/Inaturalist_{split}_set1.txt", f"Inaturalist_{split}_set1.txt")
        for split in ("train", "test")
    }
    category_of = _categories(layout, "train2018.json") | _categories(layout, "val2018.json")
    layout.folder("train_val2018")
    for split, listed in lists.items():
        for (path,) in read_words(listed, 1):
            if path not in category_of:
                raise RecordsError(f"{listed} lists {path}, which neither train2018.json nor val2018.json has")
            parts = path.split("/")  # train_val2018/Aves/2761/<hash>.jpg
            about = {"supercategory": parts[1] if len(parts) == 4 else None}
            yield Row(path, str(layout.root / path), category_of[path], split, attributes=about)


def _categories(layout: Layout, name: str) -> dict[str, str]:
    """The category of each image that an annotation file lists, by the image's path."""
    path = layout.file(name)
    found = read_json(path)
    if not isinstance(found, dict) or not {"images", "annotations"} <= found.keys():
        raise RecordsError(f"{path} must hold an object with images and annotations")
    images = checked_entries(found["images"], f"{path}, images", "id", "file_name")
    annotations = checked_entries(found["annotations"], f"{path}, annotations", "image_id", "category_id")
    category = {entry["image_id"]: str(entry["category_id"]) for entry in annotations}
    return {image["file_name"]: category[image["id"]] for image in images if image["id"] in category}
