"""The rows that a head learns from: those of the records that have a feature, and what names them."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import torch
from torch import Tensor

from cache import FeatureStore
from cache.errors import MissingRowsError
from stages.records import Records


def with_features(features: FeatureStore, records: Records) -> Records:
    """The records whose image has a feature in the store, in their order.

    An image that failed is left out. Raises MissingRowsError for one that was never extracted.
    """
    digests = records.digests
    usable = features.usable(digests)
    failed = {failure.digest for failure in features.failures(digests)} | {b""}
    never = [row for row in np.flatnonzero(~usable) if digests[row] not in failed]
    if never:
        raise MissingRowsError(
            f"{features.path} has no row for {len(never):,} of {len(records):,} images, "
            f"the first of key {records.keys[never[0]]!r}. Extract them first."
        )
    return records.take(np.flatnonzero(usable))


def gather(features: FeatureStore, records: Records) -> Tensor:
    """The features (N, D) of ``records``, in the stored dtype, in memory."""
    return torch.from_numpy(np.asarray(features.read(records.digests)))


def rows_digest(records: Records) -> str:
    """The sha256 over the digests and labels of ``records``, in their order, 64 hexadecimal digits.

    Keys and paths are not in it: renaming an image trains nothing anew.
    """
    digest = hashlib.sha256()
    for content, label in zip(records.digests, records.classes, strict=True):
        name = b"" if label is None else b"=" + label.encode("utf-8", "surrogatepass")
        digest.update(struct.pack("<32sQ", content, len(name)) + name)
    return digest.hexdigest()
