"""Stanford Online Products.

::

    Ebay_train.txt  Ebay_test.txt     image_id class_id super_class_id path
    bicycle_final/  cabinet_final/  chair_final/  ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row
from stages.datasets.benchmarks.files import read_words


@dataclass(frozen=True, kw_only=True)
class SopBenchmark(BenchmarkConfig):
    """Stanford Online Products: 59,551 images of 11,318 classes to train, 60,502 of 11,316 others to test.

    A label is the class id, a key the image's path, ``attributes.super_class`` the kind of product.
    """

    kind: Literal["sop"] = "sop"

    title: ClassVar[str] = "Stanford Online Products"
    distributor: ClassVar[str] = "Stanford (Deep Metric Learning via Lifted Structure)"

    def rows(self) -> Iterator[Row]:
        """The images of the training list, then of the test list."""
        folders: set[str] = set()
        for split in ("train", "test"):
            for _, label, _, path in read_words(self.file(f"Ebay_{split}.txt"), 4, skip=1):
                folder = path.split("/")[0]
                if folder not in folders:
                    self.folder(folder)
                    folders.add(folder)
                attributes = {"super_class": folder.removesuffix("_final")}
                yield Row(path, str(self.root / path), label, split, attributes=attributes)
