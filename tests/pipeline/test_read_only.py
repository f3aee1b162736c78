"""Artifacts that cannot be written: whatever only reads says what it says where they can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import DigestCache
from tests.pictures import draw, draw_folder
from tests.read_only import read_only
from tests.toys.stores import contents
from tests.typed import RUN, Typed, permafrost

INDEX = RUN + 'index = { kind = "ivf_flat", lists = 2, probes = 2 }\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run file whose stages are done, one with an index of its own, and artifacts that cannot be written."""
    folder = tmp_path_factory.mktemp("run")
    draw_folder(folder / "images", {f"class {number:02}": 6 for number in range(30)})
    (folder / "run.toml").write_text(RUN)
    (folder / "index.toml").write_text(INDEX)
    assert permafrost("run", "run.toml", "-q", cwd=folder).returncode == 0
    before = contents(folder / "artifacts")
    with read_only(folder / "artifacts"):
        with pytest.raises(OSError, match=r"Read-only|Permission"):
            (folder / "artifacts/x").touch()
        yield folder
    assert contents(folder / "artifacts") == before


def typed(folder: Path, *arguments: str) -> Typed:
    done = permafrost(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "run.toml"],
        ["plan", "run.toml"],
        ["train-heads", "run.toml"],
        ["score", "run.toml", "--by", "class_size"],
        ["score", "index.toml"],
        ["search", "run.toml", "images/class 00/0.png", "--all"],
        ["search", "index.toml", "images/class 00/0.png"],
        ["inspect", "run.toml"],
        ["verify", "run.toml"],
        ["compare", "run.toml:raw", "run.toml:small"],
        ["health", "run.toml"],
        ["threshold", "run.toml", "--fmr", "0.05"],
        ["gallery-sizes", "run.toml"],
    ],
    ids=" ".join,
)
def test_a_command_that_reads_says_what_it_says_elsewhere(folder: Path, arguments: list[str]) -> None:
    done = typed(folder, *arguments)
    assert done.stdout
    assert ("is read-only, so it is not written" in done.stderr) == (
        arguments[0] in ("score", "threshold", "gallery-sizes")
    )


def test_a_report_of_read_only_artifacts_is_written_where_one_stands(folder: Path) -> None:
    done = typed(folder, "report", "run.toml", "--queries", "1")
    assert done.stdout == "run.html\n"
    assert (folder / "run.html").stat().st_size > 10_000
    assert "is read-only, so the page is here" in done.stderr


def test_digests_are_read_where_they_cannot_be_written(folder: Path) -> None:
    cache = DigestCache(folder / "artifacts/digests.sqlite")
    (uri, *_) = sorted((folder / "images").rglob("*.png"))
    assert cache.digests([str(uri)])[0].digest is not None
    assert cache.files_read == 0


def test_an_image_without_a_row_is_left_out_and_said(folder: Path) -> None:
    """Last: it adds an image."""
    image = typed(folder, "search", "run.toml", "images/class 00/0.png", "-k", "1", "--json").stdout
    name = image.split('"key": "')[1].split("/")[0]  # a class that is searched
    draw(folder / "images" / name / "new.png", 123456)
    for arguments in (["score", "run.toml"], ["search", "run.toml", "images/class 00/0.png"]):
        done = typed(folder, *arguments)
        assert f"1 of 181 images have no row yet, the first of key '{name}/new.png': left out" in done.stderr
