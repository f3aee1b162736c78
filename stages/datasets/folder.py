"""A folder of images: the folder that an image lies in is its class, and nothing is passed over without a word.

Links are followed, and no folder is listed twice: real folders come before links, so that a link never takes the place
of the folder that it leads to; one that leads back up ends there.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cache.errors import AbsentPathError, RecordsError
from cache.source import ImageSource
from cache.storage import is_url, storage_of
from stages.datasets.config import Source, SourceConfig, label_column, text_table

# The extensions of images in a folder; a table may name files of any extension, or none.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".avif", ".jp2"})
_HEIC = frozenset({".heic", ".heif"})  # with the extra that reads them
LITTER = frozenset(
    {"__MACOSX", "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "$RECYCLE.BIN",
     "System Volume Information", "lost+found"}
)  # fmt: skip
"""Folders that systems and archivers make, with copies of what lies beside them."""

# Raw photographs often are TIFF files by their first bytes, and what opens in them is a thumbnail.
_RAW = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mos", ".nef", ".nrw", ".orf", ".pef",
     ".raf", ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f"}
)  # fmt: skip
_BESIDE = frozenset(
    {".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".npy", ".npz", ".parquet", ".py", ".sh", ".tar",
     ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
)  # fmt: skip
"""What people keep beside images: not opened, and not worth a word."""

_HEADS: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (name, re.compile(head, re.DOTALL))
    for name, head in (
        ("jpeg", rb"\xff\xd8\xff"),
        ("png", rb"\x89PNG\r\n\x1a\n"),
        ("gif", rb"GIF8[79]a"),
        ("webp", rb"RIFF....WEBP"),
        ("bmp", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),  # with the size of its second header
        ("tiff", rb"(?!.{8}CR)(?:II[*+]\0|MM\0[*+])"),  # but no Canon raw, which begins like one
        ("jp2", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        ("avif", rb"....ftyp(?:avi[fs]|(?:mif1|msf1)....(?:....)*?avi[fs])"),
        ("heic", rb"....ftyp(?:he[iv][cxms]|mif1|msf1)"),
    )
)


@dataclass(frozen=True, kw_only=True)
class FolderConfig(SourceConfig):
    """``kind = "folder"``: images below ``path``, labelled by their folder, ``fruit/apple`` for nested ones.

    Attributes:
        split: ``folder``: the first level of folders is the split and the rest the label. An image directly in one has
            no label.
        strip: take labels without spaces around them, and in one Unicode form.
    """

    kind: Literal["folder"] = "folder"
    split: Literal["folder", "class-disjoint"] | None = None
    strip: bool = True

    def read(self) -> Source:
        """List the images by path, and say what else is there."""
        root, far = Path(self.path), is_url(self.path)
        if not far and not root.exists():
            raise AbsentPathError(f"{root} does not exist; path names the folder of images, seen from {Path.cwd()}")
        if not far and not root.is_dir():
            raise RecordsError(f"{root} is not a folder. For a table of images set kind = 'table'.")
        files = list_objects(self.path) if far else list_files(root)
        if not files.images:
            skipped = f" {files.notes()[0]}." if files.skipped else ""
            raise RecordsError(
                f"{root} holds no image (looked for {', '.join(sorted(EXTENSIONS))} in it and below it).{skipped} "
                "Images within .tar shards are kind = 'webdataset', images within Parquet files kind = 'parquet'."
            )
        direct = [path for path in files.images if len(path.parts) == 1]
        if 0 < len(direct) < len(files.images):
            raise RecordsError(
                f"{len(direct):,} images lie directly in {root} (the first: {direct[0]}), and others in folders that "
                "name their classes; all must, or none. Or list the images in a table: kind = 'table'."
            )
        for path in files.images:
            refuse_not_utf8(root / path)
        by_folder = self.split == "folder"
        if by_folder and direct:
            raise RecordsError(f"split = 'folder' takes SPLIT/CLASS/IMAGE, but {root / direct[0]} is in no folder")
        folders = [path.parent.relative_to(path.parts[0] if by_folder else ".").as_posix() for path in files.images]
        labels = [None if folder == "." else folder for folder in folders]
        label, notes = label_column(text_table({"label": labels}), ["label"], strip=self.strip)
        columns = {
            "key": [path.as_posix() for path in files.images],
            "uri": [
                ImageSource(f"{self.path.rstrip('/')}/{path}" if far else str(root / path)).uri for path in files.images
            ],
        }
        if by_folder:
            columns["split"] = [path.parts[0] for path in files.images]
        return Source(text_table(columns).append_column("label", label), notes=(*files.notes(), *notes))


def refuse_not_utf8(path: Path) -> None:
    """Raise :class:`RecordsError` for a file name that no table can hold."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise RecordsError(f"the file name {os.fsencode(path)!r} is not UTF-8: rename it") from None


@dataclass
class FolderFiles:
    """``images`` below a folder, as paths in it, and what is left out or was recognised."""

    images: list[Path] = field(default_factory=list)
    recognised: list[Path] = field(default_factory=list)
    """Images by their first bytes, with another extension or none."""
    skipped: Counter[str] = field(default_factory=Counter)  # other files, by their extension
    litter: Counter[str] = field(default_factory=Counter)
    repeated: list[Path] = field(default_factory=list)  # links to folders that are listed under another name
    special: list[Path] = field(default_factory=list)

    def sort_in(self, path: Path, file: str | None = None) -> None:
        """Take a file for what its extension says, or its first bytes where it can be opened as ``file``."""
        extension = path.suffix.lower()
        if extension in EXTENSIONS or (extension in _HEIC and _reads_heic()):
            self.images.append(path)
        elif extension not in _BESIDE:
            if extension not in _RAW | _HEIC and file is not None and _is_image(file):
                self.recognised.append(path)
            else:
                self.skipped[extension] += 1

    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
        notes = []
        if self.skipped:
            counts = sorted(self.skipped.items(), key=lambda entry: (-entry[1], entry[0]))
            listed = ", ".join(f"{count:,} {extension or 'without extension'}" for extension, count in counts)
            convert = sorted(extension for extension in self.skipped if extension in _RAW | _HEIC)
            hint = f". Convert {', '.join(convert)} to JPEG, PNG or TIFF to have them" if convert else ""
            if _HEIC & self.skipped.keys():
                hint += "; HEIC is read with pip install 'permafrost-retrieval[heic]'"
            notes.append(f"{_files(self.skipped.total())} skipped: {listed}{hint}")
        if self.recognised:
            what = f"{_files(len(self.recognised))} recognised as images by the first bytes, whatever the name says"
            notes.append(f"{what}: {_listed(self.recognised)}")
        if self.litter:
            names = ", ".join(f"{count:,} {name}" for name, count in sorted(self.litter.items()))
            notes.append(f"folders left out that systems make, with copies: {names}")
        if self.repeated:
            notes.append(f"links left out, whose folders are listed under another name: {_listed(self.repeated)}")
        if self.special:
            notes.append(f"left out, as no files but pipes, sockets or devices: {_listed(self.special)}")
        return tuple(notes)


def list_files(root: Path) -> FolderFiles:
    """List the images below ``root`` by path, whatever the file system's order; hidden files are left out."""
    files = FolderFiles()
    for folder, entries in _folders(root, files):
        for entry in entries:
            path = folder / entry.name
            if not entry.is_file(follow_symlinks=False) and not _leads_to_a_file(entry):
                files.special.append(path)
            else:
                files.sort_in(path, entry.path)
    files.images = sorted([*files.images, *files.recognised], key=lambda path: path.parts)
    files.recognised.sort()
    files.repeated.sort()
    return files


def list_objects(address: str) -> FolderFiles:
    """:func:`list_files` below an address in object storage: images go by their extension, and none is opened."""
    files = FolderFiles()
    for key in storage_of(address).list():
        path = Path(key)
        if hidden := [part for part in path.parts if part.startswith(".") or part in LITTER]:
            files.litter.update(hidden[:1] if hidden[0] in LITTER else [])
        else:
            files.sort_in(path)
    files.images.sort(key=lambda path: path.parts)
    return files


def _folders(root: Path, files: FolderFiles) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """Every folder in ``root`` and its entries that are no folders; all real folders, and then those behind links."""
    listed = {_identity(folder) for folder in root.resolve().parents}
    folders, links = [Path()], list[Path]()
    while folders or links:
        links.sort()
        folder = folders.pop() if folders else links.pop(0)
        if (identity := _identity(root / folder)) in listed:
            files.repeated.append(folder)
            continue
        listed.add(identity)
        entries = []
        try:
            with os.scandir(root / folder) as scanned:
                visible = sorted((e for e in scanned if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise RecordsError(f"the folder {root / folder} cannot be listed: {error.strerror}") from error
        for entry in visible:
            if not entry.is_dir(follow_symlinks=False) and not (entry.is_symlink() and Path(entry.path).is_dir()):
                entries.append(entry)
            elif entry.name in LITTER:
                files.litter[entry.name] += 1
            else:
                (links if entry.is_symlink() else folders).append(folder / entry.name)
        yield folder, entries


def _leads_to_a_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to a file, or to nothing: that becomes a record which cannot be read."""
    target = Path(entry.path)
    return entry.is_symlink() and (target.is_file() or not target.exists())


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            kind = image_type(file.read(64))
    except OSError:
        return False
    return _reads_heic() if kind == "heic" else kind is not None


def _reads_heic() -> bool:
    return find_spec("pi_heif") is not None


def _files(count: int) -> str:
    return f"{count:,} file" + ("s" if count > 1 else "")


def _listed(paths: Sequence[Path], most: int = 3) -> str:
    more = f" and {len(paths) - most:,} more" if len(paths) > most else ""
    return ", ".join(map(str, paths[:most])) + more


def image_type(first_bytes: bytes) -> str | None:
    r"""The kind of image that begins with ``first_bytes``, 64 or more, ``jpeg`` or ``heic``; None for others.

    >>> image_type(b"\xff\xd8\xff\xe0 and so on"), image_type(b"<html>")
    ('jpeg', None)
    """
    return next((name for name, head in _HEADS if head.match(first_bytes)), None)
