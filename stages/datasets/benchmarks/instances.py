"""One particular object (GLDv2, Revisited Oxford and Paris, INSTRE, Met), and several domains (UnED, M4D-35k)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cache import ImageSource
from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import (
    BenchmarkConfig,
    Row,
    as_list,
    checked_entries,
    read_entries,
    read_matlab,
    read_named_columns,
    read_plain_pickle,
)
from stages.datasets.config import Roles, Source


@dataclass(frozen=True, kw_only=True)
class Gldv2Benchmark(BenchmarkConfig):
    """Google Landmarks v2: 1,580,470 clean images to train, 761,757 in the index, 1,129 retrieval queries.

    A key is the folder and the image's id, ``index/0123456789abcdef``; a label the landmark id. A query's label is the
    landmark that most of its relevant images show; ``attributes.relevant`` has the keys of its index images in the
    retrieval solution, ``attributes.landmarks`` its landmark ids in the recognition solution (JSON lists), and
    ``attributes.usage`` is Public, Private or Ignored. Test images that are no retrieval query are of the split
    ``query_distractor``, of no role and without a label. Without a ``train`` folder raw features can be scored, and no
    head trained.

    The csv files lie at the top, in ``metadata/`` and ``ground_truth/``, or with the images that they list.
    """

    kind: Literal["gldv2"] = "gldv2"
    origin: ClassVar[str] = "Google Landmarks v2 of the Common Visual Data Foundation (CVDF)"
    roles: ClassVar[Roles] = {"train": ("train",), "query": ("query",), "gallery": ("index",)}

    def _rows(self) -> Iterator[Row]:
        index, test = self.folder("index"), self.folder("test")
        if self.has("train"):
            yield from _trained(self._table("train", "train_clean.csv"), self.folder("train"))
        landmark_of = {}
        path = self._table("index", "index_image_to_landmark.csv")
        for image, landmark in zip(*read_named_columns(path, "id", "landmark_id"), strict=True):
            image = _checked(image, path)
            landmark_of[image] = landmark
            yield Row(f"index/{image}", _uri(index, image), landmark, "index")
        recognised = self._table("test", "recognition_solution_v2.1.csv")
        landmarks_of = dict(zip(*read_named_columns(recognised, "id", "landmarks"), strict=True))
        path = self._table("test", "retrieval_solution_v2.1.csv")
        for image, images, usage in zip(*read_named_columns(path, "id", "images", "Usage"), strict=True):
            image = _checked(image, path)
            relevant = images.split() if images and usage != "Ignored" else []
            landmarks = (landmarks_of.get(image) or "").split()
            attributes = {
                "relevant": as_list(f"index/{name}" for name in relevant),
                "landmarks": as_list(landmarks),
                "usage": usage,
            }
            label = _most_shown(relevant, landmark_of, landmarks)
            split = "query" if relevant else "query_distractor"
            yield Row(f"test/{image}", _uri(test, image), label, split, attributes=attributes)

    def _table(self, split: str, name: str) -> Path:
        return self.file(*(f"{place}{name}" for place in ("", "metadata/", "ground_truth/", f"{split}/")))


def _trained(path: Path, folder: Path) -> Iterator[Row]:
    for landmark, images in zip(*read_named_columns(path, "landmark_id", "images"), strict=True):
        for image in (images or "").split():
            yield Row(f"train/{image}", _uri(folder, image), landmark, "train")


def _most_shown(relevant: Sequence[str], landmark_of: dict[str, str | None], landmarks: Sequence[str]) -> str | None:
    if not relevant:
        return None
    shown = Counter(landmark for image in relevant if (landmark := landmark_of.get(image)) is not None)
    return shown.most_common(1)[0][0] if shown else next(iter(landmarks), None)


def _uri(folder: Path, image: str) -> str:
    return f"{folder}/{image[0]}/{image[1]}/{image[2]}/{image}.jpg"


def _checked(image: str | None, path: Path) -> str:
    if image is None or len(image) < 3:
        raise RecordsError(f"{path}: an id must be that of an image, 16 letters and digits, got {image!r}")
    return image


TRUTHS = ("easy", "hard", "junk")


@dataclass(frozen=True, kw_only=True)
class RevisitedBenchmark(BenchmarkConfig):
    """Revisited Oxford (4,993 images) or Paris (6,322): 70 queries, each cut to its box. Nothing to train on.

    A key is the image's name. ``attributes.easy``, ``attributes.hard`` and ``attributes.junk`` of a query are the keys
    of the ground truth, JSON lists, which the protocols score by. A label is an approximation of them: a query's is its
    landmark, ``all_souls``; a gallery image has that of the queries it is easy or hard for, where that is one landmark.
    """

    kind: Literal["roxford5k", "rparis6k"]
    origin: ClassVar[str] = "Revisited Oxford and Paris of its authors (revisitop, CTU in Prague; images: VGG, Oxford)"
    roles: ClassVar[Roles] = {"query": ("query",), "gallery": ("gallery",)}

    def _rows(self) -> Iterator[Row]:
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
    numbers = [int(place) for place in np.asarray(places).ravel()]
    if not all(0 <= place < len(keys) for place in numbers):
        raise RecordsError(f"{where} must be places in imlist, 0 to {len(keys) - 1}, got {numbers}")
    return [keys[place] for place in numbers]


def _landmark(query: str) -> str:
    return query.rpartition("_")[0] or query


@dataclass(frozen=True, kw_only=True)
class InstreBenchmark(BenchmarkConfig):
    """INSTRE: 1,250 queries, each cut to its box, search 27,293 images. There is nothing to train on.

    A label is the folder, a key the image's path. Images of INSTRE-M show two objects of INSTRE-S1, so one label is not
    enough: ``attributes.relevant`` of a query has the keys of its positives, a JSON list.
    """

    kind: Literal["instre"] = "instre"
    origin: ClassVar[str] = "INSTRE of its authors (ICT, re-hosted by IRISA; gnd_instre.mat of Iscen et al.)"
    roles: ClassVar[Roles] = {"query": ("query",), "gallery": ("gallery",)}

    def _rows(self) -> Iterator[Row]:
        path = self.file("gnd_instre.mat")
        images = self.folder("INSTRE-S1", "INSTRE_release/INSTRE-S1").parent
        names, queries, truths = read_matlab(path, "imlist", "qimlist", "gnd")
        if len(queries) != len(truths):
            raise RecordsError(f"{path}: qimlist has {len(queries)} queries and gnd {len(truths)}")
        keys = [str(name) for name in names]
        for key in keys:
            yield Row(key, str(images / key), key.rpartition("/")[0], "gallery")
        for query, truth in zip(map(str, queries), truths, strict=True):
            positives, box = (np.atleast_1d(truth[field]).ravel() for field in range(2))
            if len(box) != 4 or not all(1 <= place <= len(keys) for place in positives):
                raise RecordsError(f"{path}: the ground truth of {query} is no box and places in 1 to {len(keys)}")
            left, top, right, bottom = (round(float(side)) for side in box)
            uri = ImageSource(str(images / query), box=(left, top, right, bottom)).uri
            relevant = as_list(keys[int(place) - 1] for place in positives)
            yield Row(query, uri, query.rpartition("/")[0], "query", attributes={"relevant": relevant})


@dataclass(frozen=True, kw_only=True)
class MetBenchmark(BenchmarkConfig):
    """Met: 397,121 images of 224,408 exhibits to train on and to search, 129 and 1,003 Met queries.

    A label is the exhibit's id, a key the image's path in the ground truth. Queries of no exhibit have no label: their
    splits, and roles, are ``validation_query_distractor`` and ``query_distractor``, which only the protocol ``met``
    searches with. ``attributes.origin`` is ``test_other`` (other art) or ``test_noart``; of a Met query ``test_met``.
    """

    kind: Literal["met"] = "met"
    origin: ClassVar[str] = "the Met dataset of the Visual Recognition Group of CTU in Prague (CMP)"
    roles: ClassVar[Roles] = {
        "train": ("exhibit",),
        "validation_query": ("validation_query",),
        "validation_gallery": ("exhibit",),
        "query": ("query",),
        "gallery": ("exhibit",),
        "validation_query_distractor": ("validation_query_distractor",),
        "query_distractor": ("query_distractor",),
    }

    def _rows(self) -> Iterator[Row]:
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
