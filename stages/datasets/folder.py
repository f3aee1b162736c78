"""A folder of images: the folder that an image lies in is its class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cache.errors import RecordsError
from cache.source import ImageSource
from stages.datasets.columns import text_table
from stages.datasets.config import Source, SourceConfig
from stages.datasets.labels import label_column

# The extensions of images in a folder; a table may name files of any extension, or none.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".avif", ".jp2"})


@dataclass(frozen=True, kw_only=True)
class FolderConfig(SourceConfig):
    """``kind = "folder"``: images below ``path``, labelled by their folder, ``fruit/apple`` for nested ones.

    Attributes:
        split: ``folder``: the first level of folders is the split and the rest the label.
        strip: take labels without spaces around them, and in one Unicode form.
    """

    kind: Literal["folder"] = "folder"
    split: Literal["folder", "class-disjoint"] | None = None
    strip: bool = True

    def read(self) -> Source:
        """List the images by path, whatever the file system's order; hidden files are left out."""
        root = Path(self.path)
        if not root.exists():
            raise RecordsError(f"{root} does not exist; path names the folder of images, seen from {Path.cwd()}")
        if not root.is_dir():
            raise RecordsError(f"{root} is not a folder. For a table of images set kind = 'table'.")
        paths = sorted(_images(root), key=lambda path: path.parts)
        if not paths:
            raise RecordsError(
                f"{root} holds no image (looked for {', '.join(sorted(EXTENSIONS))} in it and below it). "
                "Images within .tar shards are kind = 'webdataset', images within Parquet files kind = 'parquet'."
            )
        if direct := [path for path in paths if len(path.parts) == 1]:
            raise RecordsError(
                f"{len(direct):,} images lie directly in {root} (the first: {direct[0]}); each must lie in a folder "
                "that names its class. Where the classes are known otherwise, list the images in a table: "
                "kind = 'table'."
            )
        for path in paths:
            refuse_not_utf8(root / path)
        by_folder = self.split == "folder"
        if by_folder and (shallow := [path for path in paths if len(path.parts) == 2]):
            raise RecordsError(f"split = 'folder' takes SPLIT/CLASS/IMAGE, but {root / shallow[0]} has no class folder")
        folders = [path.parent.relative_to(path.parts[0] if by_folder else ".").as_posix() for path in paths]
        label, notes = label_column(text_table({"label": folders}), ["label"], strip=self.strip)
        columns = {
            "key": [path.as_posix() for path in paths],
            "uri": [ImageSource(str(root / path)).uri for path in paths],
        }
        if by_folder:
            columns["split"] = [path.parts[0] for path in paths]
        return Source(text_table(columns).append_column("label", label), notes=notes)


def _images(root: Path) -> list[Path]:
    images: list[Path] = []
    visited: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder that was listed already, or to a parent
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = Path(folder).relative_to(root)
        images += [below / n for n in names if Path(n).suffix.lower() in EXTENSIONS and not n.startswith(".")]
    return images


def refuse_not_utf8(path: Path) -> None:
    """Raise :class:`RecordsError` for a file name that no table can hold."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise RecordsError(f"the file name {os.fsencode(path)!r} is not UTF-8: rename it") from None
