"""Food2K.

::

    train_finetune.txt  val_finetune.txt  test_finetune.txt       path class, a line an image; (or in meta_data/)
    0/ ... 1999/                                                  (or in images/, or Food2k_complete/)
"""

from __future__ import annotations

from collections.abc import Iterator

from stages.datasets.benchmarks.layout import Layout, read_words
from stages.datasets.benchmarks.rows import Row, as_source
from stages.datasets.config import DatasetConfig, Source

ROLES = {
    "train": ("train",),
    "validation_query": ("val",),
    "validation_gallery": ("val",),
    "query": ("test",),
    "gallery": ("test",),
}


def read_food2k(config: DatasetConfig) -> Source:
    """Read Food2K, dishes of 2,000 classes: images of ``test`` are searched for among themselves, likewise of ``val``.

    A label is the class's number, a key the image's path. The classes of the three lists are the same; to test on
    unseen ones take split = "class-disjoint", or the splits of ``uned``.
    """
    layout = Layout.of(config, "Food2K", "the Institute of Computing Technology, Chinese Academy of Sciences (ICT)")
    return as_source(config, _rows(layout), ROLES)


def _rows(layout: Layout) -> Iterator[Row]:
    lists = {
        split: layout.file(*(f"{place}{split}_finetune.txt" for place in ("", "meta_data/", "Food2k_complete/")))
        for split in ("train", "val", "test")
    }
    tops = ("", "images/", "Food2k_complete/", "Food2k_complete_jpg/")
    images = None
    for split, listed in lists.items():
        for path, label in read_words(listed, 2):
            path = path.removeprefix("/")
            if images is None:
                folder = path.split("/")[0]
                images = layout.folder(*(f"{top}{folder}" for top in tops)).parent
            yield Row(path, str(images / path), label, split)
