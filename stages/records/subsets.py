"""Some of the records of a training set, as learning curves take them."""

from __future__ import annotations

from collections import Counter

from stages.records.records import Records
from stages.records.seeded_order import seeded_order


def balanced_subset(records: Records, count: int | None, seed: int) -> Records:
    """``count`` of ``records`` (None: all), one of each class by turns, in the order of ``records``.

    With one seed, a smaller subset is a part of every larger one.
    """
    if count is None or count >= len(records):
        return records
    keys, classes = records.keys, [str(name) for name in records.classes]
    counts = Counter[str]()
    turns = []
    for row in sorted(range(len(records)), key=lambda row: seeded_order(seed, "row", keys[row])):
        counts[classes[row]] += 1
        turns.append((counts[classes[row]], seeded_order(seed, "class", classes[row]), row))
    return records.take(sorted(row for _, _, row in sorted(turns)[:count]))
