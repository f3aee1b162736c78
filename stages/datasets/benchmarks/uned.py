"""UnED, eight benchmarks with one split: the merged protocol for embeddings of any kind of object.

::

    info_files/cars/train.json  val.json  test.json          path, class_id
    info_files/met/...          small_index.json  index.json
    images/cars/car_ims/...     images/deepfashion/inshop/img/...     images/gldv2/images/index/...
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cache.errors import RecordsError
from stages.datasets.benchmarks.layout import Layout, read_entries
from stages.datasets.benchmarks.rows import Row, as_list, as_source
from stages.datasets.config import DatasetConfig, Source

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


def read_uned(config: DatasetConfig) -> Source:
    """Read UnED: the domains of ``info_files``, all eight or some; 241,986 queries search one merged index.

    A label is the class id, within its domain; a key the image's path. A split names the roles of its images, joined
    by ``+``: ``train``, ``query+gallery`` (leave-one-out), ``train+gallery`` (Met, whose index is what is trained
    on), ... Where an image shows several landmarks the label is the first, and ``attributes.landmarks`` has them all,
    a JSON list.
    """
    layout = Layout.of(config, "UnED", "the Visual Recognition Group of CTU in Prague (its info_files.zip)")
    rows = list(_rows(layout))
    splits = {row.split for row in rows}
    roles = {role: tuple(sorted(split for split in splits if role in split.split("+"))) for role in _ROLES}
    return as_source(config, rows, roles)


def _rows(layout: Layout) -> Iterator[Row]:
    layout.folder("info_files")
    domains = [domain for domain in SEARCHED if layout.has(f"info_files/{domain}")]
    if not domains:
        layout.folder("info_files/cars")
    for domain in domains:
        yield from _domain(layout, domain)


def _domain(layout: Layout, domain: str) -> Iterator[Row]:
    validated, searched = SEARCHED[domain]
    lists: dict[str, list[str]] = {}  # the roles of each list
    for role, name in zip(_ROLES, ("train", "val", validated, "test", searched), strict=True):
        lists.setdefault(name, []).append(role)
    classes: dict[str, list[str]] = {}
    roles: dict[str, set[str]] = {}
    for name, of in lists.items():
        path = layout.file(f"info_files/{domain}/{name}.json")
        for entry in read_entries(path, "path", "class_id"):
            found = entry["class_id"] if isinstance(entry["class_id"], list) else [entry["class_id"]]
            labels = [str(label) for label in found]
            if not labels or classes.setdefault(entry["path"], labels) != labels:
                raise RecordsError(f"{path}: {entry['path']} is of {labels}, and of {classes[entry['path']]} before")
            roles.setdefault(entry["path"], set()).update(of)
    images = layout.folder("images")
    for top in sorted({name.split("/")[0] for name in classes}):
        layout.folder(f"images/{top}")
    for name, labels in classes.items():
        about = {"landmarks": as_list(labels)} if len(labels) > 1 else {}
        split = "+".join(role for role in _ROLES if role in roles[name])
        yield Row(name, _found(images, name), labels[0], split, domain, about)


def _found(images: Path, name: str) -> str:
    """Where the image is. RP2K has Chinese file names, which some unpackers write as ``#U4e2d``."""
    if name.isascii() or (images / name).exists():
        return str(images / name)
    escaped = "".join(letter if letter.isascii() else f"#U{ord(letter):04x}" for letter in name)
    return str(images / (escaped if (images / escaped).exists() else name))
