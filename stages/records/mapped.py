"""A large table as a memory map: the system may put its pages aside, and the process holds none of it."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path

import pyarrow as pa

_MANY = 1_000_000


def mapped(table: pa.Table, folder: Path | None) -> pa.Table:
    """``table`` with each column in one piece; of a million rows and more, mapped from a file without a name.

    The file is in ``folder`` and ends with the process. Where it cannot be written the table stays in memory.

    >>> mapped(pa.table({"n": pa.chunked_array([[1], [2]])}), None)["n"].num_chunks
    1
    """
    table = table.combine_chunks()
    if folder is None or len(table) < _MANY:
        return table
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                for batch in table.to_batches():
                    writer.write_batch(batch)
            file.flush()
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, pa.ArrowException):
        return table
    with pa.ipc.open_file(pa.py_buffer(content)) as opened:
        return opened.read_all()
