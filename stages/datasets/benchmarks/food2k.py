"""Food2K.

::

    train_finetune.txt  val_finetune.txt  test_finetune.txt       path class, a line an image; (or in meta_data/)
    0/ ... 1999/                                                  (or in images/, or Food2k_complete/)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row
from stages.datasets.benchmarks.files import read_words
from stages.datasets.config import Roles


@dataclass(frozen=True, kw_only=True)
class Food2kBenchmark(BenchmarkConfig):
    """Food2K, dishes of 2,000 classes: images of ``test`` are searched for among themselves, likewise of ``val``.

    A label is the class's number, a key the image's path. The classes of the three lists are the same; to test on
    unseen ones take split = "class-disjoint", or the splits of ``uned``.
    """

    kind: Literal["food2k"] = "food2k"

    title: ClassVar[str] = "Food2K"
    distributor: ClassVar[str] = "the Institute of Computing Technology, Chinese Academy of Sciences (ICT)"
    roles: ClassVar[Roles] = {
        "train": ("train",),
        "validation_query": ("val",),
        "validation_gallery": ("val",),
        "query": ("test",),
        "gallery": ("test",),
    }

    def rows(self) -> Iterator[Row]:
        """The images of the three lists, in their order."""
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
