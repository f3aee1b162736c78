"""Facts about what was scored: images and classes by domain, and the images without a feature."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from cache import Features
from stages.records import Records
from stages.retrieval.protocols import ByLabelConfig, Rules
from stages.retrieval.query_set import QuerySet


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


def domain_facts(records: Records, rules: Rules = ByLabelConfig().rules()) -> list[DomainFacts]:
    """The facts of each domain of the queries, by name; what there is to find ``rules`` say."""
    query, gallery = records.split("query"), records.split("gallery")
    answerable = np.zeros(len(query), np.bool_)
    for part in QuerySet.by_rules(rules, query, gallery):
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
