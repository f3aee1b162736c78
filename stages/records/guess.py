"""Guess how a person's images are labelled and split: the ``[dataset]`` of a run file that reads them."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from cache import parse_source
from cache.errors import RecordsError
from stages.datasets import DatasetConfig, SourceConfig
from stages.datasets.delimited import Dialect, EncodingError
from stages.datasets.folder import EXTENSIONS, LITTER
from stages.datasets.table import read_columns
from stages.records.records import Records, read_records

_IMAGE_NAMES = ("path", "image", "image_path", "img_path", "file", "filename", "file_name", "filepath", "uri")
_LABEL_NAMES = (
    "label", "instance", "instance_id", "product_id", "product", "sku", "item_id", "landmark_id", "class", "class_name",
    "class_id", "fine", "model", "category", "name", "target",
)  # fmt: skip
_SPLIT_NAMES = ("split", "set", "subset", "partition", "fold")
_ROLE_OF_VALUE = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "query": ("query", "queries", "probe", "test", "testing", "query_gallery"),
    "gallery": ("gallery", "index", "database", "distractor", "test", "testing", "query_gallery"),
}
_OLD_ENCODING = "cp1252"  # Windows, Western Europe: what most tables are that are not UTF-8
_WANTED_QUERIES = 200
_MOST_ATTRIBUTE_VALUES = 200

_UNLABELLED = "no image has a label: extract and search work; train-heads and score have nothing to go by"

_WHERE = re.compile(r" (<.*|'.*')$")  # the file, in a message of Pillow

Columns = Mapping[str, Sequence[str | None]]


@dataclass
class Guess:
    """The keys for ``[dataset]``, a remark on each that a person should check, and warnings about the data."""

    keys: dict[str, str | int | list[str]]
    remarks: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    labels: int = 0  # how many different ones the table has, as they are written there

    def set(self, key: str, value: str | int | list[str], remark: str | None = None) -> None:
        """Set a key, with a remark that stands beside it in the run file."""
        self.keys[key] = value
        if remark is not None:
            self.remarks[key] = remark

    def config(self) -> SourceConfig:
        """The dataset that the keys describe."""
        return TypeAdapter[SourceConfig](DatasetConfig).validate_python(self.keys)


def guess_dataset(path: Path, root: Path | None = None) -> tuple[Guess, Records]:
    """Guess how the images of a folder or a table are labelled and split (and its ``root``), and read them so."""
    if root is not None and path.is_dir():
        raise RecordsError(f"--root is what the image paths of a table are relative to, and {path} is a folder")
    guess = _guess_folder(path) if path.is_dir() else _guess_table(path, root)
    records = read_records(guess.config())
    if guess.labels:
        guess.remarks["label"] = f"{_classes(guess.labels, records)}{guess.remarks.get('label', '')}"
    if "query" not in guess.keys and guess.keys.get("split") != "split":
        queries = _queries_per_class(records)
        if queries > 1:
            remark = "few classes: several images of each search, for enough queries"
            guess.set("queries_per_class", queries, remark)
            records = read_records(guess.config())
    guess.warnings += _warnings(records) if records.has_labels else [_UNLABELLED]
    if (problem := _header_problem(records)) is not None:
        guess.warnings.append(problem)
    return guess, records


def _classes(written: int, records: Records) -> str:
    """How many classes there are, and why there are not as many as the table has different labels."""
    labels, classes = ({*names} - {None} for names in (records.labels, records.classes))
    images = sum(label is not None for label in records.labels)
    remark = f"{len(classes):,} classes, {images / len(classes):.1f} images each"
    if len(labels) != written:
        remark += f", of {written:,} spellings in the table, where spaces around a label and its Unicode form differ"
    return remark + f", of {len(labels):,} labels, each counted in every domain" * (len(labels) != len(classes))


def _warnings(records: Records) -> list[str]:
    counts = records.counts()
    trained, tested = set(records.split("train").classes), set(records.split("query").classes)
    shared = (
        f"of {len(tested):,} query classes are trained on too: scores are of known classes only. For unknown ones set "
        "split = 'class-disjoint' and leave out train, validation, query and gallery"
    )
    trained_on = counts["queries whose bytes are trained on"]
    warnings = [
        (trained_on, "queries are copies of a training image: their scores are too good"),
        (counts["classes of one image"], "classes have one image: nothing can be found for it, so it is a distractor"),
        (counts["byte-identical copies"], "images are byte-identical copies of others: they find each other first"),
        (counts["unreadable"], "images cannot be read; they will be listed as failed"),
        (len(trained & tested), shared),
    ]
    few = [f"only {len(tested)} classes search: intervals will be wide, and say little of other classes"]
    return [f"{count:,} {text}" for count, text in warnings if count] + few * (len(tested) < 5)


def _header_problem(records: Records) -> str | None:
    """How many files are there that do not begin as an image does, and the first of them."""
    from PIL import Image

    problems = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images and odd metadata: that is for extraction to judge
        for key, uri, digest in zip(records.keys, records.uris, records.digests, strict=True):
            source = parse_source(uri)
            within = source.stretch is not None or source.cell is not None
            try:
                if digest:
                    Image.open(io.BytesIO(source.read()) if within else source.path).close()
            except Exception as error:  # noqa: BLE001  # Pillow's readers raise all kinds
                problems.append(f"{key!r} ({_WHERE.sub('', str(error))})")
    return f"{len(problems):,} files do not open as images; the first is {problems[0]}" if problems else None


def _guess_folder(root: Path) -> Guess:
    """Folders that are called as splits are, with class folders in them, are the splits, whatever lies beside them."""
    guess = Guess({"kind": "folder", "path": str(root)})
    folders = sorted((entry for entry in root.iterdir() if entry.is_dir() and _is_visible(entry)), key=str)
    known = {value for values in _ROLE_OF_VALUE.values() for value in values}
    splits = [folder for folder in folders if folder.name.lower() in known]
    trial = Guess({})
    if len(splits) > 1 and _set_roles(trial, [folder.name for folder in splits]) and all(map(_has_folders, splits)):
        guess.set("split", "folder", "the first level of folders")
        _set_roles(guess, [folder.name for folder in splits])
        if others := [folder.name for folder in folders if folder not in splits]:
            guess.warnings.append(f"images in {', '.join(others)}, beside the splits, take no part in the run")
    return guess


def _is_visible(entry: Path) -> bool:
    return not entry.name.startswith(".") and entry.name not in LITTER


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() and _is_visible(entry) for entry in folder.iterdir())


def _guess_table(path: Path, root: Path | None) -> Guess:
    guess, utf8 = Guess({"kind": "table", "path": str(path)}), True
    try:
        read = read_columns(path)
    except EncodingError:
        read, utf8 = read_columns(path, Dialect(encoding=_OLD_ENCODING)), False
    columns = {name: read.table[name].to_pylist() for name in read.table.column_names if not read.nested(name)}
    if not utf8:
        cells = (value for name, values in columns.items() for value in (name, *values) if value)
        odd = next(cell for cell in cells if not cell.isascii())
        guess.set("encoding", _OLD_ENCODING, f"the table is not UTF-8; check that {odd!r} reads as it should")
    if images := [name for name in columns if Path(name).suffix.lower() in EXTENSIONS]:
        raise RecordsError(
            f"the first line of {path} names an image, {images[0]!r}: a table needs a line of column names"
        )
    image, split = _image_column(columns), _first_of(_SPLIT_NAMES, columns)
    if image != "path":
        guess.set("image", image)
    others = {name: values for name, values in columns.items() if name not in {image, split, "key", "domain"}}
    label = _label_column(others) if others else None
    rivals = [name for name in others if name != label and _could_be_label(others[name])]
    if label is None:
        guess.set("label", [], "no column is left that could be it")
    else:
        guess.labels = len({*others[label]} - {None})
        guess.set("label", label, f"; other columns that could be it: {', '.join(rivals[:6])}" if rivals else "")
    if attributes := [name for name in rivals if len(set(others[name])) <= _MOST_ATTRIBUTE_VALUES]:
        guess.set("attributes", attributes, "columns with few values, kept with the records; drop what is of no use")
    root = _root(path, columns[image]) if root is None else root
    if root is not None:
        guess.set("root", str(root), "what the paths of the images are relative to")
    missing = sum(not ((root or path.parent) / parse_source(name).path).exists() for name in columns[image] if name)
    if missing == len(columns[image]):
        raise RecordsError(
            f"none of the {missing:,} images that {path} names is in {root or path.parent}: name the folder that the "
            "paths are relative to with --root FOLDER"
        )
    if missing:
        guess.set("missing_images", "record")
        guess.warnings.append(f"{missing:,} images of the table do not exist; they will be listed as failed")
    if split is not None:
        if split != "split":
            guess.set("split", split)
        values = sorted({value for value in columns[split] if value is not None})
        if not _set_roles(guess, values):
            unclear = f"what the values of the column {split!r} are for is not clear ({', '.join(values)})"
            guess.set("split", "class-disjoint", f"made from the seed: {unclear}")
    return guess


def _set_roles(guess: Guess, values: Sequence[str]) -> bool:
    """Set train, validation, query and gallery from what the split values are called; False where that is unclear."""
    roles = {role: [value for value in values if value.lower() in names] for role, names in _ROLE_OF_VALUE.items()}
    for role in ("query", "gallery"):  # an outright 'query' or 'gallery' leaves 'test' to neither
        roles[role] = [value for value in roles[role] if not value.lower().startswith("test")] or roles[role]
    if not (roles["train"] and roles["query"] and roles["gallery"]):
        return False
    for role, names in roles.items():
        if names:
            guess.set(role, names[0] if len(names) == 1 else names)
    if roles["query"] == roles["gallery"]:
        guess.remarks["gallery"] = "the same as query: leave-one-out, each image is searched for among all others"
    return True


def _image_column(columns: Columns) -> str:
    def share(name: str) -> float:
        values = [value for value in columns[name] if value]
        return sum(Path(value).suffix.lower() in EXTENSIONS for value in values) / max(1, len(values))

    named = [name for name in _IMAGE_NAMES if name in columns]
    best = max([*named, *columns], key=share)
    if share(best) < 0.5 and not named:
        raise RecordsError(f"no column seems to name image files; the columns are {', '.join(columns)}")
    return best if share(best) >= 0.5 else named[0]


def _label_column(columns: Columns) -> str:
    candidates = {name.lower(): name for name in columns if _could_be_label(columns[name])}
    if not candidates:
        raise RecordsError(
            "no column can be the label: one is needed whose values repeat. "
            f"Beside the image and the split there is {', '.join(columns)}. For images without labels write a run "
            "file with label = [], or leave those columns out."
        )
    named = [candidates[name] for name in _LABEL_NAMES if name in candidates]
    return named[0] if named else max(candidates.values(), key=lambda name: len(set(columns[name])))


def _could_be_label(values: Sequence[str | None]) -> bool:
    """At least two classes, and images that share one."""
    known = [value for value in values if value is not None]
    return 2 <= len(set(known)) <= len(known) / 1.5


def _root(table: Path, images: Sequence[str | None]) -> Path | None:
    """The folder that the images are relative to, where it is not the table's own: one of its parents."""
    first = next((image for image in images if image), None)
    if first is None or (table.parent / first).exists():
        return None
    return next((folder for folder in (*table.absolute().parents[1:3], Path.cwd()) if (folder / first).exists()), None)


def _first_of(names: Iterable[str], columns: Iterable[str]) -> str | None:
    by_name = {name.lower(): name for name in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _queries_per_class(records: Records) -> int:
    """How many images a class should give to the queries: enough of them, yet at most a fifth of a class."""
    tested = len(set(records.split("query").classes))
    sizes = sorted(Counter(name for name in records.classes if name is not None).values())
    if not sizes:
        return 1
    return max(1, min(math.ceil(_WANTED_QUERIES / max(1, tested)), sizes[len(sizes) // 2] // 5))
