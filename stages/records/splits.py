"""Which records train, search or are searched: from a split column, or class-disjoint from the seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache.errors import RecordsError
from stages.datasets.config import CLASS_DISJOINT, Roles, SourceConfig, as_names, counted

ROLES = ("train", "validation_query", "validation_gallery", "query", "gallery")
DISTRACTORS = ("validation_query_distractor", "query_distractor")
"""Further roles of a benchmark: queries that show nothing of the gallery, and so have no label."""

# The split values that class_disjoint_splits gives, by role. A table whose split column holds these, and no others,
# needs no roles in its run file.
MADE: Roles = {role: (role,) for role in ROLES} | {"gallery": ("gallery", "distractor")}


def seeded_order(seed: int, *names: str) -> bytes:
    """The sort key of ``names`` under ``seed``, 32 bytes: an order that depends on nothing else.

    >>> sorted(["ant", "bee", "cat"], key=lambda name: seeded_order(0, name))
    ['cat', 'ant', 'bee']
    """
    return hashlib.sha256("\0".join((str(seed), *names)).encode("utf-8", "surrogateescape")).digest()


def named_roles(
    config: SourceConfig,
    splits: Sequence[str | None] | pa.ChunkedArray,
    keys: Sequence[str] | pa.ChunkedArray,
    settled: Roles | None = None,
) -> Roles:
    """The values of the split column (N,) that each role takes: those that ``config`` names, else ``settled``."""
    column = splits if isinstance(splits, pa.ChunkedArray) else pa.chunked_array([pa.array(splits, pa.string())])
    counts = counted(column)
    if config.query is None and settled is not None:
        return dict.fromkeys(ROLES, ()) | dict(settled)
    if config.query is None:
        if unknown := counts.keys() - {value for values in MADE.values() for value in values}:
            row = int(np.flatnonzero(pc.is_in(column, pa.array([*unknown], pa.string())))[0])
            raise RecordsError(
                f"row {row + 1} (key {str(keys[row])!r}) has the split {str(column[row])!r}, and its use is not known. "
                "Name the values in the run file "
                f"(train = ..., query = ..., gallery = ...; the column has {_listed(counts)}), "
                f"or set split = {CLASS_DISJOINT!r} to have splits made from the seed."
            )
        return MADE
    roles = {role: as_names(getattr(config, role.split("_")[0])) for role in ROLES}
    for role, values in roles.items():
        if absent := [value for value in values if value not in counts]:
            name = f"{role.split('_')[0]} names the split {absent[0]!r}"
            raise RecordsError(f"{name}, which no row has; there are {_listed(counts)}")
    for one, other, why in (
        ("train", "query", "a head must not be scored on what it learned"),
        ("train", "validation_query", "an epoch must not be chosen on what was learned"),
        ("validation_query", "query", "an epoch must not be chosen on what is scored"),
    ):
        if shared := set(roles[one]) & set(roles[other]):
            names = " and ".join(role.split("_")[0] for role in (one, other))
            raise RecordsError(f"{names} both name the split {min(shared)!r}: {why}. Give each a split of its own.")
    return roles


def label_domains(labels: Sequence[str | None], domains: Sequence[str | None]) -> dict[str, str]:
    """The labels of N rows that can be searched for, each with the first domain where it has two rows.

    A relevant image is of the query's domain: a label that has one row in each of its domains cannot be searched for.

    >>> label_domains(["cat", "cat", "dog", "dog", "cat"], ["photo", "photo", "photo", "art", "art"])
    {'cat': 'photo'}
    """
    sizes = Counter((domain or "", label) for label, domain in zip(labels, domains, strict=True) if label is not None)
    first: dict[str, str] = {}
    for domain, label in sorted(sizes):
        if sizes[domain, label] > 1:
            first.setdefault(label, domain)
    return dict(sorted(first.items(), key=lambda item: (item[1], item[0])))


def class_disjoint_splits(
    keys: Sequence[str], labels: Sequence[str | None], domains: Sequence[str | None], config: SourceConfig, seed: int
) -> list[str]:
    """A split value for each record (N,), whole classes to train, validation or test.

    A label is one class in all its domains. In validation and test each class gives ``queries_per_class`` images of
    each domain (fewer where it has no more than that) to the query set and the rest to the gallery. Classes that have
    two images in no domain, and records without a label, become distractors. Classes are taken in ``seeded_order``,
    those of one domain (the first where they have two images) after those of another: which class goes where depends
    neither on the order of the rows nor on how many images there are, and hardly on what other classes there are.

    >>> from stages.datasets import FolderConfig
    >>> keys = ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"]
    >>> config = FolderConfig(path=".", test_share=0.34, validation_share=0.0)
    >>> class_disjoint_splits(keys, list("aabbcc"), [None] * 6, config, seed=0)
    ['gallery', 'query', 'train', 'train', 'train', 'train']
    """
    prefixes = _prefixes(label_domains(labels, domains), config, seed)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, (label, domain) in enumerate(zip(labels, domains, strict=True)):
        if label in prefixes:
            groups[str(label), domain or ""].append(row)
    splits = ["distractor"] * len(keys)
    for (label, _), rows in groups.items():
        if (prefix := prefixes[label]) is None:
            values = ["train"] * len(rows)
        else:
            queries = min(config.queries_per_class, len(rows) - 1)
            values = [f"{prefix}query"] * queries + [f"{prefix}gallery"] * (len(rows) - queries)
        for row, split in zip(sorted(rows, key=lambda row: seeded_order(seed, keys[row])), values, strict=True):
            splits[row] = split
    return splits


def _prefixes(domain_of: Mapping[str, str], config: SourceConfig, seed: int) -> dict[str, str | None]:
    """For each class how its splits begin: None in training, ``""`` in test, ``"validation_"`` in validation."""
    prefixes: dict[str, str | None] = {}
    for domain in sorted({*domain_of.values()}):
        names = [name for name, first in domain_of.items() if first == domain]
        names.sort(key=partial(seeded_order, seed, domain))
        tested = round(len(names) * config.test_share)
        untrained = tested + round(len(names) * config.validation_share)
        for position, name in enumerate(names):
            prefixes[name] = "" if position < tested else "validation_" if position < untrained else None
    return prefixes


def describe_splits(labels: Sequence[str | None], domains: Sequence[str | None], splits: Sequence[str]) -> str:
    """What :func:`class_disjoint_splits` did with these records, for people to read."""
    rows = set(zip(labels, splits, strict=True))
    train, validate, test = (sum(split == role for _, split in rows) for role in ("train", "validation_query", "query"))
    across = f"; a label is one class in all {count} domains" if (count := len({*domains})) > 1 else ""
    return f"splits made by class from the seed: {train:,} train, {validate:,} validate, {test:,} test{across}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{value!r} ({count:,} rows)" for value, count in sorted(counts.items())) or "no values"
