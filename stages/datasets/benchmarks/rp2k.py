"""RP2K, a folder a product on the shelf.

::

    all/train/<product>/<image>      (or train/ and test/ at the top)
    all/test/<product>/<image>
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stages.datasets.benchmarks.layout import Layout
from stages.datasets.benchmarks.rows import LEAVE_ONE_OUT, Row, as_source
from stages.datasets.config import DatasetConfig, Source
from stages.datasets.folder import read_folder


def read_rp2k(config: DatasetConfig) -> Source:
    """Read RP2K: heads learn from the ``train`` folder, the images of ``test`` are searched for among themselves.

    A label is the product's folder. The products of both folders are the same; to test on unseen ones take
    split = "class-disjoint", or the splits of ``uned``.
    """
    return as_source(config, _rows(config), LEAVE_ONE_OUT)


def _rows(config: DatasetConfig) -> Iterator[Row]:
    layout = Layout.of(config, "RP2K", "Pinlan Data Technology")
    for split in ("train", "test"):
        folder = layout.folder(f"all/{split}", f"rp2k_dataset/all/{split}", split)
        table = read_folder(replace(config, kind="folder", path=str(folder), split=None)).table
        for key, uri, label in zip(*(table[name].to_pylist() for name in ("key", "uri", "label")), strict=True):
            yield Row(f"{split}/{key}", uri, label, split)
