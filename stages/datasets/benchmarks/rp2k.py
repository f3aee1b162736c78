"""RP2K, a folder a product on the shelf.

::

    all/train/<product>/<image>      (or train/ and test/ at the top)
    all/test/<product>/<image>
"""

from __future__ import annotations

from dataclasses import replace

from stages.datasets.benchmarks.layout import Layout
from stages.datasets.benchmarks.rows import LEAVE_ONE_OUT
from stages.datasets.config import CLASS_DISJOINT, DatasetConfig, Source
from stages.datasets.folder import read_folder


def read_rp2k(config: DatasetConfig) -> Source:
    """Read RP2K: heads learn from the ``train`` folder, the images of ``test`` are searched for among themselves.

    A label is the product's folder. The products of both folders are the same; to test on unseen ones take
    split = "class-disjoint", or the splits of ``uned``.
    """
    layout = Layout.of(config, "RP2K", "Pinlan Data Technology")
    root = layout.folder("all/train", "rp2k_dataset/all/train", "train").parent
    layout.folder(str((root / "test").relative_to(layout.root)))
    source = read_folder(replace(config, kind="folder", path=str(root), split="folder"))
    own = config.split != CLASS_DISJOINT
    return Source(source.table, own, LEAVE_ONE_OUT if own else None)
