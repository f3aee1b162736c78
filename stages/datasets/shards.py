"""The files that a dataset of many images a file is made of."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import NamedTuple

from cache.errors import AbsentPathError, RecordsError
from cache.storage import absolute, is_url, storage_of
from stages.datasets.folder import refuse_not_utf8

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
        path = Path(absolute(self.path))
        return _NUMBER.sub("", path.stem) or path.parent.name


def find_shards(where: str, suffix: str) -> list[Shard]:
    """The files that ``where`` names: one file, a pattern, or a folder with files ending in ``suffix`` below it.

    They come ordered by path, hidden ones left out. Compressed ones are refused, which would else be passed over.
    """
    if is_url(where):
        return _objects(where, suffix)
    path = Path(where)
    if path.is_dir():
        ends = (suffix, *(suffix + end for end in _PACKED), *(_PACKED_TAR if suffix == ".tar" else ()))
        root, none = path, f"holds no file that ends in {suffix}, nor does a folder in it"
        files = [file for file in path.rglob("*") if file.name.lower().endswith(ends)]
    elif path.exists():
        if not path.is_file():
            raise RecordsError(f"{where} is no regular file: copy what it gives into one")
        return [_shard(path, path.parent, suffix)]
    elif glob.has_magic(where):
        above = next(at for at, part in enumerate(path.parts) if glob.has_magic(part))
        root, none = Path(*path.parts[:above]), f"matches no file, seen from {Path.cwd()}"
        files = list(root.glob("/".join(path.parts[above:])))
    else:
        hint = " Braces are not expanded: write a pattern with * or ?." if "{" in where else ""
        raise AbsentPathError(f"{where} does not exist, seen from {Path.cwd()}.{hint}")
    files = [file for file in files if file.is_file() and not _hidden(file.relative_to(root))]
    if not files:
        raise RecordsError(f"{where} {none}")
    return [_shard(file, root, suffix) for file in sorted(files, key=lambda file: file.parts)]


def _objects(where: str, suffix: str) -> list[Shard]:
    """:func:`find_shards` of one object, or of all below an address."""
    if where.lower().endswith(suffix):
        return [Shard(where, where.rpartition("/")[2].removesuffix(suffix))]
    storage = storage_of(where)
    keys = [key for key in storage.list() if not _hidden(Path(key))]
    if packed := [key for key in keys if key.lower().endswith((*(suffix + end for end in _PACKED), *_PACKED_TAR))]:
        raise RecordsError(f"{storage.address(packed[0])} is compressed, so no image can be read alone: unpack it")
    shards = [Shard(storage.address(key), key.removesuffix(suffix)) for key in keys if key.lower().endswith(suffix)]
    if not shards:
        raise RecordsError(f"{where} holds no object that ends in {suffix}; a pattern is not looked for there")
    return shards


def _shard(file: Path, root: Path, suffix: str) -> Shard:
    if file.name.lower().endswith(_PACKED + _PACKED_TAR):
        raise RecordsError(f"{file} is compressed, so one image cannot be read without all before it: unpack it")
    refuse_not_utf8(file)
    return Shard(str(file), file.relative_to(root).as_posix().removesuffix(suffix))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
