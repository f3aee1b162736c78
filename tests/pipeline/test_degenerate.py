"""Commands on data that are hardly there: a score or a message that says what is missing, and never a fault of ours."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from cache.errors import PermafrostError
from pipeline.cli import app
from tests.pictures import draw, write_table

RUN = """
artifacts = "artifacts"
[dataset]
kind = "table"
path = "labels.csv"
label = "label"
train = "train"
query = {query}
gallery = {gallery}
[[backbones]]
kind = "timm"
name = "test_resnet"
weights = "random"
preprocess = {{ size = 32 }}
[[heads]]
name = "pca"
kind = "pca"
dim = 1
[retrieval]
metrics = ["mmp@5", "hit@1", "map"]
"""
COMMANDS = (
    ("run", "run.toml"),
    ("score", "run.toml", "--by", "class_size", "--by", "training_class_size"),
    ("report", "run.toml", "--queries", "1"),
    ("search", "run.toml", "new.png", "--head", "raw"),
    ("health", "run.toml"),
    ("compare", "run.toml:raw", "run.toml:pca"),
    ("threshold", "run.toml", "--fpir", "0.1"),
    ("gallery-sizes", "run.toml"),
)


def folder_of(
    folder: Path, classes: int, each: int, *, failed: Sequence[str] = (), without: str = "", alike: bool = False
) -> Path:
    """A run file with ``classes`` of ``each`` images on every side; all images of the ``failed`` sides are none."""
    rows = []
    for split in ("train", "query", "gallery"):
        for number in range(classes * each if split != without else 0):
            name, label = f"{split}-{number}.png", f"{'learned' if split == 'train' else 'new'} {number % classes}"
            rows.append({"path": name, "label": label, "split": split})
            if split in failed:
                (folder / name).write_text(f"no image {number}")
            elif alike:  # the same pixels in other bytes
                Image.new("RGB", (40, 32), (90, 20, 30)).save(folder / name, dpi=(len(rows), 1))
            else:
                draw(folder / name, len(rows))
    write_table(folder / "labels.csv", rows)
    sides = {side: "[]" if side == without else f'"{side}"' for side in ("query", "gallery")}
    (folder / "run.toml").write_text(RUN.format(**sides))
    draw(folder / "new.png", 99)
    return folder


def typed(*arguments: str) -> str:
    """What a command says that ends in one of our errors; nothing where it finishes. Any other error is a fault."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            app(args=list(arguments), standalone_mode=False)
        except PermafrostError as error:
            return str(error)
    return ""


@pytest.mark.parametrize(
    ("classes", "each", "how", "message"),
    [
        (2, 2, {"without": "gallery"}, "there is no gallery record"),
        (2, 2, {"failed": ["query"]}, "all 4 query images failed"),
        (2, 2, {"failed": ["train", "query", "gallery"]}, "needs two; of 4 training records 4 have no feature"),
        (1, 1, {}, "needs two"),
        (3, 2, {"alike": True}, ""),
    ],
)
def test_a_command_finishes_or_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int, each: int, how: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(folder_of(tmp_path, classes, each, **how))  # type: ignore[arg-type]
    with_head = typed("run", "run.toml")
    assert message in with_head
    raw = (tmp_path / "run.toml").read_text().replace('[[heads]]\nname = "pca"\nkind = "pca"\ndim = 1\n', "")
    (tmp_path / "run.toml").write_text(raw)
    for command in COMMANDS:
        assert "should not happen" not in typed(*command)
