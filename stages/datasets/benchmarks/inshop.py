"""DeepFashion In-Shop Clothes Retrieval.

::

    Eval/list_eval_partition.txt      52712, then: image_name item_id evaluation_status
    img/  or  Img/img/                WOMEN/Dresses/id_00000002/02_1_front.jpg
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row
from stages.datasets.benchmarks.files import read_words
from stages.datasets.config import Roles


@dataclass(frozen=True, kw_only=True)
class InshopBenchmark(BenchmarkConfig):
    """In-Shop: 25,882 images to train, 14,218 queries, 12,612 in the gallery, of other items.

    A label is the item id, a key the image's name in the list; attributes are ``gender`` and ``category``.
    """

    kind: Literal["inshop"] = "inshop"

    title: ClassVar[str] = "DeepFashion In-Shop Clothes Retrieval"
    distributor: ClassVar[str] = "the Multimedia Lab of CUHK (MMLab)"
    roles: ClassVar[Roles] = {name: (name,) for name in ("train", "query", "gallery")}

    def rows(self) -> Iterator[Row]:
        """The images of the list, in its order."""
        listed = self.file("Eval/list_eval_partition.txt", "list_eval_partition.txt")
        images = self.folder("img", "Img/img").parent
        for name, item, split in read_words(listed, 3, skip=2):
            if split not in self.roles:
                raise RecordsError(f"{listed}: {name} is in {split!r}; expected train, query or gallery")
            parts = name.split("/")  # img/WOMEN/Dresses/id_00000002/02_1_front.jpg
            attributes = {"gender": parts[1], "category": parts[2]} if len(parts) == 5 else {}
            yield Row(name, str(images / name), item, split, attributes=attributes)
