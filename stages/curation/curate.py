"""From the training images of a dataset to a compact training table: what is kept, and why the rest is not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt

from cache import Features, FeatureStore
from cache.errors import RecordsError, SettingsError
from cache.settings import Settings, Within
from stages.datasets.config import refuse_absent
from stages.ranking import search, unit_length
from stages.ranking.nearest import compare_all
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


def curate(records: Records, config: CurateConfig, features: FeatureStore | None = None) -> Curated:
    """Choose among the training records of ``records``.

    They are dropped in this order, each for the first reason that holds: a domain that was not asked for; an image
    that cannot be read, or has no feature; one whose bytes are in the test side (query, gallery or validation, and
    not training); a near-duplicate of a test-side image; byte-identical copies (the one with the first key is kept,
    or none where they have different labels); near-duplicates within a class (going by key, the first is kept);
    classes that now have fewer than ``min_images``; classes, then images of a class, that are not drawn.
    Near-duplicates across classes stay: two products may look the same.

    Which are kept does not depend on the order of the rows, and which class is drawn hardly on the other classes.
    ``features`` are what near-duplicates are compared by; without them an image that can be read and not decoded is not
    noticed. RecordsError where nothing is kept; MissingRowsError where an image has no row in ``features``.

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
    sieve = _Sieve(train, config)
    sieve.drop(NOT_CHOSEN, [row for row in sieve.left() if config.domains and train.domains[row] not in config.domains])
    sieve.unreadable(features)
    tested = dict(zip(reversed(test.digests), reversed(test.keys), strict=True))  # of equal bytes the first key
    for row in sieve.left():
        if (key := tested.get(train.digests[row])) is not None:
            sieve.drop(TEST_BYTES, [row], key)
    if near is not None and features is not None:
        sieve.near_test(test, features, near)
    sieve.copies()
    if near is not None and features is not None:
        sieve.near_in_class(features, near)
    for rows in sieve.grouped(train.classes):
        sieve.drop(SMALL, rows if len(rows) < config.min_images else [])
    sieve.draw_classes()
    sieve.draw_images()
    dropped = [sieve.dropped[row] for row in sorted(sieve.dropped)]
    if not sieve.left():
        counts = Counter(image.reason for image in dropped)
        summary = ", ".join(f"{counts[reason]:,} {reason}" for reason in REASONS if counts[reason])
        raise RecordsError(f"none of {len(dropped):,} training images is kept ({summary}): ask for less under [curate]")
    return Curated(train.take(sieve.left()), dropped)


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


class _Sieve:
    """The training records by key. Each step looks at the rows that are left, and drops some with their reason."""

    def __init__(self, train: Records, config: CurateConfig) -> None:
        self.train, self.config = train, config
        self.dropped: dict[int, Dropped] = {}

    def left(self) -> list[int]:
        return [row for row in range(len(self.train)) if row not in self.dropped]

    def grouped(self, column: Sequence[Hashable]) -> list[list[int]]:
        """The rows that are left by their value in ``column``."""
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for row in self.left():
            groups[column[row]].append(row)
        return list(groups.values())

    def drop(self, reason: str, rows: Sequence[int], other: str | None = None, similarity: float | None = None) -> None:
        train = self.train
        for row in rows:
            named = train.keys[row], train.domains[row], str(train.labels[row])
            self.dropped[row] = Dropped(*named, reason, other, similarity)

    def unreadable(self, features: FeatureStore | None) -> None:
        readable = [row for row in self.left() if self.train.digests[row]]
        if features is not None:
            readable = [readable[at] for at in self.train.take(readable).rows_in(features)]
        self.drop(UNREADABLE, sorted({*self.left()} - {*readable}))

    def near_test(self, test: Records, store: FeatureStore, threshold: float) -> None:
        test, rows = test.take(test.rows_in(store)), self.left()
        twins = twins_among(store, [self.train.digests[row] for row in rows], test.digests, threshold)
        for at, twin in twins.items():
            self.drop(TEST_TWIN, [rows[at]], test.keys[twin.position], twin.similarity)

    def copies(self) -> None:
        keys, classes = self.train.keys, self.train.classes
        for copies in self.grouped(self.train.digests):
            for row in copies:
                other = next((copy for copy in copies if classes[copy] != classes[row]), None)
                if other is not None:
                    self.drop(CONFLICT, [row], keys[other])
                elif row != copies[0]:
                    self.drop(COPY, [row], keys[copies[0]])

    def near_in_class(self, store: FeatureStore, threshold: float) -> None:
        for members in self.grouped(self.train.classes):
            for at, twin in twins_within(store, [self.train.digests[row] for row in members], threshold).items():
                self.drop(TWIN, [members[at]], self.train.keys[members[twin.position]], twin.similarity)

    def draw_classes(self) -> None:
        limits, lots = self.config.classes_per_domain, defaultdict[str, dict[bytes, list[int]]](dict)
        for rows in self.grouped(self.train.classes):
            domain = self.train.domains[rows[0]] or ""
            lots[domain][seeded_order(self.config.seed, domain, str(self.train.labels[rows[0]]))] = rows
        for domain, drawn in lots.items():
            limit = limits.get(domain) if isinstance(limits, dict) else limits
            for lot in sorted(drawn)[limit:] if limit is not None else []:
                self.drop(CLASS_NOT_DRAWN, drawn[lot])

    def draw_images(self) -> None:
        seed, keys = self.config.seed, self.train.keys
        for members in self.grouped(self.train.classes) if self.config.max_images is not None else []:
            drawn = sorted(members, key=lambda row: seeded_order(seed, keys[row]))
            self.drop(IMAGE_NOT_DRAWN, drawn[self.config.max_images :])


@dataclass(frozen=True)
class CurateConfig(Settings):
    """The ``[curate]`` of a run file: which training images make a compact, clean training table.

    Attributes:
        domains: the domains to take; by default all.
        min_images: a class with fewer images, once duplicates are gone, is dropped.
        max_images: images to draw of a class that has more; by default all.
        classes_per_domain: classes to draw of a domain that has more: one number for every domain, or a table from
            domain to number, where a domain that is not in it keeps all. By default all.
        near_duplicate: two images whose features have this cosine similarity or more are taken for one. By default
            only byte-identical copies are, and no feature is read.
        seed: draws the classes and the images.
    """

    domains: tuple[str, ...] = ()
    min_images: Annotated[int, Within("[1, inf]")] = 3
    max_images: int | None = None
    classes_per_domain: int | dict[str, int] | None = None
    near_duplicate: Annotated[float | None, Within("(0, 1]", "a cosine similarity")] = None
    seed: Annotated[int, Within("[0, inf]")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_images is not None and self.max_images < self.min_images:
            raise SettingsError(
                f"max_images is the most that a class keeps, so at least min_images; got {self.max_images} "
                f"and {self.min_images}"
            )
        limits = self.classes_per_domain
        least = min(limits.values(), default=None) if isinstance(limits, dict) else limits
        if least is not None and least < 1:
            raise SettingsError(
                f"classes_per_domain must be at least 1, got {least}; to leave a domain out, list the others in domains"
            )


BLOCK = 2048  # rows of both sides at a time: 16 MB of similarities


class Twin(NamedTuple):
    """What an image is a near-duplicate of: its position, and the cosine similarity of the two."""

    position: int
    similarity: float


def twins_among(
    store: Features, digests: Sequence[bytes], others: Sequence[bytes], threshold: float, *, block: int = BLOCK
) -> dict[int, Twin]:
    """For each of ``digests`` (n,) that has one, the most similar of ``others`` (m,) at or above ``threshold``.

    Keys are positions in ``digests``, :attr:`Twin.position` is one in ``others``; of equals the first.
    """
    best = np.full(len(digests), -np.inf, np.float32)
    nearest = np.zeros(len(digests), np.int64)
    for first, theirs in _blocks(store, others, block):
        for start, mine in _blocks(store, digests, block):
            rows, highest = search(theirs, mine, 1)
            place = np.arange(start, start + len(mine))[highest[:, 0] > best[start : start + len(mine)]]
            nearest[place], best[place] = first + rows[place - start, 0], highest[place - start, 0]
    return {int(row): Twin(int(nearest[row]), float(best[row])) for row in np.flatnonzero(best >= threshold)}


def twins_within(store: Features, digests: Sequence[bytes], threshold: float, *, block: int = BLOCK) -> dict[int, Twin]:
    """Those of ``digests`` (n,) to drop so that no two of the rest are near-duplicates, each with what stands for it.

    From first to last, an image is kept unless one that was kept before it is at or above ``threshold``; then the
    most similar of those stands for it. So of a chain whose ends are unlike, more than one can be kept.
    """
    dropped: dict[int, Twin] = {}
    staying: list[int] = []
    for start, mine in _blocks(store, digests, block):
        earlier = twins_among(
            store, digests[start : start + len(mine)], [digests[row] for row in staying], threshold, block=block
        )
        similarity = compare_all(mine, mine, np.full(len(mine), -1))
        inside: list[int] = []  # of this block, those that stay
        for row in range(len(mine)):
            twin = earlier.get(row)
            best = None if twin is None else Twin(staying[twin.position], twin.similarity)
            if inside:
                nearest = inside[int(similarity[row, inside].argmax())]
                value = float(similarity[row, nearest])
                if value >= threshold and (best is None or value > best.similarity):
                    best = Twin(start + nearest, value)
            if best is None:
                inside.append(row)
            else:
                dropped[start + row] = best
        staying += [start + row for row in inside]
    return dropped


def _blocks(store: Features, digests: Sequence[bytes], block: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """The unit-length features (b, D), ``block`` rows at a time, each with the position of its first row."""
    for first in range(0, len(digests), block):
        yield first, unit_length(store.read(digests[first : first + block]))
