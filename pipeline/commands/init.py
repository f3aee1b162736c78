"""``permafrost init``: look at a folder or table of images, and write a commented run file that works as it is."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter

from cache.atomic import replace_text
from cache.errors import PermafrostError, RecordsError
from pipeline.config import parse_config
from pipeline.progress import Display
from stages.datasets import DatasetConfig, SourceConfig
from stages.datasets.folder import EXTENSIONS
from stages.datasets.table import read_columns
from stages.records import Records, read_records

_IMAGE_NAMES = ("path", "image", "image_path", "img_path", "file", "filename", "file_name", "filepath", "uri")
_LABEL_NAMES = (
    "label", "instance", "instance_id", "product_id", "item_id", "landmark_id", "class", "class_name", "class_id",
    "fine", "model", "category", "name", "target",
)  # fmt: skip
_SPLIT_NAMES = ("split", "set", "subset", "partition", "fold")
_ROLE_OF_VALUE = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "query": ("query", "queries", "probe", "test", "testing", "query_gallery"),
    "gallery": ("gallery", "index", "database", "distractor", "test", "testing", "query_gallery"),
}
_PATHS = ("path", "root")
_WANTED_QUERIES = 200
_MOST_ATTRIBUTE_VALUES = 200


@dataclass
class Guess:
    """What was seen in the data: the keys for ``[dataset]``, and a remark on each that a person should check."""

    keys: dict[str, str | int | list[str]]
    remarks: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def config(self) -> SourceConfig:
        """The dataset that the keys describe."""
        return TypeAdapter[SourceConfig](DatasetConfig).validate_python(self.keys)


def init(
    images: Annotated[Path, typer.Argument(metavar="FOLDER|TABLE", help="Images in a folder a class, or a table.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run file to write.")] = Path("run.toml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a run file that exists.")] = False,
) -> None:
    """Look at your images and write a commented run file that works as it is."""
    if output.exists() and not force:
        raise PermafrostError(f"{output} exists. Choose another name with --output, or write over it with --force.")
    if not output.absolute().parent.is_dir():
        raise PermafrostError(f"the folder of {output} does not exist: make it first, or name another with --output")
    if not images.exists():
        raise RecordsError(f"{images} does not exist; give a folder of images (a folder a class), or a table of them")
    display = Display()
    guess, records = look(images)
    name = images.resolve().name if images.is_dir() else images.resolve().parent.name
    text = run_file(guess, records, _artifacts(images, name))
    parse_config(text, str(output))  # what is written works
    replace_text(output, text)
    for key, value in guess.keys.items():
        remark = f"  ({guess.remarks[key]})" if key in guess.remarks else ""
        display.say(f"{key} = {value}{remark}")
    display.say("records: " + ", ".join(f"{count:,} {what}" for what, count in records.counts().items() if count))
    for warning in guess.warnings:
        display.warn(f"note: {warning}")
    typer.echo(f"{output} is written. Look at it, then: permafrost run {output}")


def _artifacts(images: Path, name: str) -> str:
    """Where the run's files go: outside the folder of images, whose pictures they would join."""
    artifacts = Path("artifacts", name)
    if images.is_dir() and artifacts.resolve().is_relative_to(images.resolve()):
        return os.path.relpath(images.resolve().parent / "artifacts" / name)
    return str(artifacts)


def look(path: Path) -> tuple[Guess, Records]:
    """Guess how the images at ``path`` are labelled and split, and read them by that guess."""
    guess = _look_at_folder(path) if path.is_dir() else _look_at_table(path)
    records = read_records(guess.config())
    if "query" not in guess.keys and guess.keys.get("split") != "split":
        more = _queries_per_class(records)
        if more > 1:
            guess.keys["queries_per_class"] = more
            guess.remarks["queries_per_class"] = "few classes: several images of each search, for enough queries"
            records = read_records(guess.config())
    counts = records.counts()
    if leaked := counts["queries whose bytes are trained on"]:
        guess.warnings.append(f"{leaked:,} queries are byte-identical to a training image: their scores are too good")
    if single := counts["classes of one image"]:
        guess.warnings.append(f"{single:,} classes have one image: nothing can be found for it, so it is a distractor")
    if copies := counts["byte-identical copies"]:
        guess.warnings.append(f"{copies:,} images are byte-identical copies of others: they find each other first")
    if counts["unreadable"]:
        guess.warnings.append(f"{counts['unreadable']:,} images cannot be read; they will be listed as failed")
    trained, tested = set(records.split("train").classes), set(records.split("query").classes)
    if shared := len(trained & tested):
        guess.warnings.append(
            f"{shared:,} of {len(tested):,} query classes are trained on too: scores will speak of known classes only. "
            "For unknown ones set split = 'class-disjoint' and leave out train, validation, query and gallery"
        )
    if len(tested) < 5:
        guess.warnings.append(f"only {len(tested)} classes search: intervals will be wide, and say little of others")
    return guess, records


def _look_at_folder(root: Path) -> Guess:
    guess = Guess({"kind": "folder", "path": str(root)})
    first = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    known = {value for values in _ROLE_OF_VALUE.values() for value in values}
    if len(first) > 1 and all(name.lower() in known for name in first):
        guess.keys["split"] = "folder"
        guess.remarks["split"] = "the first level of folders"
        _roles(guess, first)
    return guess


def _look_at_table(path: Path) -> Guess:
    table = read_columns(path)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    if data := [name for name in columns if Path(name).suffix.lower() in EXTENSIONS]:
        raise RecordsError(
            f"the first line of {path} names an image, {data[0]!r}: a table needs a line of column names"
        )
    image = _image_column(columns)
    guess = Guess({"kind": "table", "path": str(path)})
    if image != "path":
        guess.keys["image"] = image
    split = _first_of(_SPLIT_NAMES, columns)
    others = {name: values for name, values in columns.items() if name not in {image, split, "key", "domain"}}
    label = _label_column(others)
    classes = Counter(value for value in others[label] if value is not None)
    guess.keys["label"] = label
    guess.remarks["label"] = f"{len(classes):,} classes, {sum(classes.values()) / len(classes):.1f} images each"
    rivals = [name for name in others if name != label and _could_be_label(others[name])]
    if rivals:
        guess.remarks["label"] += f"; other columns that could be it: {', '.join(rivals[:6])}"
    attributes = [name for name in rivals if len(set(others[name])) <= _MOST_ATTRIBUTE_VALUES]
    if attributes:
        guess.keys["attributes"] = attributes
        guess.remarks["attributes"] = "columns with few values, kept with the records; drop what is of no use"
    root = _root(path, columns[image])
    if root is not None:
        guess.keys["root"] = str(root)
        guess.remarks["root"] = "what the paths of the images are relative to"
    folder = root or path.parent
    missing = sum(not (folder / name).exists() for name in columns[image] if name)
    if 0 < missing < len(columns[image]):
        guess.keys["missing_images"] = "record"
        guess.warnings.append(f"{missing:,} images of the table do not exist; they will be listed as failed")
    if split is not None:
        if split != "split":
            guess.keys["split"] = split
        found = Counter(value for value in columns[split] if value is not None)
        if not _roles(guess, sorted(found)):
            guess.keys["split"] = "class-disjoint"
            guess.remarks["split"] = (
                f"made from the seed: what the values of the column {split!r} are for is not clear ({', '.join(found)})"
            )
    return guess


def _roles(guess: Guess, values: Sequence[str]) -> bool:
    """Set train, validation, query and gallery from what the split values are called; False where that is unclear."""
    roles = {role: [value for value in values if value.lower() in names] for role, names in _ROLE_OF_VALUE.items()}
    for role in ("query", "gallery"):  # an outright 'query' or 'gallery' leaves 'test' to neither
        outright = [value for value in roles[role] if not value.lower().startswith("test")]
        roles[role] = outright or roles[role]
    if not (roles["train"] and roles["query"] and roles["gallery"]):
        return False
    for role, found in roles.items():
        if found:
            guess.keys[role] = found[0] if len(found) == 1 else found
    if roles["query"] == roles["gallery"]:
        guess.remarks["gallery"] = "the same as query: leave-one-out, each image is searched for among all others"
    return True


def _image_column(columns: Mapping[str, Sequence[str | None]]) -> str:
    def share(name: str) -> float:
        values = [value for value in columns[name] if value]
        return sum(Path(value).suffix.lower() in EXTENSIONS for value in values) / max(1, len(values))

    named = [name for name in _IMAGE_NAMES if name in columns]
    best = max([*named, *columns], key=share)
    if share(best) < 0.5 and not named:
        raise RecordsError(f"no column seems to name image files; the columns are {', '.join(columns)}")
    return best if share(best) >= 0.5 else named[0]


def _label_column(columns: Mapping[str, Sequence[str | None]]) -> str:
    by_name = {name.lower(): name for name in columns}
    for name in _LABEL_NAMES:
        if name in by_name and _could_be_label(columns[by_name[name]]):
            return by_name[name]
    candidates = [name for name in columns if _could_be_label(columns[name])]
    if not candidates:
        raise RecordsError(
            "no column can be the label: one is needed whose values repeat. "
            f"Beside the image and the split there is {', '.join(columns) or 'no column'}."
        )
    return max(candidates, key=lambda name: len(set(columns[name])))


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
    return max(1, min(math.ceil(_WANTED_QUERIES / max(1, tested)), sizes[len(sizes) // 2] // 5))


def run_file(guess: Guess, records: Records, artifacts: str) -> str:
    """The text of the run file."""
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in records.counts().items() if count)
    warnings = "".join(f"#   note: {warning}.\n" for warning in guess.warnings)
    dataset = "\n".join(
        f"{key} = {_toml(_escaped(value) if key in _PATHS else value)}"
        + (f"  # {guess.remarks[key]}" if key in guess.remarks else "")
        for key, value in guess.keys.items()
    )
    made = "" if "query" in guess.keys else _MADE if guess.keys["kind"] == "table" else _MADE_OF_FOLDERS
    return _TEMPLATE.format(
        counts=counts, warnings=warnings, artifacts=_toml(_escaped(artifacts)), dataset=dataset, made=made
    )


def _escaped(path: str | int | list[str]) -> str:
    """A path as a run file has it: a single dollar sign would begin a variable."""
    return str(path).replace("$", "$$")


def _toml(value: str | int | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)


_MADE = """
# No split is named, so whole classes go to train, validation or test, drawn from the seed and their names: the score is
# of classes that no head has seen. To use a column instead: split = "COLUMN", train = ..., query = ..., gallery = ...
"""

_MADE_OF_FOLDERS = """
# Whole classes go to train, validation or test, drawn from the seed and their names: the score is of classes that no
# head has seen. To say yourself which image is what, list the images in a table.
"""

_TEMPLATE = """\
# Permafrost run file, written by `permafrost init`. Seen in the data:
#   {counts}.
{warnings}
artifacts = {artifacts}  # where features, heads and scores go
seed = 0

[dataset]
{dataset}
{made}
[[backbones]]  # frozen; run once over the images, then never again
kind = "bundled"  # ImageNet weights that are installed already: no download
name = "efficientnet_lite0"

# Stronger backbones. Each downloads its weights on first use, or takes weights = "FILE" offline. As a rule of thumb
# for 10,000 images: SigLIP 2 and the base-size DINOs take minutes on a GPU and a few hours on a laptop's processor.
# [[backbones]]
# kind = "open_clip"
# name = "ViT-B-16-SigLIP2"  # 375 MB. The large one: ViT-SO400M-14-SigLIP2 (1.7 GB, a GPU)
# pretrained = "webli"
#
# [[backbones]]
# kind = "timm"
# name = "vit_base_patch14_dinov2"  # 350 MB; 518 pixels: slow without a GPU
# pretrained = "lvd142m"
#
# [[backbones]]
# kind = "timm"
# name = "vit_base_patch16_dinov3"  # 350 MB; under Meta's DINOv3 licence
# pretrained = "lvd1689m"

[[heads]]  # trained in seconds on the stored features; add as many as you like
name = "arcface64"
kind = "linear"
dim = 64
[heads.loss]
kind = "arcface"
subcenters = 3
margin_rad = 0.5
scale = 30.0

[[heads]]
name = "arcface512"
kind = "linear"
dim = 512
[heads.loss]
kind = "arcface"
subcenters = 3
margin_rad = 0.5
scale = 30.0

[retrieval]
metrics = ["mmp@5", "map@r", "hit@1", "recall@10", "map"]
"""
