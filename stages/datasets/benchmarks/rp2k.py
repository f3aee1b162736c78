"""RP2K, a folder a product on the shelf.

::

    all/train/<product>/<image>      (or train/ and test/ at the top)
    all/test/<product>/<image>
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row
from stages.datasets.folder import FolderConfig


@dataclass(frozen=True, kw_only=True)
class Rp2kBenchmark(BenchmarkConfig):
    """RP2K: heads learn from the ``train`` folder; the images of ``test`` are searched for among themselves.

    A label is the product's folder. The products of both folders are the same; to test on unseen ones take
    split = "class-disjoint", or the splits of ``uned``.
    """

    kind: Literal["rp2k"] = "rp2k"

    title: ClassVar[str] = "RP2K"
    distributor: ClassVar[str] = "Pinlan Data Technology"

    def rows(self) -> Iterator[Row]:
        """The images of each folder, by path."""
        for split in ("train", "test"):
            folder = self.folder(f"all/{split}", f"rp2k_dataset/all/{split}", split)
            table = FolderConfig(path=str(folder)).read().table
            for key, uri, label in zip(*(table[name].to_pylist() for name in ("key", "uri", "label")), strict=True):
                yield Row(f"{split}/{key}", uri, label, split)
