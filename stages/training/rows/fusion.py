"""Fused features: those of several stores side by side, each of unit length, with or without the image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cache import Failure, FeatureStore, Identity
from cache.errors import SettingsError, StoreError
from cache.features import PROPORTIONS, fuse, fused_checksums, fused_name, image_proportions
from cache.fingerprint import JSON


class FusedFeatures:
    """Reads like a store (:class:`cache.Features`); nothing is written.

    A row is the rows of ``stores`` one after the other, each of unit length, in the widest stored dtype; ``blocks`` are
    the sizes of these parts. ``sizes`` adds three numbers of an image of H x W pixels: H / W, H / 224 and W / 224
    (fifth place of the Google Universal Image Embedding Challenge).

    >>> import tempfile
    >>> from cache import FeatureStore, Identity, Provenance
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stores = [
    ...         FeatureStore.open(folder, name, Identity({"name": name}), dim=4, provenance=Provenance("cpu", {}))
    ...         for name in ("a", "b")
    ...     ]
    ...     fused = FusedFeatures(stores, sizes=True)
    >>> fused.name, fused.dim, fused.blocks
    ('a+b+sizes', 11, (4, 4, 3))
    """

    def __init__(self, stores: Sequence[FeatureStore], *, sizes: bool = False) -> None:
        if not stores:
            raise SettingsError("features are fused from at least one store, got none")
        if len({store.fingerprint for store in stores}) < len(stores):
            raise SettingsError(f"two of the stores are the same: {', '.join(store.folder for store in stores)}")
        if len({store.views for store in stores}) > 1:
            counts = ", ".join(f"{store.folder} has {store.views}" for store in stores)
            raise StoreError(f"fused stores must hold the same views of each image, but {counts}")
        self.stores, self.sizes = tuple(stores), sizes
        self.name = fused_name([store.name for store in stores], sizes=sizes)
        self.address = stores[0].address  # for messages
        fused: list[JSON] = [store.fingerprint for store in stores]
        self.identity = Identity({"fused": fused, "sizes": sizes})
        self.fingerprint = self.identity.fingerprint
        self.blocks = (*(store.dim for store in stores), *([PROPORTIONS] if sizes else []))
        self.dim, self.views = sum(self.blocks), stores[0].views
        self.dtype: np.dtype[np.generic] = np.result_type(*(store.dtype for store in stores))

    def digests(self) -> list[bytes]:
        """The digest of every image with a feature in every store, in the order of the first."""
        digests = self.stores[0].digests()
        return [digest for digest, usable in zip(digests, self.usable(digests), strict=True) if usable]

    def usable(self, digests: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """True where ``digests`` (n,) has a feature in every store."""
        return np.asarray(np.all([store.usable(digests) for store in self.stores], axis=0))

    def failures(self, digests: Sequence[bytes] | None = None) -> list[Failure]:
        """The images among ``digests`` (by default all) without a feature in some store, each with its first reason."""
        failures: dict[bytes, Failure] = {}
        for store in self.stores:
            for failure in store.failures(digests):
                failures.setdefault(failure.digest, failure)
        return list(failures.values())

    def checksums(self, digests: Sequence[bytes]) -> npt.NDArray[np.uint32]:
        """A checksum (n,) of the rows of ``digests`` (n,) in all stores."""
        return fused_checksums([store.checksums(digests) for store in self.stores])

    def absent(self, digests: Sequence[bytes]) -> list[bytes]:
        """Those of ``digests`` that have no row of any kind in some store, each once."""
        missing = {digest for store in self.stores for digest in store.absent(digests)}
        return [digest for digest in dict.fromkeys(digests) if digest in missing]

    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The rows (n, D) of ``digests`` (n,), of the first view. MissingRowsError as a store raises it."""
        return fuse([store.read(digests) for store in self.stores], self.dtype, self._image_sizes(digests))

    def read_views(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The rows (n, V, D) of all views of ``digests`` (n,)."""
        parts = [store.read_views(digests).reshape(-1, store.dim) for store in self.stores]
        sizes = self._image_sizes(digests)
        fused = fuse(parts, self.dtype, None if sizes is None else np.repeat(sizes, self.views, axis=0))
        return fused.reshape(len(digests), self.views, self.dim)

    def _image_sizes(self, digests: Sequence[bytes]) -> npt.NDArray[np.float32] | None:
        """H / W, H / 224 and W / 224 of the images ``digests`` (n,), (n, 3), where they are part of a row."""
        if not self.sizes:
            return None
        height, width = self._known[:, self.stores[0].row_numbers(digests)]
        if unknown := np.flatnonzero((height == 0) | (width == 0)).tolist():
            raise StoreError(
                f"{self.address} does not know the size of {len(unknown):,} of {len(digests):,} images, the first of "
                f"digest {digests[unknown[0]].hex()[:16]}. Leave sizes out, or extract these features anew."
            )
        sizes = image_proportions(height, width)
        if past := np.flatnonzero(sizes.max(axis=1, initial=0) > np.finfo(str(self.dtype)).max).tolist():
            raise StoreError(
                f"{self.address} has {len(past):,} images whose size {self.dtype} cannot hold, the first of digest "
                f"{digests[past[0]].hex()[:16]}: {height[past[0]]:.0f} x {width[past[0]]:.0f} pixels. Leave sizes out, "
                "or these images."
            )
        return sizes

    @cached_property
    def _known(self) -> npt.NDArray[np.float32]:
        """The heights and widths (2, rows + 1) in the first store by row number; 0 where unknown, and at the end."""
        chunks, size = self.stores[0].chunks(), self.stores[0].chunk_rows
        known = np.zeros((2, (max(chunks, default=-1) + 1) * size + 1), np.float32)
        for number, rows in chunks.items():
            for axis, name in enumerate(("height", "width")):
                known[axis, number * size : number * size + len(rows)] = rows[name].fill_null(0)
        return known
