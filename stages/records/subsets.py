"""Some of the records of a training set, as learning curves take them."""

from __future__ import annotations

from collections import Counter

from stages.records.records import Records
from stages.records.seeded_order import seeded_order


def balanced_subset(records: Records, count: int | None, seed: int, *, least: int = 1) -> Records:
    """``count`` of ``records`` (None: all), one of each class by turns, in the order of ``records``.

    A class comes in with ``least`` rows at once, and smaller classes do not: of less than ``least`` of every class, a
    remainder that is no class is left. With one seed, a smaller subset is a part of every larger one.
    """
    keys, classes = records.keys, [str(name) for name in records.classes]
    sizes = Counter(classes)
    large = [row for row in range(len(records)) if sizes[classes[row]] >= least]
    if count is None or count >= len(large):
        return records.take(large)
    if count < least * sum(size >= least for size in sizes.values()):
        count -= count % least
    counts = Counter[str]()
    turns = []
    for row in sorted(large, key=lambda row: seeded_order(seed, "row", keys[row])):
        counts[classes[row]] += 1
        turns.append((max(counts[classes[row]], least), seeded_order(seed, "class", classes[row]), row))
    return records.take(sorted(row for _, _, row in sorted(turns)[:count]))
