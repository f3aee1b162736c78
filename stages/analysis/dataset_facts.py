"""Facts about what was scored: images and classes by domain, and the images without a feature."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from cache import Features
from stages.records import Records


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


def domain_facts(records: Records) -> list[DomainFacts]:
    """The facts of each domain of the queries, by name; of a single one without a name where there are no domains."""
    query, gallery = records.split("query"), records.split("gallery")
    searched, keys = Counter(gallery.classes), set(gallery.keys)
    in_gallery, in_train = Counter(gallery.domains), Counter(records.split("train").domains)
    queries, unanswerable = Counter(query.domains), Counter[str | None]()
    classes: dict[str | None, set[str | None]] = {}
    for key, name, domain in zip(query.keys, query.classes, query.domains, strict=True):
        classes.setdefault(domain, set()).add(name)
        unanswerable[domain] += name is None or searched[name] - (key in keys) < 1
    return [
        DomainFacts(
            domain or "",
            queries[domain],
            len(classes[domain]),
            in_gallery[domain],
            in_train[domain],
            unanswerable[domain],
        )
        for domain in sorted(classes, key=str)
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
