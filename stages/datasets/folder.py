"""A folder of images: the folder that an image lies in is its class. Images in no folder below it have no label."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cache.errors import AbsentPathError, RecordsError
from cache.source import ImageSource
from cache.storage import is_url
from stages.datasets.columns import text_table
from stages.datasets.config import Source, SourceConfig
from stages.datasets.folder_files import EXTENSIONS, list_files, list_objects
from stages.datasets.labels import label_column


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
                "name their classes; all must, or none. Where the classes are known otherwise, list the images in a "
                "table: kind = 'table'."
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
