"""A bundle: one folder with all that a search takes, which opens on another machine without the run.

::

    bundle.json               format, backbones with their preprocessing, identity chain, thresholds, checksums,
                              shares (similarity, matched, pairs of each step), the encoder of text
    weights/                  each network as it was frozen, or the basis of a PCA
    head/                     the head, where there is one
    snapshots/<number>/       the images that are searched; see :mod:`pipeline.bundle.snapshots`
    current.json              the number of the snapshot that is searched, swapped by one rename
    thumbnails/               small pictures by the digests of the images, where they were asked for
    README.md                 the model card

What ``bundle.json`` describes never changes; images come and go by snapshots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cache import digest_file
from cache.errors import DamagedStoreError, MissingRowsError, StoreError, WeightsError
from cache.sealed import read_json
from stages.analysis.pair_shares import PairShare
from stages.extraction import Backbone, BackboneConfig, Embedder
from stages.extraction.backbones import announced_backbones
from stages.extraction.backbones.open_clip_text import OpenClipText, own_text
from stages.extraction.sample import beyond_rounding, sample_of
from stages.training import Head

FILE, CARD, WEIGHTS, HEAD, THUMBNAILS = "bundle.json", "README.md", "weights", "head", "thumbnails"
FORMAT, VERSION = "permafrost bundle", 1

_BACKBONE: TypeAdapter[BackboneConfig] = TypeAdapter(BackboneConfig)
_MEND = "Copy the bundle again from where it was made, or export it again."


class Bundle:
    """What ``bundle.json`` says, of a folder whose files are as they were written.

    Args:
        path: the folder.
        described: the content of ``bundle.json``.

    >>> Bundle.open("empty")
    Traceback (most recent call last):
    cache.errors.MissingRowsError: empty holds no bundle. `permafrost export RUN.TOML -o empty` writes one.
    """

    def __init__(self, path: Path, described: Mapping[str, Any]) -> None:
        self.path, self.described = path, described

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """The bundle in the folder ``path``, each of its weights and head files checked.

        Raises MissingRowsError where there is none, StoreError for one of a newer format, DamagedStoreError where a
        file is missing or is not what was written.
        """
        path = Path(path)
        bundle = cls(path, _description(path))
        check_files(path, bundle.described["files"])
        return bundle

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
        return {
            f"{decision['kind']} {decision['wanted']:g}": float(decision["threshold"])
            for decision in self.described["thresholds"]
        }

    @property
    def shares(self) -> list[PairShare]:
        """What similarities mean, as ``permafrost threshold`` calibrated them; none where it did not."""
        return [PairShare(*step) for step in self.described.get("shares", [])]

    def thumbnail(self, digest: bytes) -> bytes | None:
        """The small picture of the image of this ``digest``, a JPEG file; None where there is none."""
        try:
            return thumbnail_path(self.path, digest).read_bytes()
        except FileNotFoundError:
            return None

    def backbones(self, device: str = "cpu") -> list[Backbone]:
        """The backbones whose features are embedded, in the order of fusion, loaded on ``device``.

        Raises WeightsError where they compute other numbers than those that the bundle was made with.
        """
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
        config = _BACKBONE.validate_python(backbone["config"])
        projected = backbone["outputs"][output]["identity"]["output"]
        return own_text(config, projected, device, None if weights is None else self.path / weights)

    def _loaded(self, entry: Mapping[str, Any], device: str) -> Sequence[Backbone]:
        config = _BACKBONE.validate_python(entry["config"])
        basis, weights = (None if entry[name] is None else self.path / entry[name] for name in ("basis", "weights"))
        backbones = announced_backbones(config, entry["outputs"], device=device, basis=basis, weights=weights)
        for backbone in backbones:
            if apart := beyond_rounding(backbone, backbone.sample, sample_of(backbone)):
                raise WeightsError(
                    f"{self.path}: {backbone.name} computes other numbers here: its feature of a fixed image is "
                    f"{apart:.1%} of its length away from what it was. Install the versions of the libraries that "
                    f"the bundle was made with: {self.described['libraries']}."
                )
        return backbones


def is_bundle(path: Path | str) -> bool:
    """Whether the folder ``path`` looks like a bundle, whole or not."""
    return Path(path, FILE).is_file()


def thumbnail_path(bundle: Path, digest: bytes) -> Path:
    """Where the small picture of the image of ``digest`` is."""
    name = digest.hex()
    return bundle / THUMBNAILS / name[:2] / f"{name}.jpg"


def describe_files(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The size and the sha256 of each of the files ``names`` below ``folder``."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest_file(folder / name).hex()} for name in names
    }


def check_files(folder: Path, described: Mapping[str, Any]) -> None:
    """Raise DamagedStoreError unless each file is as :func:`describe_files` saw it."""
    for name, wanted in described.items():
        try:
            size = (folder / name).stat().st_size
            right = size == wanted["bytes"] and digest_file(folder / name).hex() == wanted["sha256"]
        except OSError as error:
            raise DamagedStoreError(f"{folder / name} cannot be read: {error.strerror}. {_MEND}") from error
        if not right:
            what = (
                f"has {size:,} bytes and not {wanted['bytes']:,}" if size != wanted["bytes"] else "has another sha256"
            )
            raise DamagedStoreError(f"{folder / name} is not as it was written: it {what}. {_MEND}")


def _description(path: Path) -> dict[str, Any]:
    try:
        content = (path / FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingRowsError(f"{path} holds no bundle. `permafrost export RUN.TOML -o {path}` writes one.") from None
    return read_sealed(path / FILE, content, VERSION)


def read_sealed(path: Path, content: bytes, version: int) -> dict[str, Any]:
    """The sealed object in ``content``, which ``path`` holds, of at most the format ``version``."""
    try:
        written = json.loads(content)
        newer = isinstance(written, dict) and isinstance(written.get("version"), int) and written["version"] > version
        described = {} if newer else read_json(content)
        if not newer and described.get("version") != version:
            raise ValueError(f"it names the version {described.get('version')!r}")
    except ValueError as error:
        raise DamagedStoreError(f"{path} is not as it was written: {error}. {_MEND}") from error
    if newer:
        raise StoreError(
            f"{path} is of format {written['version']}, and this Permafrost reads up to {version}. "
            "Install a newer one: pip install -U permafrost-retrieval."
        )
    return described
