"""A folder of images: the folder an image lies in is its class."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from cache.errors import RecordsError
from cache.source import ImageSource
from stages.datasets.config import DatasetConfig, Source

# What counts as an image in a folder; a table may name files of any extension, or none.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".avif", ".jp2"})


def read_folder(config: DatasetConfig) -> Source:
    """List the images below ``config.path``: the label is the folder's path, ``fruit/apple`` for nested ones.

    With ``split = "folder"`` the first level of folders is the split and the rest the label. Hidden files are left
    out; the order is by path, whatever the file system's.
    """
    root = Path(config.path)
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
            f"{len(direct):,} images lie directly in {root} (the first: {direct[0]}); each must lie in a folder that "
            "names its class. Where the classes are known otherwise, list the images in a table: kind = 'table'."
        )
    if odd := [path for path in paths if not _is_text(path)]:
        raise RecordsError(f"the file name {os.fsencode(odd[0])!r} in {root} is not UTF-8: rename it")
    by_folder = config.split == "folder"
    if by_folder and (shallow := [path for path in paths if len(path.parts) == 2]):
        raise RecordsError(f"split = 'folder' takes SPLIT/CLASS/IMAGE, but {root / shallow[0]} has no class folder")
    columns = {
        "key": [path.as_posix() for path in paths],
        "uri": [ImageSource(str(root / path)).uri for path in paths],
        "label": [path.parent.relative_to(path.parts[0] if by_folder else ".").as_posix() for path in paths],
        "split": [path.parts[0] if by_folder else None for path in paths],
        "domain": [None] * len(paths),
        "tags": [None] * len(paths),
    }
    return Source(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), by_folder)


def _images(root: Path) -> list[Path]:
    found, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder that was listed already, or to a parent
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = Path(folder).relative_to(root)
        found += [below / n for n in names if Path(n).suffix.lower() in EXTENSIONS and not n.startswith(".")]
    return found


def _is_text(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
