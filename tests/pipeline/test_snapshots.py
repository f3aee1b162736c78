"""Images added to a bundle and removed from it: what is searched before and after, and after a kill at any step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cache import parse_source
from cache.errors import RecordsError, SettingsError, StoreBusyError
from cache.lock import writer_lock
from pipeline.bundle import Bundle, current_number, read_snapshot
from pipeline.bundle.changes import Added, add_images, publish, remove_images
from pipeline.bundle.snapshots import numbers
from pipeline.encoder import Encoder
from pipeline.searcher import Searcher
from stages.datasets import FolderConfig, TableConfig
from tests.forks import Forks
from tests.pictures import draw, draw_folder, write_table
from tests.toys.changing import change
from tests.typed import PCA_RUN, permafrost

INDEXES = {
    "flat": "",
    "codes": '[retrieval]\nindex = { kind = "scalar" }\n',
    "graph": '[retrieval]\nindex = { kind = "hnsw" }\n',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle for each index, named by it, and new photos."""
    folder = tmp_path_factory.mktemp("shop")
    draw_folder(folder / "images", {f"class {number}": 5 for number in range(10)})
    draw_folder(folder / "photos", {"new": 3, "gone": 2}, seed=100_000)
    for name, index in INDEXES.items():
        (folder / "run.toml").write_text(PCA_RUN + index)
        if name == "flat":
            assert permafrost("run", "run.toml", cwd=folder).returncode == 0
        done = permafrost("export", "run.toml", "-o", name, "--thumbnails", "-q", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def bundle(folder: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(folder / "flat", tmp_path / "bundle"))


def added(bundle: Bundle, images: Path, max_failures: float = 0.0) -> Added:
    source = FolderConfig(path=str(images))
    return add_images(bundle, source, encoder=lambda: Encoder(bundle.embedder()), max_failures=max_failures)


def newest(bundle: Bundle) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_snapshot(bundle, numbers(bundle.path)[-1]).rows.to_pylist()
    return rows


@pytest.mark.parametrize("index", INDEXES)
def test_new_images_are_found_once_they_are_published_and_removed_ones_no_longer(
    index: str, folder: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(shutil.copytree(folder / index, tmp_path / "bundle"))
    wanted = [path.read_bytes() for path in sorted((folder / "photos").rglob("*.png"))]
    keys = ["gone/0.png", "gone/1.png", "new/0.png", "new/1.png", "new/2.png"]
    before = [[match.key for match in matches] for matches in Searcher.open(bundle.path).search(wanted, 3)]
    count = len(read_snapshot(bundle).rows)
    assert added(bundle, folder / "photos")[:3] == (2, 5, 0)
    assert [[match.key for match in matches] for matches in Searcher.open(bundle.path).search(wanted, 3)] == before
    assert publish(bundle) == 2
    answers = Searcher.open(bundle.path).search(wanted, 3, exact=True)
    assert [matches[0].key for matches in answers] == keys
    assert min(matches[0].similarity for matches in answers) > 0.99
    assert remove_images(bundle, where={"label": ["gone"]}) == (3, 2)
    publish(bundle)
    searcher = Searcher.open(bundle.path)
    assert len(searcher) == count + 3
    answers = searcher.search(wanted, 3)
    assert [matches[0].key for matches in answers[2:]] == keys[2:]
    assert not {match.key for matches in answers for match in matches} & {*keys[:2]}


def test_a_row_that_is_added_is_what_the_run_would_hold(bundle: Bundle, folder: Path) -> None:
    base = read_snapshot(bundle)
    added(bundle, folder / "photos")
    snapshot = read_snapshot(bundle, 2)
    np.testing.assert_array_equal(snapshot.vectors[: len(base.rows)], base.vectors)
    vectors = Encoder(bundle.embedder()).encode(folder / "photos").vectors
    np.testing.assert_array_equal(snapshot.vectors[len(base.rows) :], vectors)
    assert snapshot.rows["label"].to_pylist()[-5:] == ["gone", "gone", "new", "new", "new"]
    for digest in snapshot.rows["digest"].to_pylist():
        assert bundle.thumbnail(digest) is not None


def test_what_is_added_by_a_relative_path_is_the_same_file_from_any_folder(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    added(bundle, Path("photos"))
    uris = {row["key"]: row["uri"] for row in newest(bundle)}
    assert uris["new/0.png"] == str(folder / "photos/new/0.png")
    write_table(folder / "more.csv", [{"path": f"box:0,0,9,9:{path}"} for path in ("photos/new/1.png",)])
    add_images(bundle, TableConfig(path="more.csv", label=()), encoder=lambda: Encoder(bundle.embedder()))
    assert newest(bundle)[-1]["uri"] == f"box:0,0,9,9:{folder}/photos/new/1.png"
    monkeypatch.chdir(tmp_path)
    assert all(parse_source(row["uri"]).read() for row in newest(bundle)[-6:])
    monkeypatch.chdir(folder / "photos")
    count = len(newest(bundle))
    remove_images(bundle, ["new/2.png", str(folder / "photos/gone/0.png")])  # a key, and a path as it is printed
    monkeypatch.chdir(folder)
    remove_images(bundle, ["photos/gone/1.png"])  # a path as it was added
    assert len(newest(bundle)) == count - 3


def test_an_id_is_never_given_again(bundle: Bundle, folder: Path) -> None:
    ids = {row["key"]: row["id"] for row in newest(bundle)}
    for round_ in range(3):
        added(bundle, folder / "photos")
        fresh = {row["key"]: row["id"] for row in newest(bundle) if row["key"] not in ids}
        assert sorted(fresh.values()) == list(range(len(ids) + 5 * round_, len(ids) + 5 * round_ + 5))
        remove_images(bundle, list(fresh))
        publish(bundle, prune=True)
        assert {row["key"]: row["id"] for row in newest(bundle)} == ids


def test_what_is_there_is_left_alone_and_a_key_of_another_image_is_refused(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    added(bundle, folder / "photos")
    assert added(bundle, folder / "photos")[:3] == (2, 0, 5)
    photos = shutil.copytree(folder / "photos", tmp_path / "photos")
    draw(photos / "new/1.png", 77)
    draw(photos / "new/9.png", 78)
    with pytest.raises(RecordsError, match=r"1 keys belong to other images .*'new/1\.png'; nothing was added"):
        added(bundle, photos)
    remove_images(bundle, ["new/1.png"])
    assert added(bundle, photos)[:3] == (4, 2, 4)
    rows = [{"path": "new/0.png", "key": "one"}, {"path": "new/2.png", "key": "one"}]
    table = TableConfig(path=str(write_table(photos / "table.csv", rows)), label=())
    with pytest.raises(RecordsError, match="the key 'one' twice"):
        add_images(bundle, table, encoder=lambda: Encoder(bundle.embedder()))


def test_images_that_fail_are_left_out_or_too_many(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    photos = shutil.copytree(folder / "photos", tmp_path / "photos")
    (photos / "new/text.jpg").write_text("no image")
    refused = added(bundle, photos)
    assert (refused.added, refused.refused, numbers(bundle.path)) == (0, True, [1])
    done = added(bundle, photos, max_failures=0.2)
    assert (done.added, done.refused) == (5, False)
    assert done.failed == {"new/text.jpg": "not an image that Pillow can read"}


def test_what_cannot_be_removed_is_named_and_nothing_is(bundle: Bundle) -> None:
    keys = [str(row["key"]) for row in newest(bundle)]
    with pytest.raises(RecordsError, match=r"no image of 1 of the keys, first 'gone\.png'; nothing was removed"):
        remove_images(bundle, [keys[0], "gone.png"])
    with pytest.raises(SettingsError, match="no column 'colour'"):
        remove_images(bundle, where={"colour": ["red"]})
    with pytest.raises(SettingsError, match="at least one row"):
        remove_images(bundle, keys)
    assert numbers(bundle.path) == [1]


def test_a_path_that_several_images_have_removes_none_of_them(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    path = str(folder / "photos/new/0.png")
    table = write_table(tmp_path / "twice.csv", [{"key": key, "path": path, "label": "new"} for key in ("one", "two")])
    assert permafrost("add", "bundle", str(table), "--label", "label", cwd=tmp_path).returncode == 0
    before = newest(bundle)
    refused = permafrost("remove", "bundle", path, cwd=tmp_path)
    assert refused.returncode == 1
    assert f"{path} is the path of 2 images: name them by their keys; nothing was removed" in refused.stderr
    assert newest(bundle) == before
    assert permafrost("remove", "bundle", "one", cwd=tmp_path).returncode == 0
    assert permafrost("remove", "bundle", path, cwd=tmp_path).returncode == 0  # of one image now
    assert [row["key"] for row in newest(bundle)] == [row["key"] for row in before if row["key"] not in ("one", "two")]


def test_of_two_writers_the_second_is_refused_by_name(bundle: Bundle, folder: Path) -> None:
    with writer_lock(bundle.path / "snapshots"):
        for attempt in (lambda: added(bundle, folder / "photos"), lambda: publish(bundle)):
            with pytest.raises(StoreBusyError, match=r"is being written by process \d+ on "):
                attempt()


def test_the_commands_say_what_they_did(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "new.csv",
        [
            {"path": str(folder / "photos/new/0.png"), "brand": "a", "colour": "red"},
            {"path": str(folder / "photos/new/1.png"), "brand": "b", "colour": "blue"},
        ],
    )
    options = ("--label", "brand", "--attribute", "colour", "-q", "--json")
    done = permafrost("add", "bundle", str(table), *options, cwd=tmp_path)
    assert json.loads(done.stdout) == {
        "bundle": "bundle", "snapshot": 2, "added": 2, "present": 0, "failed": 0, "published": False
    }  # fmt: skip
    assert current_number(bundle.path) == 1
    strays = [bundle.path / name / ".DS_Store" for name in ("snapshots", "thumbnails")]  # a file browser's
    for stray in strays:
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"")
    assert permafrost("publish", "bundle", "--prune", cwd=tmp_path).stdout == "bundle: snapshot 2 is searched\n"
    assert all(stray.exists() for stray in strays)
    assert numbers(bundle.path) == [2]
    rows = pq.read_table(bundle.path / "snapshots/2/rows.parquet").to_pylist()
    assert [(row["label"], row["attributes.colour"]) for row in rows[-2:]] == [("a", "red"), ("b", "blue")]
    assert {row["attributes.colour"] for row in rows[:-2]} == {None}
    done = permafrost("remove", "bundle", "--where", "colour=red", "--publish", cwd=tmp_path)
    assert done.stdout == "bundle: snapshot 3, 1 image removed; searched from now on\n"
    assert permafrost("remove", "bundle", cwd=tmp_path).returncode == 2
    assert permafrost("remove", "bundle", "no such key", cwd=tmp_path).returncode == 1


@pytest.mark.slow
def test_killed_at_any_step_nothing_is_lost_and_nothing_doubled(folder: Path, tmp_path: Path) -> None:
    """A real SIGKILL instead of each step in turn, and some at any time: the bundle opens, and the next one goes on."""
    whole = shutil.copytree(folder / "flat", tmp_path / "whole")
    change(whole, folder / "photos")
    wanted = newest(Bundle.open(whole))
    before = newest(Bundle.open(folder / "flat"))
    rng = np.random.default_rng(3)
    killed = 0
    with Forks("tests.toys.changing:change_until_killed") as forks:
        for step in [*range(1, 90, 6), 1000, 1000]:
            path = shutil.copytree(folder / "flat", tmp_path / f"bundle {step}", dirs_exist_ok=True)
            if step == 1000:
                process = forks.start(str(path), str(folder / "photos"), step)
                time.sleep(float(rng.uniform(0, 0.1)))
                os.kill(process, signal.SIGKILL)
                status = forks.status()
            else:
                status = forks.run(str(path), str(folder / "photos"), step)
            assert status in (0, -signal.SIGKILL)
            killed += status != 0
            bundle = Bundle.open(path)
            searched = read_snapshot(bundle).rows.to_pylist()
            assert [row for row in searched if row in before] == before
            change(path, folder / "photos")
            assert newest(bundle) == wanted
            assert read_snapshot(bundle).number == numbers(path)[-1]
            assert not list(path.rglob("*.partial"))
            shutil.rmtree(path)
    assert killed >= 8
