"""The files that a dataset of many images a file is made of."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import NamedTuple

from cache.errors import RecordsError
from stages.datasets.folder import is_utf8

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_PACKED_TAR = (".tgz", ".tbz2", ".txz")
_NUMBER = re.compile(r"(?:^|[-_.])[0-9]+(?:-of-[0-9]+)?(?:-[0-9a-f]{16})?$")  # the last as older Hub files end


class Shard(NamedTuple):
    """One file of the dataset."""

    path: str
    name: str
    """Its path below the folder that holds all of them, without the suffix: how the keys of its images begin."""

    @property
    def split(self) -> str:
        """What its file name says the split is: ``train`` of ``train-00000-of-00005`` and of ``train/00000``."""
        path = Path(self.path).absolute()
        return _NUMBER.sub("", path.stem) or path.parent.name


def find_shards(where: str, suffix: str) -> list[Shard]:
    """The files that ``where`` names: one file, a pattern, or a folder with files ending in ``suffix`` in or below it.

    They come ordered by path, hidden ones left out. Raises :class:`RecordsError` where there is none, and for a
    compressed one, which would else be passed over.
    """
    path = Path(where)
    if path.is_dir():
        root, ends = path, (suffix, *(suffix + end for end in _PACKED), *(_PACKED_TAR if suffix == ".tar" else ()))
        files = [file for file in path.rglob("*") if file.name.lower().endswith(ends) and file.is_file()]
        files = [file for file in files if not _hidden(file.relative_to(root))]
        if not files:
            raise RecordsError(f"{where} holds no file that ends in {suffix}, nor does a folder in it")
    elif path.exists():
        root, files = path.parent, [path]
    elif glob.has_magic(where):
        above = next(at for at, part in enumerate(path.parts) if glob.has_magic(part))
        root = Path(*path.parts[:above])
        files = [file for file in root.glob("/".join(path.parts[above:])) if file.is_file()]
        files = [file for file in files if not _hidden(file.relative_to(root))]
        if not files:
            raise RecordsError(f"{where} matches no file, seen from {Path.cwd()}")
    else:
        hint = " Braces are not expanded: write a pattern with * or ?." if "{" in where else ""
        raise RecordsError(f"{where} does not exist, seen from {Path.cwd()}.{hint}")
    for file in files:
        if file.name.lower().endswith(_PACKED + _PACKED_TAR):
            raise RecordsError(f"{file} is compressed, so one image cannot be read without all before it: unpack it")
        if not is_utf8(str(file)):
            raise RecordsError(f"the file name {os.fsencode(file)!r} is not UTF-8: rename it")
    shards = [(file, file.relative_to(root).as_posix().removesuffix(suffix)) for file in files]
    return [Shard(str(file), name) for file, name in sorted(shards, key=lambda shard: shard[0].parts)]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
