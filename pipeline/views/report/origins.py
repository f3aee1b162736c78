"""What the report is made from: the data, the stores by their fingerprints, the versions, the command."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from pipeline.views.report.measured import Measured
from stages.records import Records
from stages.training import FusedFeatures

_LIBRARIES = ("permafrost-retrieval", "numpy", "torch", "faiss-cpu", "timm", "open_clip_torch", "pillow", "zarr")
_FAILURES = 12  # shown by name


class DomainFacts(NamedTuple):
    """Queries and gallery of one domain: images and classes, and the queries with nothing to find."""

    name: str
    queries: int
    query_classes: int
    gallery: int
    train: int
    unanswerable: int


class Origin(NamedTuple):
    """A store or a head: what it is called, its fingerprint, where it is, and its identity as JSON."""

    name: str
    kind: str
    fingerprint: str
    path: str
    identity: str


class FailedImage(NamedTuple):
    """An image that has no feature, and why."""

    key: str
    role: str
    reason: str


@dataclass(frozen=True)
class Origins:
    """Facts of the data and the identity of everything that was scored."""

    counts: Sequence[tuple[str, int]]
    domains: Sequence[DomainFacts]
    failed: int
    failures: Sequence[FailedImage]
    """The first of them."""
    unanswerable: int
    stores: Sequence[Origin]
    versions: Sequence[tuple[str, str]]
    made: str
    command: str


def origins(measured: Sequence[Measured], records: Records, command: str) -> Origins:
    """The facts about ``records`` and everything in ``measured``."""
    failures = _failures(measured[0], records)
    domains = _domains(records)
    return Origins(
        [(what, count) for what, count in records.counts().items() if count],
        domains,
        len(failures),
        failures[:_FAILURES],
        sum(of.unanswerable for of in domains),
        _stores(measured),
        [("Python", platform.python_version()), *((name, found) for name in _LIBRARIES if (found := _version(name)))],
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command,
    )


def _domains(records: Records) -> list[DomainFacts]:
    """A line for each domain of the queries; a single one, without a name, where there are none."""
    query, gallery, train = (records.split(role) for role in ("query", "gallery", "train"))
    searched, keys = Counter(gallery.classes), set(gallery.keys)
    found = []
    for name in sorted({*query.domains}, key=str):
        of = [
            (key, group)
            for key, group, domain in zip(query.keys, query.classes, query.domains, strict=True)
            if domain == name
        ]
        nothing = sum(group is None or searched[group] - (key in keys) < 1 for key, group in of)
        in_gallery, in_train = (sum(domain == name for domain in part.domains) for part in (gallery, train))
        classes = len({group for _, group in of})
        found.append(DomainFacts(name or "", len(of), classes, in_gallery, in_train, nothing))
    return found


def _failures(of: Measured, records: Records) -> list[FailedImage]:
    """Images of queries and gallery that have no feature; those that could not even be read too."""
    found: dict[str, FailedImage] = {}
    for role in ("query", "gallery"):
        part = records.split(role)
        problems = part.table["problem"].to_pylist()
        why = {f.digest: f.outcome.error or f.outcome.status for f in of.vectors.store.failures(part.digests)}
        for key, digest, problem in zip(part.keys, part.digests, problems, strict=True):
            if reason := problem or why.get(digest):
                found.setdefault(key, FailedImage(key, role, str(reason)))
    return list(found.values())


def _stores(measured: Sequence[Measured]) -> list[Origin]:
    features: dict[str, Origin] = {}
    heads = []
    for of in measured:
        source = of.vectors.features
        for store in source.stores if isinstance(source, FusedFeatures) else (source,):
            features[store.fingerprint] = Origin(
                store.name, "features", store.fingerprint, str(store.path), _plain(dict(store.identity.fields))
            )
        if (head := of.vectors.trained) is not None:
            heads.append(
                Origin(
                    of.name, "head", head.fingerprint, str(of.vectors.store.path), _plain(dict(head.identity.fields))
                )
            )
    return [*features.values(), *heads]


def _plain(identity: dict[str, object]) -> str:
    """A line for each key."""
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in sorted(identity.items()))
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
