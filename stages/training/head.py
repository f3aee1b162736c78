"""A trained head: a function from features (n, D) to embeddings (n, E) of unit length, its log, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from cache import Identity, Storage, digest_bytes
from cache.errors import DamagedStoreError, SettingsError, StaleStoreError, WeightsError
from cache.fingerprint import JSON, canonical_json
from cache.storage import storage_of
from stages.training.own_code import own_code
from stages.training.recipe import HeadConfig

if TYPE_CHECKING:
    from stages.training.heads.networks import HeadNetwork

_FILE = "head.safetensors"
_LOG = "log.jsonl"
_METADATA = "permafrost"  # one key: the order of several is not the same at every write
_CHECKSUM = "sha256"
_STRUCTURE = ("inputs", "blocks", "experts")


@dataclass(frozen=True)
class EpochLog:
    """One epoch: its number from 1, the mean loss, the last learning rate, the validation score, the seconds it took.

    An epoch of the phase ``choose`` was trained without the held-out classes, to find the best number of epochs;
    those of the phase ``train`` made the head. ``validation_mmp5`` is None where there was nothing to validate on.
    ``member`` counts the heads of a soup from 1; ``domain_weights`` are the shares of the domains in the epoch where
    the sampling moves them; ``expert`` is the domain of the expert that was trained.

    For a loss on pairs, ``pairs`` is the mean number of pairs (or triplets, or rows) in a step, ``zero_share`` the
    share of them without a loss, ``hardness`` the mean cosine of the negatives minus that of the positives.
    """

    phase: Literal["choose", "train"]
    epoch: int
    loss: float
    lr: float
    validation_mmp5: float | None
    seconds: float
    member: int = 1
    domain_weights: dict[str, float] | None = None
    expert: str | None = None
    pairs: float | None = None
    zero_share: float | None = None
    hardness: float | None = None


@dataclass(frozen=True)
class TrainingSummary:
    """What a head was trained on, and which epoch was kept.

    ``failed`` rows have no feature and ``small`` rows are in classes below the minimum size: both were left out.
    ``epoch`` was kept because of ``chosen_by``, a sentence; 0 where nothing was trained. ``anchor`` is the share of
    what was trained in the weights, the rest being the start, where the settings ask for a choice. The same settings
    give the same bits with the same number of ``threads`` and ``processes`` on the same ``device``. ``left_out`` are
    the attributes that could not be learned.
    """

    rows: int
    classes: int
    failed: int
    small: int
    epoch: int
    chosen_by: str
    anchor: float | None = None
    threads: int = 1
    device: str = "cpu"
    processes: int = 1
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False, repr=False)
class Head:
    """A trained head: call it on features (n, D) for embeddings (n, E).

    ``identity`` is everything that its weights follow from: the recipe, the seed, the feature store, and the digests
    and labels that it was trained and validated on. ``structure`` is what its network has beside the settings, and
    ``weights`` are its tensors by name.

    >>> import tempfile
    >>> from stages.training import train_head
    >>> from stages.training import PcaHeadConfig
    >>> from tests.toys.training import classes_of, toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     features, records = toy(folder, classes_of(6, 4))
    ...     head = train_head(features, records, PcaHeadConfig(dim=3))
    ...     head.save(folder)
    ...     Head.load(folder).fingerprint == head.fingerprint
    True
    """

    config: HeadConfig
    identity: Identity
    structure: Mapping[str, Any]
    weights: Mapping[str, npt.NDArray[np.generic]]
    summary: TrainingSummary
    log: tuple[EpochLog, ...]

    @classmethod
    def of(
        cls,
        config: HeadConfig,
        identity: Identity,
        network: HeadNetwork,
        summary: TrainingSummary,
        log: Sequence[EpochLog] = (),
    ) -> Head:
        """The head whose network is ``network``."""
        from stages.training.heads.networks import structure_of, weights_of

        return cls(config, identity, structure_of(network), weights_of(network), summary, tuple(log))

    def __repr__(self) -> str:
        sizes = f"{self.features_dim:,} -> {self.dim:,}" if self.config.dim else f"{self.features_dim:,}"
        trained = f"of {self.summary.rows:,} images of {self.summary.classes:,} classes"
        return f"Head({self.config.kind} {sizes}, {trained}, {self.identity.short})"

    @cached_property
    def network(self) -> HeadNetwork:
        """The network, built when it is first asked for: only that takes PyTorch."""
        from stages.training.heads.networks import build_network

        return build_network(self.config, self.structure, self.weights)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the identity, 64 hexadecimal digits."""
        return self.identity.fingerprint

    @cached_property
    def weights_digest(self) -> str:
        """The sha256 of the weights, 64 hexadecimal digits: one identity can have other weights on another machine."""
        return digest_bytes(_content(self.weights, {})).hex()

    @property
    def features_fingerprint(self) -> str:
        """The fingerprint of the feature store that the head was trained on, the only one that it fits."""
        return str(self.identity.fields["features"])

    @property
    def features_dim(self) -> int:
        """D, the size of the features that it takes."""
        return int(sum(self.structure["blocks"]))

    @property
    def dim(self) -> int:
        """E, the size of the embeddings that it gives."""
        return self.config.dim or self.network.dim

    def __call__(self, features: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Embeddings (n, E), float32 and of unit length, of ``features`` (n, D) of any float dtype."""
        if features.ndim != 2 or features.shape[1] != self.features_dim:
            raise SettingsError(f"features have shape {features.shape}; this head takes (n, {self.features_dim})")
        import torch

        with torch.inference_mode():
            embeddings: npt.NDArray[np.float32] = self.network(torch.from_numpy(features.astype(np.float32))).numpy()
        return embeddings

    def save(self, where: Storage | Path | str) -> None:
        """Write ``head.safetensors`` to a storage or a folder, and ``log.jsonl`` before it.

        Raises ValueError for a head of a user's own kind, which :meth:`load` could not make again.
        """
        if own_code(self.config):
            raise SettingsError(
                f"{type(self.config).__name__} is a head of your own, which loading does not know: embed with it while "
                "it is in memory, or train it again"
            )
        storage = storage_of(where)
        storage.put(_LOG, _lines([asdict(epoch) for epoch in self.log]).encode())
        described: dict[str, JSON] = {
            "identity": dict(self.identity.fields),
            "config": TypeAdapter(HeadConfig).dump_python(self.config, mode="json"),
            "summary": asdict(self.summary),
            **self.structure,
        }
        checksum = digest_bytes(_content(self.weights, described)).hex()
        storage.put(_FILE, _content(self.weights, described | {_CHECKSUM: checksum}))

    @classmethod
    def load(cls, where: Storage | Path | str, wanted: Identity | None = None) -> Head:
        """The head that :meth:`save` wrote; with ``wanted``, it must have that identity.

        Raises WeightsError where there is none, DamagedStoreError on bad bytes, StaleStoreError for another identity.
        """
        storage = storage_of(where)
        path = storage.address(_FILE)
        try:
            content = storage.read(_FILE)
        except FileNotFoundError:
            raise WeightsError(
                f"{storage.address()} holds no {_FILE}. Train the head, or name the folder it was saved in."
            ) from None
        try:
            weights, described = from_safetensors(content), _metadata(content)
            checksum = described.pop(_CHECKSUM, None)
            if checksum not in (None, digest_bytes(_content(weights, described)).hex()):
                raise ValueError("wrong checksum")
            identity = Identity(described["identity"])
            if wanted is not None and (differences := identity.differences(wanted)):
                raise StaleStoreError(Path(path), differences, "Delete it and train the head again.")
            config = TypeAdapter(HeadConfig).validate_python(described["config"])
            structure = {key: described[key] for key in _STRUCTURE if key in described}
            summary = TrainingSummary(**described["summary"])
            log = [EpochLog(**line) for line in _read_lines(storage.read(_LOG).decode())]
            head = cls(config, identity, structure, weights, summary, tuple(log))
            if checksum is None:  # of a version that wrote none: what its network does not take is damage
                head.network  # noqa: B018
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            raise DamagedStoreError(
                f"{path} (with {_LOG} beside it) is not a head as it was saved: {error}. `permafrost train-heads` "
                "trains it again."
            ) from error
        return head


def _content(weights: Mapping[str, npt.NDArray[np.generic]], described: Mapping[str, JSON]) -> bytes:
    return to_safetensors(dict(weights), {_METADATA: canonical_json(dict(described))})


def _metadata(content: bytes) -> dict[str, Any]:
    """What :meth:`Head.save` wrote beside the tensors: a safetensors file begins with the length of its JSON header."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    described: dict[str, Any] = json.loads(header["__metadata__"][_METADATA])
    return described


def _lines(epochs: list[dict[str, Any]]) -> str:
    """A line of JSON for each of ``epochs``, and in the last the checksum of all."""
    checksum = digest_bytes(json.dumps(epochs).encode()).hex()
    lines = [*epochs[:-1], *(last | {_CHECKSUM: checksum} for last in epochs[-1:])]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _read_lines(text: str) -> list[dict[str, Any]]:
    epochs: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    checksum = epochs[-1].pop(_CHECKSUM, None) if epochs else None
    if checksum is not None and text != _lines(epochs):
        raise ValueError(f"{_LOG} has a wrong checksum")
    return epochs
