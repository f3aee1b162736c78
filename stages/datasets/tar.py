"""The members of a plain tar: where the bytes of each are. Nothing is unpacked, and nothing silently passed over.

``tarfile`` takes a damaged header, a missing end and a second archive behind the first all for the end of the tar.
Here each of them is an error that says after which member it is.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from cache.errors import RecordsError
from cache.storage import open_file

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_READ = 1 << 20


class Member(NamedTuple):
    """A regular file in a tar: ``size`` bytes of the tar, from ``offset`` on."""

    name: str
    offset: int
    size: int


def list_members(path: str) -> Iterator[Member]:
    """The regular files in the tar ``path``, in their order, without a leading ``./``.

    Raises :class:`RecordsError` for a tar that is compressed, cut off or damaged, and for a member that is a link,
    sparse, or named as if to lie outside.
    """
    try:
        with open_file(path) as file:
            total = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield from _members(path, file, total)
    except (tarfile.TarError, OSError) as error:
        raise RecordsError(f"{path} cannot be read as a tar: {error}") from error


def _members(path: str, file: BinaryIO, total: int) -> Iterator[Member]:
    start = file.read(8)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
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


_REMEDY = "Copy or download it again: what else it should hold cannot be known."


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
