"""What the report is made from: the data, the stores by their fingerprints, the versions, the command."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from pipeline.config import RetrievalConfig
from pipeline.views.report.measured import Measured
from stages.analysis.dataset_facts import DomainFacts, FailedImage, domain_facts, failed_images
from stages.records import Records
from stages.training import FusedFeatures

_LIBRARIES = ("permafrost-retrieval", "numpy", "torch", "faiss-cpu", "timm", "open_clip_torch", "pillow", "zarr")
_FAILURES = 12  # shown by name


class Origin(NamedTuple):
    """A store or a head: its name, its fingerprint, where it is, and its identity, a line for each key."""

    name: str
    kind: str
    fingerprint: str
    path: str
    identity: str


@dataclass(frozen=True)
class Origins:
    """Facts of the data and the identity of all that was scored; ``failures`` are the first of ``failed``."""

    counts: Sequence[tuple[str, int]]
    domains: Sequence[DomainFacts]
    failed: int
    failures: Sequence[FailedImage]
    unanswerable: int
    unanswerable_count: bool
    stores: Sequence[Origin]
    versions: Sequence[tuple[str, str]]
    made: str
    command: str


def origins(measured: Sequence[Measured], records: Records, retrieval: RetrievalConfig, command: str) -> Origins:
    """The facts about ``records`` and everything in ``measured``."""
    failures = failed_images(measured[0].vectors.store, records)
    domains = domain_facts(records, retrieval.ranked.rules())
    return Origins(
        [(role.replace("_", " "), count) for role, count in records.counts().items() if count],
        domains,
        len(failures),
        failures[:_FAILURES],
        sum(facts.unanswerable for facts in domains),
        retrieval.unanswerable == "zero",
        _stores(measured),
        [("Python", platform.python_version()), *((name, v) for name in _LIBRARIES if (v := _version(name)))],
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command,
    )


def _stores(measured: Sequence[Measured]) -> list[Origin]:
    features: dict[str, Origin] = {}
    heads = []
    for side in measured:
        source, head = side.vectors.features, side.vectors.trained
        for store in source.stores if isinstance(source, FusedFeatures) else (source,):
            identity = _lines(dict(store.identity.fields))
            features[store.fingerprint] = Origin(store.name, "features", store.fingerprint, store.address, identity)
        if head is not None:
            identity = _lines(dict(head.identity.fields))
            heads.append(Origin(side.name, "head", head.fingerprint, side.vectors.store.address, identity))
    return [*features.values(), *heads]


def _lines(identity: dict[str, object]) -> str:
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in sorted(identity.items()))
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
