"""A bundle: one folder with all that a search takes, which opens on another machine; docs/bundles.md says what it has.

What ``bundle.json`` describes never changes; images come and go by snapshots. A bundle may lie at an address in object
storage, with the same keys and bytes; what is opened there is copied to this machine first, each file verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from cache import LocalStorage, ObjectStorage, Storage, digest_file, fingerprint
from cache.errors import DamagedStoreError, MissingRowsError, WeightsError
from cache.layout import cache_folder, copy_object
from cache.sealed import read_sealed
from cache.storage import has, is_url, storage_of
from pipeline.thresholds import thresholds_of
from pipeline.views.pages import small_jpeg
from stages.analysis.open_set import PairShare
from stages.extraction import Backbone, BackboneConfig, Embedder, PcaBasis
from stages.extraction.backbones import announced_backbones
from stages.extraction.backbones.open_clip import OpenClipText, own_text
from stages.extraction.known import beyond_rounding, sample_of
from stages.processes import processors
from stages.training import Head

FILE, CARD, WEIGHTS, HEAD, THUMBNAILS = "bundle.json", "README.md", "weights", "head", "thumbnails"
FORMAT, VERSION = "permafrost bundle", 1
SIDE = 256  # pixels of the longer side of a thumbnail

MEND = "Copy the bundle again from where it was made, or export it again."
BACKBONE: TypeAdapter[BackboneConfig] = TypeAdapter(BackboneConfig)
"""Reads the configuration of a network, as it was written, again."""


class Bundle:
    """What ``bundle.json`` says (``described``), of a folder or address whose files are as they were written.

    ``path`` is the folder; of an address, that of the copies on this machine.

    >>> Bundle.open("empty")
    Traceback (most recent call last):
    cache.errors.MissingRowsError: empty holds no bundle. `permafrost export RUN.TOML -o empty` writes one.
    """

    def __init__(self, storage: Storage, path: Path, described: Mapping[str, Any]) -> None:
        self.storage, self.path, self.described = storage, path, described

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """The bundle at ``path``, a folder or the text of an address, each of its files checked; raises StoreError."""
        storage = storage_of(path)
        described = description(storage)
        folder = copy_folder(storage, described) if isinstance(storage, ObjectStorage) else Path(path)
        check_files(storage, described["files"], folder)
        return cls(storage, folder, described)

    @property
    def embeddings(self) -> str:
        """The fingerprint of the embeddings: every row of every snapshot is made by them."""
        return str(self.described["identity"]["embeddings"])

    @property
    def dim(self) -> int:
        """E, the size of a vector."""
        return int(self.described["identity"]["dim"])

    @property
    def thresholds(self) -> dict[str, float]:
        """From which similarity on there is a match, by the rate that it was chosen for: ``fpir 0.1``."""
        return thresholds_of(self.described["thresholds"])

    @property
    def shares(self) -> list[PairShare]:
        """What similarities mean, as ``permafrost threshold`` calibrated them; none where it did not."""
        return [PairShare(*step) for step in self.described.get("shares", [])]

    def thumbnail(self, digest: bytes) -> bytes | None:
        """The small picture of the image of this ``digest``, a JPEG file; None where there is none."""
        try:
            return self.storage.read(thumbnail_key(digest))
        except FileNotFoundError:
            return None

    def backbones(self, device: str = "cpu") -> list[Backbone]:
        """The backbones whose features are embedded, in the order of fusion; WeightsError where they compute others."""
        loaded = [self._loaded(entry, device) for entry in self.described["backbones"]]
        return [loaded[entry][output] for entry, output in self.described["features"]]

    def embedder(self, device: str = "cpu") -> Embedder:
        """What embeds images as the rows of the snapshots were, with its networks on ``device``."""
        head = Head.load(self.path / HEAD) if self.described["identity"]["head"] else None
        return Embedder(self.backbones(device), dtype=self.described["dtype"], sizes=self.described["sizes"], head=head)

    def text(self, device: str = "cpu") -> OpenClipText | None:
        """The text tower that gives words the vectors of images, loaded when it is first called; None without one."""
        described = self.described["text"]
        if described is None or "weights" not in described:
            return None
        ((entry, output),) = self.described["features"]
        backbone, weights = self.described["backbones"][entry], described["weights"]
        config = BACKBONE.validate_python(backbone["config"])
        projected = backbone["outputs"][output]["identity"]["output"]
        return own_text(config, projected, device, None if weights is None else self.path / weights)

    def _loaded(self, entry: Mapping[str, Any], device: str) -> Sequence[Backbone]:
        config = BACKBONE.validate_python(entry["config"])
        basis = None if entry["basis"] is None else PcaBasis.read(LocalStorage(self.path), entry["basis"])
        weights = None if entry["weights"] is None else self.path / entry["weights"]
        backbones = announced_backbones(config, entry["outputs"], device=device, basis=basis, weights=weights)
        for backbone in backbones:
            if apart := beyond_rounding(backbone, backbone.sample, sample_of(backbone)):
                raise WeightsError(
                    f"{self.storage.address()}: {backbone.name} computes other numbers here: its feature of a fixed "
                    f"image is {apart:.1%} of its length away from what it was. Install the versions of the libraries "
                    f"that the bundle was made with: {self.described['libraries']}."
                )
        return backbones


def is_bundle(path: Path | str) -> bool:
    """Whether the folder or address ``path`` looks like a bundle, whole or not."""
    if is_url(str(path)):
        return has(storage_of(path), FILE)
    return Path(path, FILE).is_file()


def copy_folder(storage: ObjectStorage, described: Mapping[str, Any]) -> Path:
    """The folder for copies of the bundle that ``storage`` holds."""
    return cache_folder() / "bundles" / fingerprint([storage.url, dict(described)])[:32]


def thumbnail_key(digest: bytes) -> str:
    """Where in a bundle the small picture of the image of ``digest`` is."""
    name = digest.hex()
    return f"{THUMBNAILS}/{name[:2]}/{name}.jpg"


def write_thumbnails(
    bundle: Storage, rows: pa.Table, on_progress: Callable[[int, int, str], None] = lambda *_: None
) -> list[str]:
    """Write the pictures of ``rows`` that are not there yet, and return why there is none of the others."""
    uris = dict(zip(rows["digest"].to_pylist(), rows["uri"].to_pylist(), strict=True))
    present = {*bundle.list(f"{THUMBNAILS}/")}
    wanted = [(digest, uri) for digest, uri in uris.items() if thumbnail_key(digest) not in present]

    def write(image: tuple[bytes, str]) -> str:
        digest, uri = image
        picture = small_jpeg(uri, SIDE, digest)
        if picture.reason:
            return f"{uri}: {picture.reason}"
        bundle.put_new(thumbnail_key(digest), picture.content)
        return ""

    problems = []
    with ThreadPoolExecutor(processors()) as threads:  # Pillow decodes outside the interpreter's lock
        for done, problem in enumerate(threads.map(write, wanted), 1):
            problems += [problem] if problem else []
            on_progress(done, len(wanted), "")
    return problems


def describe_files(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The size and the sha256 of each of the files ``names`` below ``folder``."""
    return {name: _facts(folder / name) for name in names}


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": digest_file(path).hex()}


def check_files(storage: Storage, described: Mapping[str, Any], folder: Path) -> None:
    """Raise DamagedStoreError unless each file in ``folder`` is as :func:`describe_files` saw it.

    The files of object ``storage`` are copied into the folder first, unless they are there.
    """
    for name, wanted in described.items():
        path, address, far = folder / name, storage.address(name), isinstance(storage, ObjectStorage)
        try:
            facts = None if far and not path.is_file() else _facts(path)
            if far and facts != wanted:
                copy_object(storage, name, path)
                facts = _facts(path)
        except OSError as error:
            raise DamagedStoreError(f"{address} cannot be read: {error.strerror}. {MEND}") from error
        if facts is not None and facts != wanted:
            size, right = facts["bytes"], wanted["bytes"]
            wrong = f"{size:,} bytes and not {right:,}" if size != right else "another sha256"
            raise DamagedStoreError(f"{address} is not as it was written: it has {wrong}. {MEND}")


def description(storage: Storage) -> dict[str, Any]:
    """What the bundle in ``storage`` says of itself. Raises what :meth:`Bundle.open` does."""
    try:
        return read_sealed(storage, FILE, MEND, VERSION)
    except (FileNotFoundError, NotADirectoryError):
        where = storage.address()
        raise MissingRowsError(
            f"{where} holds no bundle. `permafrost export RUN.TOML -o {where}` writes one."
        ) from None
