"""Where the images of records are, by digest, looked up in the table when they are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cache.digest_list import DigestIndex
from stages.records import Records


class Uris(Mapping[bytes, str]):
    """The URI of each image of ``records`` that could be read, by its digest; of equal ones the last.

    It holds 16 bytes an image besides the table. A worker needs those of its chunk alone.

    >>> import pyarrow as pa
    >>> table = pa.table({"uri": ["a.jpg", "b.jpg"], "digest": pa.array([b"x" * 32, None], pa.binary(32))})
    >>> dict(Uris(Records(table, {}))) == {b"x" * 32: "a.jpg"}
    True
    """

    def __init__(self, records: Records) -> None:
        self._digests = records.digests
        self._uris = records.table["uri"]
        self._index = DigestIndex(self._digests.take(np.s_[::-1]))

    def __getitem__(self, digest: bytes) -> str:
        place = int(self._index.find([digest])[0])
        if place < 0:
            raise KeyError(digest)
        return str(self._uris[len(self._digests) - 1 - place])

    def some(self, digests: Sequence[bytes]) -> dict[bytes, str]:
        """The URIs of ``digests``, all looked up at once."""
        places = self._index.find(digests)
        uris = self._uris.take(len(self._digests) - 1 - places).to_pylist()
        return dict(zip(digests, uris, strict=True))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._digests.readable().unique())

    def __len__(self) -> int:
        return len(self._digests.readable().unique())
