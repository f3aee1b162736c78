"""From a run file's ``[[backbones]]`` to backbones, to the feature stores that they filled, and to an embedder."""

from __future__ import annotations

from pathlib import Path

from cache import FeatureStore
from cache.errors import MissingRowsError, StaleStoreError
from pipeline.config import RunConfig
from pipeline.progress import Display
from stages.extraction import Backbone, BackboneConfig
from stages.extraction.extract import find_store
from stages.extraction.known import known_backbones, noted_backbones
from stages.records import Records

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
            matches.append(
                [find_store(backbone, folder, dtype=config.extraction.dtype, remedy=_REMEDY) for backbone in backbones]
            )
        except (StaleStoreError, MissingRowsError) as error:
            errors.append(error)
    if not matches:
        raise errors[0]
    if len(matches) == 1:
        return matches[0]
    return max(matches, key=lambda stores: int(stores[0].usable(records.digests).sum()))
