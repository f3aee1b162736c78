"""Stanford Online Products.

::

    Ebay_train.txt  Ebay_test.txt     image_id class_id super_class_id path
    bicycle_final/  cabinet_final/  chair_final/  ...
"""

from __future__ import annotations

from collections.abc import Iterator

from stages.datasets.benchmarks.layout import Layout, read_words
from stages.datasets.benchmarks.rows import LEAVE_ONE_OUT, Row, as_source
from stages.datasets.config import DatasetConfig, Source


def read_sop(config: DatasetConfig) -> Source:
    """Read Stanford Online Products: 59,551 images of 11,318 classes to train, 60,502 of 11,316 others to test.

    A label is the class id, a key the image's path, ``attributes.super_class`` the kind of product.
    """
    layout = Layout.of(config, "Stanford Online Products", "Stanford (Deep Metric Learning via Lifted Structure)")
    return as_source(config, _rows(layout), LEAVE_ONE_OUT)


def _rows(layout: Layout) -> Iterator[Row]:
    seen: set[str] = set()
    for split in ("train", "test"):
        for _, label, _, path in read_words(layout.file(f"Ebay_{split}.txt"), 4, skip=1):
            folder = path.split("/")[0]
            if folder not in seen:
                layout.folder(folder)
                seen.add(folder)
            kind = folder.removesuffix("_final")
            yield Row(path, str(layout.root / path), label, split, attributes={"super_class": kind})
