"""Score a set of vectors in which every row searches all others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stages.ranking.metrics import Values, find_metric
from stages.ranking.normalize import unit_length
from stages.retrieval.relevance import ByClass, Judgement
from stages.retrieval.tables import relevance_tables


def leave_one_out(vectors: npt.NDArray[np.generic], labels: npt.NDArray[np.int64], metric: str) -> Values:
    """The value (N,) of ``metric`` for each of ``vectors`` (N, E), made unit length, searched in all the others.

    Relevant are the rows of the same label (N,); a row that is alone with its label gets NaN, as there is nothing to
    find. Raises ValueError for an unknown metric, NaN in ``vectors``, and negative labels.
    """
    found = find_metric(metric)
    if len(labels) != len(vectors) or (len(labels) and labels.min() < 0):
        raise ValueError(f"labels are numbers from 0, one a row; got {len(labels)} for {len(vectors)} vectors")
    values = np.full(len(vectors), np.nan)
    if not len(labels):
        return values
    relevant = np.bincount(labels)[labels] - 1
    searching = np.flatnonzero(relevant > 0)
    if len(searching):
        unit = unit_length(vectors)
        depth = found.depth(int(relevant.max()), len(vectors))
        judged = Judgement(ByClass(labels[searching], labels))
        for table in relevance_tables(unit, unit[searching], judged, searching, depth):
            values[searching[table.queries]] = table.value(found, relevant[searching])
    return values
