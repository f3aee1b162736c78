"""Folders as they are on disks: litter, links, files that are no images and images that do not look like ones."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from cache.errors import RecordsError
from stages.datasets import FolderConfig, Source
from stages.records import read_records
from tests.pictures import draw, draw_folder

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def read(root: Path, **options: object) -> Source:
    return FolderConfig(path=str(root), **options).read()  # type: ignore[arg-type]


def keys(source: Source) -> list[str]:
    return [str(key) for key in source.table["key"].to_pylist()]


@pytest.fixture
def no_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra."""
    monkeypatch.setitem(sys.modules, "pi_heif", None)


@pytest.mark.usefixtures("no_heic")
def test_files_that_are_no_images_are_counted_by_extension_with_what_to_do(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"a": 2, "b": 1})
    for number in range(3):
        (tmp_path / f"a/{number}.HEIC").write_bytes(HEIC)
    (tmp_path / "b/shot.nef").write_bytes(b"II*\0" + bytes(64))  # a TIFF by its first bytes, with a thumbnail in it
    (tmp_path / "b/Makefile").write_text("all:")
    (tmp_path / "b/labels.csv").write_text("path,label")  # lies beside images, and is not worth a word
    source = read(tmp_path)
    assert keys(source) == ["a/0.png", "a/1.png", "b/0.png"]
    assert source.notes == (
        (
            "5 files skipped: 3 .heic, 1 without extension, 1 .nef. Convert .heic, .nef to JPEG, PNG or TIFF to have "
            "them; HEIC is read with pip install 'permafrost-retrieval[heic]'"
        ),
    )


def test_heic_is_an_image_where_the_extra_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif", reason="the extra heic is not installed")
    draw_folder(tmp_path, {"a": 1})
    for name in ("IMG_1.HEIC", "IMG_2"):
        (tmp_path / "a" / name).write_bytes(HEIC)
    source = read(tmp_path)
    assert keys(source) == ["a/0.png", "a/IMG_1.HEIC", "a/IMG_2"]


@pytest.mark.usefixtures("no_heic")
def test_a_folder_with_nothing_else_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.heic").write_bytes(HEIC)
    with pytest.raises(RecordsError, match=r"holds no image .*1 file skipped: 1 \.heic\. Convert \.heic to JPEG"):
        read(tmp_path)


def test_images_are_recognised_by_their_first_bytes_whatever_their_name(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"a": 1})
    for name in ("IMG_0001", "photo.jpg_large", "scan.png~"):
        shutil.copy(draw(tmp_path / "x.png", len(name)), tmp_path / "a" / name)
    (tmp_path / "x.png").unlink()
    source = read(tmp_path)
    assert keys(source) == ["a/0.png", "a/IMG_0001", "a/photo.jpg_large", "a/scan.png~"]
    assert "3 files recognised as images by the first bytes, whatever the name says: a/IMG_0001" in source.notes[0]
    assert all(read_records(tmp_path).digests)


def test_folders_that_systems_make_are_left_out_and_counted(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"a": 2, "b": 1, "__MACOSX/a": 2, "a/@eaDir": 2, "b/@eaDir/0.png": 1, "#recycle": 1})
    source = read(tmp_path)
    assert keys(source) == ["a/0.png", "a/1.png", "b/0.png"]
    assert source.notes == ("folders left out that systems make, with copies: 1 #recycle, 2 @eaDir, 1 __MACOSX",)


def test_a_linked_class_folder_is_a_class(tmp_path: Path) -> None:
    draw_folder(tmp_path / "store", {"cats": 2})
    draw_folder(tmp_path / "set", {"dog": 1})
    (tmp_path / "set/cat").symlink_to(tmp_path / "store/cats", target_is_directory=True)
    source = read(tmp_path / "set")
    assert (keys(source), source.notes) == (["cat/0.png", "cat/1.png", "dog/0.png"], ())


def test_a_link_never_takes_the_place_of_the_folder_it_leads_to_and_is_said(tmp_path: Path) -> None:
    draw_folder(tmp_path / "set", {"m": 2, "n/deep": 1})
    for name, target in (("a", "set/m"), ("z", "set/m"), ("n/up", "set"), ("n/over", "."), ("n/deep/side", "set/n")):
        (tmp_path / "set" / name).symlink_to(tmp_path / target, target_is_directory=True)
    source = read(tmp_path / "set")
    assert keys(source) == ["m/0.png", "m/1.png", "n/deep/0.png"]
    assert source.notes == (
        "links left out, whose folders are listed under another name: a, n/deep/side, n/over and 2 more",
    )


def test_two_links_to_one_folder_outside_list_it_once(tmp_path: Path) -> None:
    draw_folder(tmp_path / "store", {"cats": 1})
    draw_folder(tmp_path / "set", {"dog": 1})
    for name in ("cat", "feline"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "store/cats", target_is_directory=True)
    source = read(tmp_path / "set")
    assert keys(source) == ["cat/0.png", "dog/0.png"]
    assert "another name: feline" in source.notes[0]


def test_links_to_nothing_and_to_themselves_are_records_that_cannot_be_read(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"a": 1})
    (tmp_path / "a/gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "a/self.png").symlink_to(tmp_path / "a/self.png")
    assert read_records(tmp_path).unreadable().keys == ["a/gone.png", "a/self.png"]


def test_pipes_are_left_out_and_never_waited_for(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"a": 1})
    for name in ("pipe.png", "pipe"):
        os.mkfifo(tmp_path / "a" / name)
    source = read(tmp_path)
    assert keys(source) == ["a/0.png"]
    assert source.notes == ("left out, as no files but pipes, sockets or devices: a/pipe, a/pipe.png",)


def test_images_in_no_folder_have_no_label_and_are_the_gallery(tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / f"{number}.png", number)
    records = read_records(tmp_path)
    assert records.labels == [None] * 3
    assert records.split("gallery").keys == ["0.png", "1.png", "2.png"]
    assert len(records.split("query")) == len(records.split("train")) == 0


def test_images_directly_in_a_split_have_no_label(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"train/a": 2, "test/b": 2, "distractor": 1})
    roles = {"split": "folder", "train": "train", "query": "test"}
    records = read_records(FolderConfig(path=str(tmp_path), **roles, gallery=("test", "distractor")))  # type: ignore[arg-type]
    assert records.split("gallery").labels == [None, "b", "b"]
    draw(tmp_path / "train/x.png", 5)
    with pytest.raises(RecordsError, match=r"'train/x\.png'\) is in train .* has no label"):
        read_records(FolderConfig(path=str(tmp_path), **roles, gallery="test"))  # type: ignore[arg-type]
