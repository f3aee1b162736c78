"""The rows that a head learns from: those of the records that have a feature, and what names them."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import torch
from torch import Tensor

from cache import FeatureStore
from stages.records import Records


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
