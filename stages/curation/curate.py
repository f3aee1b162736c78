"""From the training images of a dataset to a compact training table: what is kept, and why the rest is not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from cache import FeatureStore
from cache.errors import RecordsError, SettingsError
from stages.curation.config import CurateConfig
from stages.curation.duplicates import twins_among, twins_within
from stages.datasets.columns import refuse_absent
from stages.records import Records
from stages.records.splits import ROLES, seeded_order

NOT_CHOSEN = "domain not chosen"
UNREADABLE = "unreadable"
TEST_BYTES = "bytes of a test image"
TEST_TWIN = "near-duplicate of a test image"
CONFLICT = "copies with different labels"
COPY = "byte-identical copy"
TWIN = "near-duplicate in its class"
SMALL = "class too small"
CLASS_NOT_DRAWN = "class not drawn"
IMAGE_NOT_DRAWN = "image not drawn"
REASONS = (
    NOT_CHOSEN, UNREADABLE, TEST_BYTES, TEST_TWIN, CONFLICT, COPY, TWIN, SMALL, CLASS_NOT_DRAWN, IMAGE_NOT_DRAWN,
)  # fmt: skip


class Dropped(NamedTuple):
    """A training record that is not kept: why, and the key and cosine similarity of what it collided with."""

    key: str
    domain: str | None
    label: str
    reason: str
    collided_with: str | None = None
    similarity: float | None = None


class Curated(NamedTuple):
    """The training records that are kept, and the others, both sorted by key."""

    retained: Records
    dropped: list[Dropped]


class _Why(NamedTuple):
    reason: str
    collided_with: str | None = None
    similarity: float | None = None


_Reasons = dict[int, _Why]  # by row


def curate(records: Records, config: CurateConfig, features: FeatureStore | None = None) -> Curated:
    """Choose among the training records of ``records``.

    They are dropped in this order, each for the first reason that holds: a domain that was not asked for; an image
    that cannot be read, or has no feature; one whose bytes are in the test side (query, gallery or validation, and
    not training); a near-duplicate of a test-side image; byte-identical copies (the one with the first key is kept,
    or none where they have different labels); near-duplicates within a class (going by key, the first is kept);
    classes that now have fewer than ``min_images``; classes, then images of a class, that are not drawn.
    Near-duplicates across classes stay: two products may look the same.

    Which are kept does not depend on the order of the rows, and which class is drawn hardly on the other classes.

    Args:
        records: all records of the dataset.
        config: what to keep.
        features: what near-duplicates are compared by, needed with ``near_duplicate``. Without them an image that can
            be read but not decoded is not noticed.

    Raises:
        RecordsError: nobody trains, nothing is kept, or the configuration names a domain that no training image has.
        MissingRowsError: an image has no row in ``features``.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from stages.records import read_records
    >>> with TemporaryDirectory() as folder:
    ...     for name, content in {"cup/0.jpg": b"0", "cup/1.jpg": b"1", "cup/2.jpg": b"1", "mug/0.jpg": b"2"}.items():
    ...         path = Path(folder, "train", name)
    ...         path.parent.mkdir(parents=True, exist_ok=True)
    ...         _ = path.write_bytes(content)
    ...     curated = curate(read_records(folder), CurateConfig(min_images=2))
    >>> curated.retained.keys
    ['train/cup/0.jpg', 'train/cup/1.jpg']
    """
    near = config.near_duplicate
    if near is not None and features is None:
        raise SettingsError("near_duplicate compares features: give the store that holds them")
    train, test = _by_key(records.split("train")), _by_key(_test_side(records))
    if not train.keys:
        raise RecordsError("nothing trains, so there is nothing to curate: name the split that does, train = ...")
    _refuse_unknown_domains(config, train)
    why: _Reasons = {}

    def left() -> list[int]:
        return [row for row in range(len(train.keys)) if row not in why]

    if config.domains:
        why |= {row: _Why(NOT_CHOSEN) for row in left() if train.domains[row] not in config.domains}
    why |= _unreadable(left(), train, features)
    tested = dict(zip(reversed(test.digests), reversed(test.keys), strict=True))  # of equal bytes the first key
    why |= {row: _Why(TEST_BYTES, tested[train.digests[row]]) for row in left() if train.digests[row] in tested}
    if near is not None and features is not None:
        why |= _near_test(left(), train, test, features, near)
    why |= _copies(left(), train)
    if near is not None and features is not None:
        why |= _near_in_class(left(), train, features, near)
    small = [rows for rows in _grouped(left(), train.classes) if len(rows) < config.min_images]
    why |= {row: _Why(SMALL) for rows in small for row in rows}
    why |= _classes_not_drawn(left(), train, config)
    why |= _images_not_drawn(left(), train, config)
    dropped = [Dropped(train.keys[r], train.domains[r], str(train.labels[r]), *why[r]) for r in sorted(why)]
    if not left():
        counts = Counter(image.reason for image in dropped)
        summary = ", ".join(f"{counts[reason]:,} {reason}" for reason in REASONS if counts[reason])
        raise RecordsError(f"none of {len(dropped):,} training images is kept ({summary}): ask for less under [curate]")
    return Curated(train.take(left()), dropped)


def _by_key(records: Records) -> Records:
    """Sorted by key: so that no product of features, and no tie, depends on the order of the rows."""
    keys = records.keys
    return records.take(sorted(range(len(keys)), key=keys.__getitem__))


def _test_side(records: Records) -> Records:
    """The records that search or are searched, in test or validation, and do not train."""
    tested = {value for role in ROLES for value in records.roles[role]} - set(records.roles["train"])
    return records.take([row for row, split in enumerate(records.splits) if split in tested])


def _refuse_unknown_domains(config: CurateConfig, train: Records) -> None:
    known = sorted({domain for domain in train.domains if domain is not None})
    limits = config.classes_per_domain if isinstance(config.classes_per_domain, dict) else ()
    for key, names in (("domains", config.domains), ("classes_per_domain", limits)):
        refuse_absent(f"curate.{key}: the training set", names, known, "domain")


# Each of these looks at the rows that are left, ascending and hence by key, and says which are dropped and why.


def _unreadable(rows: Sequence[int], train: Records, features: FeatureStore | None) -> _Reasons:
    readable = [row for row in rows if train.digests[row]]
    if features is not None:
        readable = [readable[at] for at in train.take(readable).rows_in(features)]
    return {row: _Why(UNREADABLE) for row in set(rows) - set(readable)}


def _near_test(rows: Sequence[int], train: Records, test: Records, store: FeatureStore, threshold: float) -> _Reasons:
    test = test.take(test.rows_in(store))
    twins = twins_among(store, [train.digests[row] for row in rows], test.digests, threshold)
    return {rows[at]: _Why(TEST_TWIN, test.keys[twin.position], twin.similarity) for at, twin in twins.items()}


def _copies(rows: Sequence[int], train: Records) -> _Reasons:
    reasons: _Reasons = {}
    for copies in _grouped(rows, train.digests):
        for row in copies:
            other = next((copy for copy in copies if train.classes[copy] != train.classes[row]), None)
            if other is not None:
                reasons[row] = _Why(CONFLICT, train.keys[other])
            elif row != copies[0]:
                reasons[row] = _Why(COPY, train.keys[copies[0]])
    return reasons


def _near_in_class(rows: Sequence[int], train: Records, features: FeatureStore, threshold: float) -> _Reasons:
    reasons: _Reasons = {}
    for members in _grouped(rows, train.classes):
        for at, twin in twins_within(features, [train.digests[row] for row in members], threshold).items():
            reasons[members[at]] = _Why(TWIN, train.keys[members[twin.position]], twin.similarity)
    return reasons


def _classes_not_drawn(rows: Sequence[int], train: Records, config: CurateConfig) -> _Reasons:
    limits, reasons = config.classes_per_domain, _Reasons()
    for in_domain in _grouped(rows, train.domains):
        domain = train.domains[in_domain[0]] or ""
        limit = limits.get(domain) if isinstance(limits, dict) else limits
        groups = _grouped(in_domain, train.classes)
        lots = {seeded_order(config.seed, domain, str(train.labels[rows[0]])): rows for rows in groups}
        for drawn in sorted(lots)[limit:] if limit is not None else []:
            reasons |= {row: _Why(CLASS_NOT_DRAWN) for row in lots[drawn]}
    return reasons


def _images_not_drawn(rows: Sequence[int], train: Records, config: CurateConfig) -> _Reasons:
    reasons: _Reasons = {}
    for members in _grouped(rows, train.classes) if config.max_images is not None else []:
        drawn = sorted(members, key=lambda row: seeded_order(config.seed, train.keys[row]))
        reasons |= {row: _Why(IMAGE_NOT_DRAWN) for row in drawn[config.max_images :]}
    return reasons


def _grouped(rows: Sequence[int], column: Sequence[Hashable]) -> list[list[int]]:
    """The rows by their value in ``column``, each group in the order of ``rows``."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row in rows:
        groups[column[row]].append(row)
    return list(groups.values())
