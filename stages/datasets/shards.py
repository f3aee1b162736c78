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
    path, far = Path(where), is_url(where)
    if far and where.lower().endswith(suffix):
        return [Shard(where, where.rpartition("/")[2].removesuffix(suffix))]
    if far or path.is_dir():
        storage = storage_of(where)
        ends = (suffix, *(suffix + end for end in _PACKED), *(_PACKED_TAR if suffix == ".tar" else ()))
        none = f"holds no file that ends in {suffix}{'; a pattern is not looked for there' if far else ''}"
        files = {key: storage.address(key) for key in storage.list() if key.lower().endswith(ends)}
    elif path.exists():
        if not path.is_file():
            raise RecordsError(f"{where} is no regular file: copy what it gives into one")
        none, files = "", {path.name: str(path)}
    elif glob.has_magic(where):
        above = next(at for at, part in enumerate(path.parts) if glob.has_magic(part))
        root, none = Path(*path.parts[:above]), f"matches no file, seen from {Path.cwd()}"
        matches = [file for file in root.glob("/".join(path.parts[above:])) if file.is_file()]
        files = {file.relative_to(root).as_posix(): str(file) for file in matches}
    else:
        hint = " Braces are not expanded: write a pattern with * or ?." if "{" in where else ""
        raise AbsentPathError(f"{where} does not exist, seen from {Path.cwd()}.{hint}")
    names = [name for name in files if path.is_file() or not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        raise RecordsError(f"{where} {none}")
    shards = []
    for name in sorted(names, key=lambda name: name.split("/")):
        if name.lower().endswith(_PACKED + _PACKED_TAR):
            raise RecordsError(
                f"{files[name]} is compressed, so one image cannot be read without all before it: unpack it"
            )
        refuse_not_utf8(Path(files[name]))
        shards.append(Shard(files[name], name.removesuffix(suffix)))
    return shards
