"""The health of data and vectors: what makes scores wrong, or says little of them.

::

    records, stores -> copies across splits, labels that neighbours contradict, hubs, dimensions -> Health
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cache import Features
from cache.errors import NothingToScoreError
from stages.analysis.embedding_health import LEAST, Spread, hubs, spread, suspects, votes
from stages.curation.curate import twins_among
from stages.records import Records
from stages.records.splits import ROLES, seeded_order
from stages.retrieval import nearest

NEAR_DUPLICATE = 0.98
NEIGHBOURS = 10
_SEARCHING = 5_000  # images that search to find the hubs
_JUDGED = 20_000  # labels that are judged, at most, sampled; everything labelled votes


class Copy(NamedTuple):
    """Two images that are one, or nearly, on different sides of the splits. ``similarity`` is 1 for equal bytes."""

    key: str
    uri: str
    label: str | None
    role: str
    other: str
    other_uri: str
    other_label: str | None
    other_role: str
    similarity: float
    same_bytes: bool


class Mislabelled(NamedTuple):
    """A record whose neighbours, by the raw feature and by the head, agree on another label."""

    key: str
    uri: str
    label: str | None
    says: str
    certainty: float
    role: str


class Hub(NamedTuple):
    """A gallery image, and for how many of the queries it is among the nearest."""

    key: str
    uri: str
    label: str | None
    queries: int


class VectorHealth(NamedTuple):
    """The spread and the hubs of a feature or of embeddings."""

    backbone: str
    head: str
    spread: Spread
    k: int
    searching: int
    """Images that searched: the queries and, where these are fewer than 5,000, gallery images too."""
    skewness: float
    never: int
    top_share: float
    top: tuple[Hub, ...]


@dataclass(frozen=True)
class Health:
    """What :func:`check_health` found. Lists are whole; who prints them cuts them off.

    ``bounds`` are floor and ceiling of each metric, by metric and domain. ``failed`` is by backbone and reason.
    """

    backbone: str
    head: str
    counts: Mapping[str, int]
    remarks: tuple[str, ...]
    failed: Mapping[str, Mapping[str, int]]
    not_finite: Mapping[str, int]
    """Stored rows that hold NaN or infinity, by backbone: a damaged store."""
    near_duplicate: float
    copies: tuple[Copy, ...]
    conflicts: tuple[Copy, ...]
    """Images of the same bytes with different labels, on any side."""
    repeats: tuple[Copy, ...]
    """Records of the same bytes as an earlier one, whatever their sides and labels, each with the first."""
    suspects: tuple[Mislabelled, ...]
    judged: int
    """Records whose label could be judged."""
    vectors: tuple[VectorHealth, ...]
    bounds: Mapping[tuple[str, str], tuple[float, float]]


def check_health(
    records: Records,
    vectors: Mapping[tuple[str, str], Features],
    near_duplicate: float,
    *,
    backbones: Mapping[str, Features],
    remarks: Sequence[str],
    bounds: Mapping[tuple[str, str], tuple[float, float]],
    on_step: Callable[[str], None],
) -> Health:
    """The health of ``records``, and of ``vectors`` by backbone and head: the feature, and what a head makes of it.

    Near-duplicates, of a cosine of at least ``near_duplicate``, are compared by the first; labels are doubtful where
    the neighbours by all agree. Failures are counted of the ``backbones``. ``remarks`` and ``bounds`` are reported as
    they are; ``on_step`` is called with what is looked for next.
    """
    roles, stores = _roles(records), list(vectors.values())
    on_step("looking for copies across splits")
    copies = [*_same_bytes(records, roles), *_near(records, roles, stores[0], near_duplicate)]
    on_step("asking the neighbours of every label")
    wrong, judged = _suspects(records, roles, stores)
    on_step("counting hubs and dimensions")
    backbone, head = list(vectors)[-1]
    return Health(
        backbone=backbone,
        head=head,
        counts=records.counts(),
        remarks=tuple(remarks),
        failed={name: _failures(store, records) for name, store in backbones.items()},
        not_finite={name: _not_finite(store, records) for name, store in backbones.items()},
        near_duplicate=near_duplicate,
        copies=tuple(sorted(copies, key=lambda copy: (not copy.same_bytes, -copy.similarity, copy.key, copy.other))),
        conflicts=tuple(_repeats(records, roles, records.classes)),
        repeats=tuple(_repeats(records, roles, records.keys)),
        suspects=tuple(wrong),
        judged=judged,
        vectors=tuple(vector_health(*names, store, records) for names, store in vectors.items()),
        bounds=bounds,
    )


def _roles(records: Records) -> list[str]:
    """The side of the splits that each record is on: train, validation, test or none."""
    of_value: dict[str, set[str]] = defaultdict(set)
    for role in ROLES:
        side = "test" if role in ("query", "gallery") else role.split("_")[0]
        for value in records.roles.get(role, ()):
            of_value[value].add(side)
    return ["+".join(sorted(of_value[split])) if split in of_value else "none" for split in records.splits]


def _by_digest(records: Records, names: Sequence[str | None]) -> list[dict[str, int]]:
    """For each image the first record (by row) of each of the ``names`` (N,) that its records have."""
    groups: dict[bytes, dict[str, int]] = defaultdict(dict)
    for row, (digest, name) in enumerate(zip(records.digests, names, strict=True)):
        if digest and name is not None:
            groups[digest].setdefault(name, row)
    return list(groups.values())


def _same_bytes(records: Records, roles: Sequence[str]) -> list[Copy]:
    """Images of the same bytes on different sides: the first of each side with the first of each other."""
    pairs = [
        (one, other, 1.0)
        for group in _by_digest(records, roles)
        for one_role, one in group.items()
        for other_role, other in group.items()
        if one < other and one_role != other_role and "none" not in (one_role, other_role)
    ]
    return _copies(records, roles, pairs, same_bytes=True)


def _repeats(records: Records, roles: Sequence[str], names: Sequence[str | None]) -> list[Copy]:
    """Of records of the same bytes the first of each of the ``names`` (N,), with that of the first name."""
    groups = [list(group.values()) for group in _by_digest(records, names)]
    return _copies(records, roles, [(rows[0], row, 1.0) for rows in groups for row in rows[1:]], same_bytes=True)


def _near(records: Records, roles: Sequence[str], store: Features, threshold: float) -> list[Copy]:
    """Each image of the test or validation side with the most similar one of another side, of other bytes."""
    usable = set(records.rows_in(store).tolist())
    digests = records.digests
    pairs = []
    for side, there in (("test", "train"), ("test", "validation"), ("validation", "train")):
        mine, others = (
            [row for row in range(len(records)) if row in usable and side in roles[row].split("+")]
            for side in (side, there)
        )
        if not mine or not others:
            continue
        twins = twins_among(store, [digests[row] for row in mine], [digests[row] for row in others], threshold)
        pairs += [(mine[at], others[twin.position], twin.similarity) for at, twin in twins.items()]
    different = [pair for pair in pairs if digests[pair[0]] != digests[pair[1]]]
    return _copies(records, roles, different, same_bytes=False)


def _copies(
    records: Records, roles: Sequence[str], pairs: Sequence[tuple[int, int, float]], *, same_bytes: bool
) -> list[Copy]:
    keys, uris, labels = records.keys, records.uris, records.labels
    return [
        Copy(
            keys[one], uris[one], labels[one], roles[one],
            keys[other], uris[other], labels[other], roles[other], similarity, same_bytes,
        )
        for one, other, similarity in pairs
    ]  # fmt: skip


def _suspects(records: Records, roles: Sequence[str], stores: Sequence[Features]) -> tuple[list[Mislabelled], int]:
    """The records whose neighbours of all splits agree, in every store, on another label."""
    rows = set.intersection(*(set(records.rows_in(store).tolist()) for store in stores))
    labels, digests = records.labels, records.digests
    # Copies of one image would speak for each other: each image is asked once.
    first = {digests[row]: row for row in sorted(rows, reverse=True) if labels[row] is not None}
    named = np.array(sorted(first.values()))
    if len(named) < 2:
        return [], 0
    voters = records.take(named)
    keys = voters.keys
    chosen_rows = sorted(sorted(range(len(keys)), key=lambda row: seeded_order(0, "labels", keys[row]))[:_JUDGED])
    judged = voters.take(chosen_rows)
    neighbours = (nearest(store, judged, voters, NEIGHBOURS) for store in stores)
    ballots = [votes(voters.classes, judged.classes, *near) for near in neighbours]
    sizes = Counter(voters.classes)
    keys, uris = records.keys, records.uris
    wrong = [
        Mislabelled(keys[row], uris[row], labels[row], suspect.says.rpartition("\0")[2], suspect.certainty, roles[row])
        for suspect in suspects(judged.classes, ballots, sizes)
        for row in [int(named[chosen_rows[suspect.row]])]
    ]
    return wrong, sum(sizes[name] >= LEAST for name in judged.classes)


def _failures(store: Features, records: Records) -> dict[str, int]:
    reasons = Counter(failed.outcome.error for failed in store.failures([d for d in records.digests if d]))
    if unreadable := len(records.unreadable()):
        reasons["could not be read"] += unreadable
    return dict(reasons.most_common())


def _not_finite(store: Features, records: Records) -> int:
    """Stored rows that are not numbers: the store refuses to write such, so these are damage."""
    digests = records.take(records.rows_in(store)).digests
    bad = 0
    for low in range(0, len(digests), 4096):
        bad += int((~np.isfinite(store.read(digests[low : low + 4096])).all(axis=1)).sum())
    return bad


def _asking(records: Records) -> Records:
    """Who searches to find the hubs: queries, then gallery images, each sampled with a fixed seed."""
    queries, gallery = set(records.split("query").keys), set(records.split("gallery").keys)
    keys = records.keys
    rows = [row for row, key in enumerate(keys) if key in queries or key in gallery]
    rows.sort(key=lambda row: (keys[row] not in queries, seeded_order(0, "hubs", keys[row])))
    return records.take(sorted(rows[:_SEARCHING]))


def vector_health(backbone: str, head: str, store: Features, records: Records) -> VectorHealth:
    """The spread of the gallery in ``store``, and its hubs. NothingToScoreError with fewer than two images."""
    gallery = records.split("gallery")
    rows = gallery.rows_in(store)
    if len(rows) < 2:
        raise NothingToScoreError(
            f"health takes at least two gallery images with a feature; {len(rows)} of {len(gallery):,} has one. Name "
            f"another split as gallery, or see the failures of {store.address}."
        )
    searching = _asking(records)
    often = hubs(nearest(store, searching, gallery, NEIGHBOURS)[0], len(gallery))
    keys, uris, labels = gallery.keys, gallery.uris, gallery.labels
    return VectorHealth(
        backbone,
        head,
        spread(store.read(gallery.take(rows).digests)),
        often.k,
        len(searching),
        often.skewness,
        often.never - (len(gallery) - len(rows)),
        often.top_share,
        tuple(Hub(keys[row], uris[row], labels[row], int(often.counts[row])) for row in often.top(100)),
    )
