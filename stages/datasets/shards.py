"""The files that a dataset of many images a file is made of, and the members of those that are tars.

``tarfile`` takes a damaged header, a missing end and a second archive behind the first all for the end of the tar.
Here each of them is an error that says after which member it is.
"""

from __future__ import annotations

import glob
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cache.errors import AbsentPathError, RecordsError
from cache.storage import absolute, is_url, open_file, storage_of
from stages.datasets.folder import refuse_not_utf8

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_PACKED_TAR = (".tgz", ".tbz2", ".txz")
_NUMBER = re.compile(r"(?:^|[-_.])[0-9]+(?:-of-[0-9]+)?(?:-[0-9a-f]{16})?$")  # the last as older Hub files end
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_READ = 1 << 20
_REMEDY = "Copy or download it again: what else it should hold cannot be known."


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


class Member(NamedTuple):
    """A regular file in a tar: ``size`` bytes of the tar, from ``offset`` on."""

    name: str
    offset: int
    size: int


def list_members(path: str) -> Iterator[Member]:
    """The regular files in the tar ``path``, in their order. RecordsError for a tar that is damaged or strange."""
    try:
        with open_file(path) as file:
            total = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield from _members(path, file, total)
    except (tarfile.TarError, OSError) as error:
        raise RecordsError(f"{path} cannot be read as a tar: {error}") from error


def _members(path: str, file: BinaryIO, total: int) -> Iterator[Member]:
    start = file.read(8)
    if name := next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None):
        raise RecordsError(
            f"{path} is compressed with {name}, so one image cannot be read without all before it: unpack it"
        )
    file.seek(0)
    after = "at its beginning"
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while True:
            try:
                entry = tar.next()
            except tarfile.ReadError as error:
                raise RecordsError(f"{path} is cut off or damaged {after}: {error}. {_REMEDY}") from error
            if entry is None:
                break
            tar.members.clear()  # type: ignore[attr-defined]  # it keeps all headers: of millions, gigabytes
            _refuse_strange(path, entry)
            end = entry.offset_data + entry.size
            if entry.size < 0 or end > total:
                raise RecordsError(
                    f"{path} is cut off in its member {entry.name!r}, which should end at byte {end:,}; "
                    f"the file has {total:,}. {_REMEDY}"
                )
            after = f"after its member {entry.name!r}"
            if entry.isfile():
                yield Member(entry.name.removeprefix("./"), entry.offset_data, entry.size)
        _refuse_more(path, file, tar.offset, after)


def _refuse_strange(path: str, entry: tarfile.TarInfo) -> None:
    where = f"{path}, member {entry.name!r}"
    try:
        entry.name.encode("utf-8")
    except UnicodeEncodeError:
        raise RecordsError(f"{where}: its name is not UTF-8; rename it") from None
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        raise RecordsError(f"{where}: a name must lie within the tar, without a leading / and without ..; rename it")
    if entry.issparse():
        raise RecordsError(f"{where}: it is stored sparse, its bytes are not all there; write the tar without --sparse")
    if not entry.isfile() and not entry.isdir():
        raise RecordsError(
            f"{where}: it is no file but a link or a device; write the tar with the files themselves "
            "(tar --dereference --hard-dereference)"
        )


def _refuse_more(path: str, file: BinaryIO, offset: int, after: str) -> None:
    """A tar ends with blocks of zeros, and with nothing behind them."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        raise RecordsError(f"{path} is cut off {after}: the empty blocks that end a tar are not there. {_REMEDY}")
    if block.strip(b"\0"):
        raise RecordsError(f"{path} is cut off or damaged {after}: no header of a member at byte {offset:,}. {_REMEDY}")
    while block := file.read(_READ):
        if block.strip(b"\0"):
            raise RecordsError(
                f"{path} goes on behind its end, {after}: it is several tars in one file. Make a shard of each."
            )
