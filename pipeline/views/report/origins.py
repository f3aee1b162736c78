"""What the report is made from: facts of the data, the stores by their fingerprints, the versions, the command."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from cache import Features, FeatureStore
from pipeline.config import RetrievalConfig
from pipeline.dataset import stores_of
from pipeline.views.report.measured import Measured
from stages.records import Records
from stages.retrieval.protocols import ByLabelConfig, RankedProtocol
from stages.training import Head

_LIBRARIES = ("permafrost-retrieval", "numpy", "torch", "faiss-cpu", "timm", "open_clip_torch", "pillow", "zarr")
_FAILURES = 12  # shown by name


class Origin(NamedTuple):
    """A store or a head: its name, its fingerprint, where it is, and its identity, a line for each key."""

    name: str
    kind: str
    fingerprint: str
    path: str
    identity: str


def origins(
    measured: Sequence[Measured], records: Records, retrieval: RetrievalConfig, command: str
) -> SimpleNamespace:
    """Facts of the data and the identity of all that was scored; ``failures`` are the first of ``failed``.

    Queries to which nothing is relevant, ``unanswerable``, count 0 in every mean where ``unanswerable_count``.
    """
    failures = failed_images(measured[0].vectors.store, records)
    domains = domain_facts(records, retrieval.ranked)
    return SimpleNamespace(
        counts=[(role.replace("_", " "), count) for role, count in records.counts().items() if count],
        domains=domains,
        failed=len(failures),
        failures=failures[:_FAILURES],
        unanswerable=sum(facts.unanswerable for facts in domains),
        unanswerable_count=retrieval.unanswerable == "zero",
        stores=_stores(measured),
        versions=[("Python", platform.python_version()), *((name, v) for name in _LIBRARIES if (v := _version(name)))],
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
    )


def _stores(measured: Sequence[Measured]) -> list[Origin]:
    features: dict[str, Origin] = {}
    heads = []
    for side in measured:
        for store in stores_of(side.vectors.features):
            features[store.fingerprint] = _origin(store.name, "features", store, store.address)
        if (head := side.vectors.trained) is not None:
            heads.append(_origin(side.name, "head", head, side.vectors.store.address))
    return [*features.values(), *heads]


def _origin(name: str, kind: str, source: FeatureStore | Head, path: str) -> Origin:
    fields = sorted(source.identity.fields.items())
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in fields)
    return Origin(name, kind, source.fingerprint, path, "\n".join(lines))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


class DomainFacts(NamedTuple):
    """Queries, gallery and training images of one domain; ``unanswerable`` queries have nothing to find."""

    name: str
    queries: int
    query_classes: int
    gallery: int
    train: int
    unanswerable: int


class FailedImage(NamedTuple):
    """An image that has no feature, and why."""

    key: str
    role: str
    reason: str


def domain_facts(records: Records, protocol: RankedProtocol = ByLabelConfig()) -> list[DomainFacts]:
    """The facts of each domain of the queries, by name; what there is to find ``protocol`` says."""
    query, gallery = records.split("query"), records.split("gallery")
    answerable = np.zeros(len(query), np.bool_)
    for part in protocol.query_sets(query, gallery):
        answerable[part.answerable().query_rows] = True
    in_gallery, in_train = Counter(gallery.domains), Counter(records.split("train").domains)
    queries, nothing = Counter(query.domains), Counter(np.array(query.domains, dtype=object)[~answerable].tolist())
    classes: dict[str | None, set[str | None]] = {}
    for name, domain in zip(query.classes, query.domains, strict=True):
        classes.setdefault(domain, set()).add(name)
    return [
        DomainFacts(domain or "", queries[domain], len(names), in_gallery[domain], in_train[domain], nothing[domain])
        for domain, names in sorted(classes.items(), key=lambda item: str(item[0]))
    ]


def failed_images(vectors: Features, records: Records) -> list[FailedImage]:
    """The images of queries and gallery that have no row in ``vectors``, or could not even be read."""
    failed: dict[str, FailedImage] = {}
    for role in ("query", "gallery"):
        part = records.split(role)
        reasons = {f.digest: f.outcome.error or f.outcome.status for f in vectors.failures(part.digests)}
        problems = part.table["problem"].to_pylist()
        for key, digest, problem in zip(part.keys, part.digests, problems, strict=True):
            if reason := problem or reasons.get(digest):
                failed.setdefault(key, FailedImage(key, role, str(reason)))
    return list(failed.values())
