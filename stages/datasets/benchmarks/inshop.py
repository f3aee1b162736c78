"""DeepFashion In-Shop Clothes Retrieval.

::

    Eval/list_eval_partition.txt      52712, then: image_name item_id evaluation_status
    img/  or  Img/img/                WOMEN/Dresses/id_00000002/02_1_front.jpg
"""

from __future__ import annotations

from collections.abc import Iterator

from cache.errors import RecordsError
from stages.datasets.benchmarks.layout import Layout, read_words
from stages.datasets.benchmarks.rows import Row, as_source
from stages.datasets.config import DatasetConfig, Source

ROLES = {name: (name,) for name in ("train", "query", "gallery")}


def read_inshop(config: DatasetConfig) -> Source:
    """Read In-Shop: 25,882 images to train, 14,218 queries, 12,612 in the gallery, of other items.

    A label is the item id, a key the image's name in the list; attributes are ``gender`` and ``category``.
    """
    layout = Layout.of(config, "DeepFashion In-Shop Clothes Retrieval", "the Multimedia Lab of CUHK (MMLab)")
    return as_source(config, _rows(layout), ROLES)


def _rows(layout: Layout) -> Iterator[Row]:
    listed = layout.file("Eval/list_eval_partition.txt", "list_eval_partition.txt")
    images = layout.folder("img", "Img/img").parent
    for name, item, split in read_words(listed, 3, skip=2):
        if split not in ROLES:
            raise RecordsError(f"{listed}: {name} is in {split!r}; expected train, query or gallery")
        parts = name.split("/")  # img/WOMEN/Dresses/id_00000002/02_1_front.jpg
        about = {"gender": parts[1], "category": parts[2]} if len(parts) == 5 else {}
        yield Row(name, str(images / name), item, split, attributes=about)
