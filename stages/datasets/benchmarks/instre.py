"""INSTRE, by the protocol of Iscen et al. (2017).

::

    gnd_instre.mat                             imlist, qimlist, gnd: 1-based positives in imlist, box of the query
    INSTRE-S1/01a_canada_book/013.jpg          INSTRE-S2/...        INSTRE-M/...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from cache import ImageSource
from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row, as_list
from stages.datasets.benchmarks.matlab import read_matlab
from stages.datasets.config import Roles


@dataclass(frozen=True, kw_only=True)
class InstreBenchmark(BenchmarkConfig):
    """INSTRE: 1,250 queries, each cut to its box, search 27,293 images. There is nothing to train on.

    A label is the folder, a key the image's path. Images of INSTRE-M show two objects of INSTRE-S1, so one label is
    not enough: ``attributes.relevant`` of a query has the keys of its positives, a JSON list.
    """

    kind: Literal["instre"] = "instre"

    title: ClassVar[str] = "INSTRE"
    distributor: ClassVar[str] = "its authors (ICT, and re-hosted by IRISA); gnd_instre.mat by Iscen et al."
    roles: ClassVar[Roles] = {"query": ("query",), "gallery": ("gallery",)}

    def rows(self) -> Iterator[Row]:
        """The gallery, then the queries."""
        path = self.file("gnd_instre.mat")
        images = self.folder("INSTRE-S1", "INSTRE_release/INSTRE-S1").parent
        names, queries, truths = read_matlab(path, "imlist", "qimlist", "gnd")
        if len(queries) != len(truths):
            raise RecordsError(f"{path}: qimlist has {len(queries)} queries and gnd {len(truths)}")
        keys = [str(name) for name in names]
        for key in keys:
            yield Row(key, str(images / key), _label(key), "gallery")
        for query, truth in zip(map(str, queries), truths, strict=True):
            positives, box = _truth(truth)
            if len(box) != 4 or not all(1 <= place <= len(keys) for place in positives):
                raise RecordsError(f"{path}: the ground truth of {query} is no box and places in 1 to {len(keys)}")
            left, top, right, bottom = box
            uri = ImageSource(str(images / query), box=(left, top, right, bottom)).uri
            relevant = as_list(keys[place - 1] for place in positives)
            yield Row(query, uri, _label(query), "query", attributes={"relevant": relevant})


def _truth(truth: Any) -> tuple[list[int], list[int]]:
    """The 1-based places of the positives, and the box: left, top, right, bottom."""
    positives, box = (np.atleast_1d(truth[field]).ravel() for field in range(2))
    return [int(place) for place in positives], [round(float(side)) for side in box]


def _label(key: str) -> str:
    return key.rpartition("/")[0]
