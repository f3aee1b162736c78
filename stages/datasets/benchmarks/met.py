"""The Met dataset: exhibits of the Metropolitan Museum, and photographs of visitors.

::

    ground_truth/MET_database.json                  id, path          (or at the top)
    ground_truth/testset.json  valset.json          path, and MET_id where it shows an exhibit
    images/MET/34/0.jpg                             (or MET/ at the top; likewise the next)
    images/test_met/  test_other/  test_noart/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row
from stages.datasets.benchmarks.files import read_entries
from stages.datasets.config import Roles


@dataclass(frozen=True, kw_only=True)
class MetBenchmark(BenchmarkConfig):
    """Met: 397,121 images of 224,408 exhibits to train on and to search, 129 and 1,003 Met queries.

    A label is the exhibit's id, a key the image's path in the ground truth. Queries of no exhibit have no label: their
    splits, and roles, are ``validation_query_distractor`` and ``query_distractor``, which only the protocol ``met``
    searches with. ``attributes.origin`` is ``test_other`` (other art) or ``test_noart``; of a Met query ``test_met``.
    """

    kind: Literal["met"] = "met"

    title: ClassVar[str] = "the Met dataset"
    distributor: ClassVar[str] = "the Visual Recognition Group of CTU in Prague (CMP)"
    roles: ClassVar[Roles] = {
        "train": ("exhibit",),
        "validation_query": ("validation_query",),
        "validation_gallery": ("exhibit",),
        "query": ("query",),
        "gallery": ("exhibit",),
        "validation_query_distractor": ("validation_query_distractor",),
        "query_distractor": ("query_distractor",),
    }

    def rows(self) -> Iterator[Row]:
        """The exhibits, then the queries of validation and of the test."""
        lists = {
            name: self.file(f"ground_truth/{name}.json", f"{name}.json")
            for name in ("MET_database", "valset", "testset")
        }
        images = self.folder("images/MET", "MET").parent
        for entry in read_entries(lists["MET_database"], "id", "path"):
            yield Row(entry["path"], str(images / entry["path"]), str(entry["id"]), "exhibit")
        for name, split in (("valset", "validation_query"), ("testset", "query")):
            for entry in read_entries(lists[name], "path"):
                path, exhibit = entry["path"], entry.get("MET_id")
                label, part = (None, f"{split}_distractor") if exhibit is None else (str(exhibit), split)
                yield Row(path, str(images / path), label, part, attributes={"origin": path.split("/")[0]})
