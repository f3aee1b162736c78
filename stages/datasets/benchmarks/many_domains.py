"""Benchmarks of several domains at once: UnED and M4D-35k."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row, as_list, read_entries, read_named_columns
from stages.datasets.config import Roles, Source

# The list of each domain that its validation queries search, and that its test queries search.
SEARCHED = {
    "cars": ("val", "test"),
    "sop": ("val", "test"),
    "inshop": ("val", "index"),
    "inat": ("val", "test"),
    "met": ("small_index", "index"),
    "gldv2": ("val", "index"),
    "food2k": ("val", "test"),
    "rp2k": ("val", "test"),
}
_ROLES = ("train", "validation_query", "validation_gallery", "query", "gallery")


@dataclass(frozen=True, kw_only=True)
class UnedBenchmark(BenchmarkConfig):
    """UnED: the domains of ``info_files``, all eight or some; 241,986 queries search one merged index.

    A label is the class id, within its domain; a key the image's path. A split names the roles of its images, joined by
    ``+``: ``train``, ``query+gallery`` (leave-one-out), ``train+gallery`` (Met, whose index is what is trained on), ...
    Where an image shows several landmarks the label is the first, and ``attributes.landmarks`` has them all, a JSON
    list.
    """

    kind: Literal["uned"] = "uned"
    origin: ClassVar[str] = "UnED of the Visual Recognition Group of CTU in Prague (its info_files.zip)"

    def _rows(self) -> Iterator[Row]:
        self.folder("info_files")
        domains = [domain for domain in SEARCHED if self.has(f"info_files/{domain}")]
        if not domains:
            self.folder("info_files/cars")
        for domain in domains:
            yield from self._domain(domain)

    def read(self) -> Source:
        """As of every benchmark; each role takes the splits that name it."""
        source = super().read()
        if source.roles is None:
            return source
        splits = sorted(source.table["split"].unique().to_pylist())
        return source._replace(roles={role: tuple(s for s in splits if role in s.split("+")) for role in _ROLES})

    def _domain(self, domain: str) -> Iterator[Row]:
        validated, searched = SEARCHED[domain]
        lists: dict[str, list[str]] = {}  # the roles of each list
        for role, name in zip(_ROLES, ("train", "val", validated, "test", searched), strict=True):
            lists.setdefault(name, []).append(role)
        classes: dict[str, list[str]] = {}
        roles: dict[str, set[str]] = {}
        for name, list_roles in lists.items():
            path = self.file(f"info_files/{domain}/{name}.json")
            for entry in read_entries(path, "path", "class_id"):
                value = entry["class_id"]
                labels = [str(label) for label in (value if isinstance(value, list) else [value])]
                if not labels or classes.setdefault(entry["path"], labels) != labels:
                    raise RecordsError(
                        f"{path}: {entry['path']} is of {labels}, and of {classes[entry['path']]} before"
                    )
                roles.setdefault(entry["path"], set()).update(list_roles)
        images = self.folder("images")
        for top in sorted({name.split("/")[0] for name in classes}):
            self.folder(f"images/{top}")
        for name, labels in classes.items():
            attributes = {"landmarks": as_list(labels)} if len(labels) > 1 else {}
            split = "+".join(role for role in _ROLES if role in roles[name])
            yield Row(name, _image(images, name), labels[0], split, domain, attributes)


def _image(images: Path, name: str) -> str:
    """Where the image is. RP2K has Chinese file names, which some unpackers write as ``#U4e2d``."""
    if name.isascii() or (images / name).exists():
        return str(images / name)
    escaped = "".join(letter if letter.isascii() else f"#U{ord(letter):04x}" for letter in name)
    return str(images / (escaped if (images / escaped).exists() else name))


@dataclass(frozen=True, kw_only=True)
class M4d35kBenchmark(BenchmarkConfig):
    """M4D-35k: 328,400 images, all of them to train on. A domain is the first folder of the path, a key the path.

    There is nothing to test on: split = "class-disjoint" sets some of the classes aside for that.
    """

    kind: Literal["m4d35k"] = "m4d35k"
    origin: ClassVar[str] = "M4D-35k of the UniFEx repository (the images: their own distributors)"
    roles: ClassVar[Roles] = {"train": ("train",)}

    def _rows(self) -> Iterator[Row]:
        path = self.file("m4d-35k_train.csv", "data/m4d-35k_train.csv")
        check_folder = cache(self.folder)
        for row, (image, label) in enumerate(zip(*read_named_columns(path, "img_path", "label"), strict=True), 1):
            if image is None:
                raise RecordsError(f"{path}, row {row}: img_path is empty")
            domain = image.split("/")[0]
            check_folder(domain)
            yield Row(image, str(self.root / image), label, "train", domain)
