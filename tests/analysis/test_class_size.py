from __future__ import annotations

import numpy as np
import pytest

from stages.analysis import by_class_size
from stages.analysis.sizes import gallery_sizes, training_sizes
from stages.retrieval.scores import QueryScores
from tests.toys.rankings import records_of


def test_queries_are_grouped_by_the_size_of_their_class() -> None:
    keys = tuple("abcdef")
    scored = QueryScores(keys, ("x", "y", "z", "z", "v", "w"), {"map": np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])})
    sizes = dict(zip(keys, [1, 1, 3, 4, 12, 0], strict=True))
    groups = by_class_size(scored, sizes)
    assert [(item.group, item.queries, item.classes) for item in groups] == [
        ("0", 1, 1), ("1", 2, 2), ("2-4", 2, 1), ("10-19", 1, 1),
    ]  # fmt: skip
    assert [item.value for item in groups] == pytest.approx([0.6, 0.15, 0.35, 0.5])
    assert all(item.low <= item.value <= item.high for item in groups)
    assert (groups[2].low, groups[2].high) == (0, 1)  # one class says nothing of others
    with pytest.raises(ValueError, match="6 queries have no class size, the first is 'a'"):
        by_class_size(scored, {})


def test_sizes_are_counted_in_the_gallery_without_the_query_and_in_training() -> None:
    labels = {"q": "x", "g1": "x", "g2": "x", "h": "y", "n": None}
    records = records_of(labels)
    assert gallery_sizes(records, records) == {"q": 2, "g1": 2, "g2": 2, "h": 0, "n": 0}
    assert gallery_sizes(records.take([0]), records.take([1, 2])) == {"q": 2}
    assert training_sizes(records, records.take([0, 1])) == {"q": 2, "g1": 2, "g2": 2, "h": 0, "n": 0}
