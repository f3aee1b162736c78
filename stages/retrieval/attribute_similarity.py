"""How alike two records are by their attributes: the grades that graded metrics reward.

The grade of a gallery row for a query is the share of the query's attributes that are equal, by weight: 1 where all
are, 0 where none is. An attribute that the query lacks is not asked for; one that only the gallery row lacks is not
equal. A JSON list of text, or a text with ``|`` in it, is several values, and two such are equal by the share of their
values that they have in common (intersection over union).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache.errors import RecordsError, SettingsError, did_you_mean
from stages.records import Records
from stages.records.several import several

Grades = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Compared:
    """One attribute, its weight, and the values of Q queries and G gallery rows; -1 or no value where it is missing."""

    weight: float
    queries: Codes
    gallery: Codes
    query_sets: Grades | None = None
    gallery_sets: Grades | None = None

    def equal(self, rows: Codes) -> Grades:
        """How equal (n, G) the queries at ``rows`` (n,) are to every gallery row; 0 where one has no value."""
        if self.query_sets is None or self.gallery_sets is None:
            wanted = self.queries[rows, None]
            same: Grades = ((wanted == self.gallery) & (wanted >= 0)).astype(np.float64)
            return same
        shared = self.query_sets[rows] @ self.gallery_sets.T
        either = self.query_sets[rows].sum(1)[:, None] + self.gallery_sets.sum(1) - shared
        common: Grades = np.divide(shared, either, out=np.zeros_like(shared), where=shared > 0)
        return common


class AttributeGrades:
    """The grades of Q queries and G gallery rows by ``weights``, a weight for each attribute that counts."""

    def __init__(self, queries: Records, gallery: Records, weights: Mapping[str, float]) -> None:
        check_weights(weights, attribute_names(queries))
        self._compared = [_compared(queries, gallery, name, weight) for name, weight in weights.items() if weight > 0]
        known = [(attribute.queries >= 0) * attribute.weight for attribute in self._compared]
        self._asked: Grades = np.sum(known, axis=0)

    @property
    def answerable(self) -> npt.NDArray[np.bool_]:
        """True for the queries (Q,) that have any of the attributes."""
        return self._asked > 0

    def grades(self, rows: Codes) -> Grades:
        """The grades (n, G), in [0, 1], of the queries at ``rows`` (n,), which are answerable."""
        total = np.zeros((len(rows), len(self._compared[0].gallery)))
        for attribute in self._compared:
            total += attribute.weight * attribute.equal(rows)
        # Sums of weights in one order are the same numbers: rows of equal grade tie exactly.
        return total / self._asked[rows, None]


def attribute_names(records: Records) -> tuple[str, ...]:
    """The attributes that the dataset names, in its order."""
    stem = "attributes."
    return tuple(name.removeprefix(stem) for name in records.table.column_names if name.startswith(stem))


def check_weights(weights: Mapping[str, float], names: Sequence[str]) -> None:
    """Raise where ``weights`` are no mixture of the attributes ``names``: RecordsError for an unknown one."""
    for name in weights:
        if name not in names:
            raise RecordsError(
                f"there is no attribute {name!r}.{did_you_mean(name, names)} The dataset names "
                f"{', '.join(names) or 'none'}: dataset.attributes = [...] lists the columns."
            )
    check_mixture(weights)


def check_mixture(weights: Mapping[str, float]) -> None:
    """ValueError unless ``weights`` are finite, none below 0 and one above."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise SettingsError(f"the weight of {name} is a number of at least 0, got {weight}")
    if not any(weights.values()):
        raise SettingsError("a definition of similar needs an attribute with a weight above 0")


def _compared(queries: Records, gallery: Records, name: str, weight: float) -> _Compared:
    searching, searched = (several(side, f"attributes.{name}") for side in (queries, gallery))
    together = [*searching, *searched]
    values = {value: at for at, value in enumerate(sorted({value for row in together for value in row}))}
    of_queries, of_gallery = (
        np.array([values[row[0]] if row else -1 for row in rows], np.int64) for rows in (searching, searched)
    )
    if all(len(row) <= 1 for row in together):
        return _Compared(weight, of_queries, of_gallery)
    return _Compared(weight, of_queries, of_gallery, _sets(searching, values), _sets(searched, values))


def _sets(rows: Sequence[Sequence[str]], values: Mapping[str, int]) -> Grades:
    table = np.zeros((len(rows), len(values)))
    for row, own in enumerate(rows):
        table[row, [values[value] for value in own]] = 1
    return table
