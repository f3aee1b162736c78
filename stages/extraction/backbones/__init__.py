"""Frozen networks, one source a file: a config and a ``load``, a name in ``BackboneConfig`` and a case in ``_load``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from cache import Identity
from cache.errors import SettingsError
from stages.device import check_device
from stages.extraction.backbones import open_clip, pca, timm
from stages.extraction.backbones.frozen import Backbone, Network, StoredNetwork, place
from stages.extraction.backbones.open_clip import OpenClipConfig
from stages.extraction.backbones.pca import PcaBasis, PcaConfig, fit_pca_basis
from stages.extraction.backbones.precision import default_float32, resolve_precision
from stages.extraction.backbones.timm import BundledConfig, TimmConfig
from stages.extraction.preprocess import Preprocess

BackboneConfig: TypeAlias = Annotated[
    BundledConfig | OpenClipConfig | PcaConfig | TimmConfig, Field(discriminator="kind")
]

__all__ = [
    "Backbone", "BackboneConfig", "BundledConfig", "OpenClipConfig", "PcaBasis", "PcaConfig", "TimmConfig",
    "announced_backbones", "fit_pca_basis", "load_backbone", "load_backbones", "place",
]  # fmt: skip


def load_backbones(
    config: BackboneConfig, *, device: str = "cpu", basis: PcaBasis | None = None
) -> tuple[Backbone, ...]:
    """The frozen network that ``config`` names, on ``device``: a backbone for each of its poolings or blocks.

    They share one ``forward``, which gives the features of all. ``device`` is as PyTorch spells it: ``cpu``, ``cuda``,
    ``cuda:1``. ``basis`` is of PCA, which stays on the CPU: the fitted components.
    Raises WeightsError, MissingExtraError, and ValueError for what the library or the network does not know.

    >>> import numpy as np
    >>> basis = PcaBasis(np.zeros(3, np.float32), np.eye(3, dtype=np.float32)[:2])
    >>> [backbone.dim for backbone in load_backbones(PcaConfig(dim=2, size=1), basis=basis)]
    [2]
    """
    check_device(device)
    if isinstance(config, PcaConfig):
        device = "cpu"
    else:
        config = replace(config, precision=resolve_precision(config.precision, device))
    load = partial(_load, config, basis)
    loaded = load(device)
    network = Network(load, device, [backbone.identity.fingerprint for backbone in loaded], loaded[0].forward)
    return tuple(replace(backbone, forward=network) for backbone in loaded)


def announced_backbones(
    config: BackboneConfig,
    announced: Sequence[Mapping[str, Any]],
    *,
    device: str = "cpu",
    basis: PcaBasis | None = None,
    weights: Path | None = None,
    on_load: Callable[[], None] = lambda: None,
) -> tuple[Backbone, ...]:
    """The backbones of ``config``, whose name, dim and identity were noted before: the network loads when it runs.

    ``on_load`` is called before that. ``weights`` is a file of the network as it was frozen
    (:func:`stages.extraction.backbones.frozen.network_bytes`): then nothing that ``config`` names is looked for.
    """
    identities = [Identity(note["identity"]) for note in announced]
    stored = None if weights is None else StoredNetwork(weights, Preprocess.of_identity(identities[0].fields))
    if isinstance(config, PcaConfig):
        device = "cpu"
    else:
        config = replace(config, precision=announced[0]["identity"]["precision"])
    fingerprints = [identity.fingerprint for identity in identities]
    network = Network(partial(_load, config, basis, stored=stored), device, fingerprints, on_load=on_load)
    ends = [0, *accumulate(note["dim"] for note in announced)]
    return tuple(
        Backbone(
            note["name"],
            note["dim"],
            identity,
            Preprocess.of_identity(identity.fields),
            network,
            device,
            slice(first, last),
            tuple(note.get("sample", ())),
        )
        for note, identity, (first, last) in zip(announced, identities, pairwise(ends), strict=True)
    )


def _load(
    config: BackboneConfig, basis: PcaBasis | None, device: str, stored: StoredNetwork | None = None
) -> tuple[Backbone, ...]:
    if isinstance(config, PcaConfig):
        return (pca.load(config, basis),)
    import torch

    with default_float32(), torch.device("cpu"):  # whatever the process has set
        match config:
            case BundledConfig():
                return timm.load_bundled(config, device, stored)
            case OpenClipConfig():
                return open_clip.load(config, device, stored)
            case TimmConfig():
                return timm.load(config, device, stored)


def load_backbone(config: BackboneConfig, *, device: str = "cpu", basis: PcaBasis | None = None) -> Backbone:
    """:func:`load_backbones` for a config with one pooling and no blocks, or the library's own. ValueError otherwise.

    >>> import numpy as np
    >>> basis = PcaBasis(np.zeros(3, np.float32), np.eye(3, dtype=np.float32)[:2])
    >>> load_backbone(PcaConfig(dim=2, size=1), basis=basis).features(np.full((1, 3, 1, 1), 255, np.uint8))
    array([[1., 1.]], dtype=float32)
    """
    backbones = load_backbones(config, device=device, basis=basis)
    if len(backbones) > 1:
        names = ", ".join(backbone.name for backbone in backbones)
        raise SettingsError(f"{config.name} gives the features {names}: call load_backbones, or name one pooling")
    return backbones[0]
