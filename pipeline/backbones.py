"""From a run file's ``[[backbones]]`` to backbones, to the feature stores that they filled, and to an embedder."""

from __future__ import annotations

from pathlib import Path

from cache import Features, FeatureStore
from cache.errors import MissingRowsError, StaleStoreError
from pipeline.config import RunConfig
from pipeline.progress import Display
from stages.extraction import Backbone, BackboneConfig, Embedder
from stages.extraction.embedder import Head
from stages.extraction.known import known_backbones, noted_backbones
from stages.records import Records
from stages.training import FusedFeatures

_REMEDY = "Run `permafrost extract` with this run file to compute these features."


def load_for_extraction(
    wanted: BackboneConfig, records: Records, artifacts: Path, device: str, display: Display
) -> tuple[Backbone, ...]:
    """The backbones ``wanted`` (one a pooling); their network is loaded when it runs, or now if nothing is known."""
    return known_backbones(wanted, records, artifacts / "features", device=device, on_load=display.say)


def find_features(wanted: BackboneConfig, config: RunConfig, records: Records, display: Display) -> list[FeatureStore]:
    """The stores that ``wanted`` filled, one a pooling. StaleStoreError or MissingRowsError where there is none.

    With ``precision = "auto"`` a CPU and a card fill different stores: those with more of the images of ``records``.
    """
    folder = Path(config.artifacts) / "features"
    noted = noted_backbones(wanted, records, folder)
    if not noted:  # never extracted, or something changed since: then its identity says what
        noted = [load_for_extraction(wanted, records, Path(config.artifacts), "cpu", display)]
    errors: list[StaleStoreError | MissingRowsError] = []
    matches: list[list[FeatureStore]] = []
    for backbones in noted:
        try:
            matches.append([_store(backbone, folder, config.extraction.dtype) for backbone in backbones])
        except (StaleStoreError, MissingRowsError) as error:
            errors.append(error)
    if not matches:
        raise errors[0]
    if len(matches) == 1:
        return matches[0]
    return max(matches, key=lambda stores: int(stores[0].usable(records.digests).sum()))


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
    folder = Path(config.artifacts) / "features"
    backbones = [
        backbone
        for wanted in config.backbones
        for several in noted_backbones(wanted, records, folder, device=device)
        or [load_for_extraction(wanted, records, Path(config.artifacts), device, display)]
        for backbone in several
    ]
    stores = features.stores if isinstance(features, FusedFeatures) else (features,)
    sizes = isinstance(features, FusedFeatures) and features.sizes
    matches = [_backbone_of(store, backbones) for store in stores]
    return Embedder(matches, dtype=str(features.dtype), sizes=sizes, head=head)


def _backbone_of(store: Features, backbones: list[Backbone]) -> Backbone:
    """The one of ``backbones`` that filled ``store``."""
    for backbone in backbones:
        if all(store.identity.fields.get(key) == value for key, value in backbone.identity.fields.items()):
            return backbone
    raise StaleStoreError(store.path, ["backbone: none of the run file"], _REMEDY)


def _store(backbone: Backbone, folder: Path, dtype: str) -> FeatureStore:
    return FeatureStore.find(
        folder,
        backbone.name,
        backbone.identity,
        dim=backbone.dim,
        dtype=dtype,
        views=backbone.preprocess.stored,
        remedy=_REMEDY,
    )
