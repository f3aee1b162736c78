"""Revisited Oxford and Paris (Radenovic et al. 2018).

::

    gnd_roxford5k.pkl       imlist, qimlist, gnd: bbx, easy, hard, junk       (or gnd_rparis6k.pkl)
    jpg/all_souls_000013.jpg
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from cache import ImageSource
from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row, as_list
from stages.datasets.benchmarks.files import checked_entries
from stages.datasets.benchmarks.pickles import read_plain_pickle
from stages.datasets.config import Roles

TRUTHS = ("easy", "hard", "junk")


@dataclass(frozen=True, kw_only=True)
class RevisitedBenchmark(BenchmarkConfig):
    """Revisited Oxford (4,993 images) or Paris (6,322): 70 queries, each cut to its box. Nothing to train on.

    A key is the image's name. ``attributes.easy``, ``attributes.hard`` and ``attributes.junk`` of a query are the keys
    of the ground truth, JSON lists, which the protocols score by. A label is an approximation of them: a query's is
    its landmark, ``all_souls``; a gallery image has that of the queries it is easy or hard for, and none where there
    is no such query, or are several landmarks.
    """

    kind: Literal["roxford5k", "rparis6k"]

    title: ClassVar[str] = "Revisited Oxford and Paris"
    distributor: ClassVar[str] = "its authors (revisitop, CTU in Prague; the images: VGG, University of Oxford)"
    roles: ClassVar[Roles] = {"query": ("query",), "gallery": ("gallery",)}

    def rows(self) -> Iterator[Row]:
        """The queries, then the gallery."""
        path = self.file(f"gnd_{self.kind}.pkl")
        images = self.folder("jpg")
        content = read_plain_pickle(path)
        if not isinstance(content, dict) or not {"imlist", "qimlist", "gnd"} <= content.keys():
            raise RecordsError(f"{path} must hold a dict with imlist, qimlist and gnd")
        keys, queries = [str(key) for key in content["imlist"]], [str(key) for key in content["qimlist"]]
        truths = checked_entries(content["gnd"], f"{path}, gnd", "bbx", *TRUTHS)
        if len(queries) != len(truths):
            raise RecordsError(f"{path}: qimlist has {len(queries)} queries and gnd {len(truths)}")
        landmarks: dict[str, set[str]] = defaultdict(set)  # what each gallery image shows
        for query, truth in zip(queries, truths, strict=True):
            judged = {name: _keys(truth[name], keys, f"{path}: {name} of {query}") for name in TRUTHS}
            for key in (*judged["easy"], *judged["hard"]):
                landmarks[key].add(_landmark(query))
            box = [round(float(side)) for side in truth["bbx"]]
            if len(box) != 4:
                raise RecordsError(f"{path}: bbx of {query} must be left, top, right, bottom, got {box}")
            left, top, right, bottom = box
            uri = ImageSource(f"{images}/{query}.jpg", box=(left, top, right, bottom)).uri
            attributes = {name: as_list(judged[name]) for name in TRUTHS}
            yield Row(query, uri, _landmark(query), "query", attributes=attributes)
        for key in keys:
            label = next(iter(landmarks[key])) if len(landmarks[key]) == 1 else None
            yield Row(key, f"{images}/{key}.jpg", label, "gallery")


def _keys(places: Any, keys: list[str], where: str) -> list[str]:
    """The keys at 0-based ``places``."""
    numbers = [int(place) for place in np.asarray(places).ravel()]
    if not all(0 <= place < len(keys) for place in numbers):
        raise RecordsError(f"{where} must be places in imlist, 0 to {len(keys) - 1}, got {numbers}")
    return [keys[place] for place in numbers]


def _landmark(query: str) -> str:
    """``all_souls`` of ``all_souls_000013``."""
    return query.rpartition("_")[0] or query
