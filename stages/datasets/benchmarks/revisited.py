"""Revisited Oxford and Paris (Radenovic et al. 2018).

::

    gnd_roxford5k.pkl       imlist, qimlist, gnd: bbx, easy, hard, junk       (or gnd_rparis6k.pkl)
    jpg/all_souls_000013.jpg
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from cache import ImageSource
from cache.errors import RecordsError
from stages.datasets.benchmarks.layout import Layout, checked_entries
from stages.datasets.benchmarks.pickles import read_plain_pickle
from stages.datasets.benchmarks.rows import Row, as_list, as_source
from stages.datasets.config import DatasetConfig, Source

ROLES = {"query": ("query",), "gallery": ("gallery",)}
TRUTHS = ("easy", "hard", "junk")


def read_revisited(config: DatasetConfig) -> Source:
    """Read Revisited Oxford (4,993 images) or Paris (6,322): 70 queries, each cut to its box. Nothing to train on.

    A key is the image's name. ``attributes.easy``, ``attributes.hard`` and ``attributes.junk`` of a query are the keys
    of the ground truth, JSON lists: the protocols follow from them. A label is only their outline: a query's is
    its landmark, ``all_souls``; a gallery image has that of the queries it is easy or hard for, and none where there
    is no such query, or are several landmarks.
    """
    name = {"roxford5k": "Revisited Oxford", "rparis6k": "Revisited Paris"}[config.kind]
    layout = Layout.of(config, name, "its authors (revisitop, CTU in Prague; the images: VGG, University of Oxford)")
    return as_source(config, _rows(layout), ROLES)


def _rows(layout: Layout) -> Iterator[Row]:
    path = layout.file(f"gnd_{layout.kind}.pkl")
    images = layout.folder("jpg")
    found = read_plain_pickle(path)
    if not isinstance(found, dict) or not {"imlist", "qimlist", "gnd"} <= found.keys():
        raise RecordsError(f"{path} must hold a dict with imlist, qimlist and gnd")
    keys, queries = [str(key) for key in found["imlist"]], [str(key) for key in found["qimlist"]]
    truths = checked_entries(found["gnd"], f"{path}, gnd", "bbx", *TRUTHS)
    if len(queries) != len(truths):
        raise RecordsError(f"{path}: qimlist has {len(queries)} queries and gnd {len(truths)}")
    landmarks: dict[str, set[str]] = defaultdict(set)  # what each gallery image shows
    asked = []
    for query, truth in zip(queries, truths, strict=True):
        told = {name: _keys(truth[name], keys, f"{path}: {name} of {query}") for name in TRUTHS}
        for key in (*told["easy"], *told["hard"]):
            landmarks[key].add(_landmark(query))
        box = [round(float(side)) for side in truth["bbx"]]
        if len(box) != 4:
            raise RecordsError(f"{path}: bbx of {query} must be left, top, right, bottom, got {box}")
        left, top, right, bottom = box
        uri = ImageSource(f"{images}/{query}.jpg", box=(left, top, right, bottom)).uri
        about = {name: as_list(told[name]) for name in TRUTHS}
        asked.append(Row(query, uri, _landmark(query), "query", attributes=about))
    yield from asked
    for key in keys:
        label = next(iter(landmarks[key])) if len(landmarks[key]) == 1 else None
        yield Row(key, f"{images}/{key}.jpg", label, "gallery")


def _keys(places: Any, keys: list[str], where: str) -> list[str]:
    """The keys at 0-based ``places``."""
    found = [int(place) for place in np.asarray(places).ravel()]
    if not all(0 <= place < len(keys) for place in found):
        raise RecordsError(f"{where} must be places in imlist, 0 to {len(keys) - 1}, got {found}")
    return [keys[place] for place in found]


def _landmark(query: str) -> str:
    """``all_souls`` of ``all_souls_000013``."""
    return query.rpartition("_")[0] or query
