"""Scores by size: the same queries against galleries of several sizes, and by the size of the query's class.

Every query keeps all rows that are relevant to it, and searches some of the others: of a smaller gallery's distractors
all are in the larger one. Which they are follows from a hash of the seed and a row's key, so that a row stays in or out
whatever other rows there are.

One search serves all sizes. A row is before the i-th relevant one of a query or is not, whatever the size; so the rank
of that relevant row in each gallery is i and the number of sampled rows before it::

    similarity (block, G) --position among the relevant, size--> counts (block, R + 1, sizes) --cumulated--> ranks
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache import Features
from cache.errors import ConfigError, NothingToScoreError, RecordsError, SettingsError
from stages.analysis.bounds import mean_bounds, metric_bounds
from stages.ranking.intervals import class_numbers, estimate, share_interval
from stages.ranking.metrics import Metric, Values, find_metric
from stages.ranking.nearest import Rows
from stages.ranking.relevance import Mask
from stages.records import Records
from stages.records.splits import seeded_order
from stages.retrieval.evaluate import depths
from stages.retrieval.protocols import ByLabelConfig, RankedProtocol
from stages.retrieval.query_set import QuerySet, with_row
from stages.retrieval.query_values import QueryValues
from stages.retrieval.scores import ALL, MEAN, QueryScores, Score, domain_names, rows_by_group, summarise

SIZES = (0.01, 0.1, 1.0)
"""Shares of the distractors: the whole gallery, a tenth, and a hundredth."""


class SizedScore(NamedTuple):
    """A score in a gallery of ``sampled`` rows, drawn with a fixed seed, with its floor and ceiling there.

    ``size`` is as it was asked for, and ``searched`` how many rows a query searches in the mean: its relevant rows, and
    the ``distractors``, the sampled ones that are not.
    """

    size: float
    sampled: int
    distractors: float
    searched: float
    score: Score
    floor: float
    ceiling: float


@dataclass(frozen=True)
class SizeCurve:
    """The scores by size, ascending; and the value (Q,) of each metric for each query, by the sampled rows."""

    scores: tuple[SizedScore, ...]
    query_keys: tuple[str, ...]
    per_query: dict[int, dict[str, Values]]
    left_out: int
    """Further distractors of a class that some query has: they would be relevant."""


def gallery_curve(
    vectors: Features,
    *,
    queries: Records,
    gallery: Records,
    sizes: Sequence[float] = SIZES,
    metrics: Sequence[str] | None = None,
    further: Records | None = None,
    protocol: RankedProtocol = ByLabelConfig(),
    seed: int = 0,
) -> SizeCurve:
    """Score ``vectors``, made unit length, as :func:`~stages.retrieval.evaluate` does, in galleries of some ``sizes``.

    A size is a share of the rows that can be distractors where it is at most 1, else a number of them; ``seed`` is that
    of the order in which they are sampled. ``further`` rows are searched too and relevant to nobody: those of a class
    that a query has are left out. By default the metrics are those of the ``protocol``, which has one gallery.

    Raises as :func:`stages.retrieval.evaluate`, and ValueError for a size that is not above 0, more distractors than
    there are, or a gallery for each domain, RecordsError for a further distractor that is in the gallery too.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> curve = gallery_curve(VECTORS, queries=IMAGES, gallery=IMAGES, sizes=[2, 1.0], metrics=["hit@1"])
    >>> [(sized.sampled, sized.score.value) for sized in curve.scores]
    [(2, 1.0), (24, 1.0)]
    """
    wanted = [find_metric(name) for name in dict.fromkeys(protocol.metrics if metrics is None else metrics)]
    if not wanted:
        raise SettingsError("metrics must name at least one, got none")
    if protocol.gallery != "merged":
        raise SettingsError("a gallery-size curve takes one gallery that all search, and the protocol has one a domain")
    everything, left_out = _with_further(queries, gallery, further)
    sides = with_row(vectors, queries, "query"), with_row(vectors, everything, "gallery")
    part = protocol.query_sets(*sides)[0].answerable()
    if not len(part.queries):
        raise NothingToScoreError("no query has another image of its label in the gallery: there is nothing to score")
    keys = part.gallery.keys  # place (G,): where each row is when all are drawn one after another
    place = np.argsort(sorted(range(len(keys)), key=lambda row: seeded_order(seed, "gallery size", keys[row])))
    counts = _numbers(sizes, len(place))
    groups = protocol.groups(part.queries)
    members = rows_by_group(groups, domain_names(protocol.groups(queries)))
    per_query, searched = _values(vectors, part, place, list(counts), wanted)
    scores, nothing = [], dict.fromkeys([ALL, *members], 0)
    for at, (count, size) in enumerate(counts.items()):
        every = ((metric.name, metric_bounds(metric, part.num_relevant, searched[:, at])) for metric in wanted)
        bounds = {name: mean_bounds(of_queries, groups, list(members)) for name, of_queries in every}
        mean = float(searched[:, at].mean())
        others, rows = mean - float(part.num_relevant.mean()), dict.fromkeys([ALL, MEAN, *members], round(mean))
        for score in summarise(per_query[count], part.queries.classes, members, nothing, rows):
            scores.append(SizedScore(size, count, others, mean, score, *bounds[score.metric][score.domain]))
    return SizeCurve(tuple(scores), tuple(part.queries.keys), per_query, left_out)


def further_distractors(records: Records, values: Sequence[str]) -> Records:
    """The records of these ``values`` of the split column. ConfigError for one that no record has."""
    there = sorted({split for split in records.splits if split is not None})
    if unknown := [value for value in values if value not in there]:
        raise ConfigError(f"no record has the split {unknown[0]!r}; there are {', '.join(there)}")
    mask = pc.is_in(records.table["split"], pa.array(list(values), pa.string()))
    return Records(records.table.filter(mask), records.roles)


def check_sizes(sizes: Sequence[float], most: float = np.inf) -> None:
    """ValueError unless ``sizes`` are shares up to 1 or numbers of at most ``most`` distractors, at least one."""
    for size in sizes:
        if not 0 < size <= max(1, most) or (size > 1 and size % 1 != 0):
            up_to = f" up to {most:,}" if most < np.inf else ""
            raise SettingsError(
                f"a gallery size is a share above 0 and up to 1, or a whole number of distractors{up_to}; got {size:g}"
            )
    if not len(sizes):
        raise SettingsError("gallery_sizes must name at least one, got none")


def _with_further(queries: Records, gallery: Records, further: Records | None) -> tuple[Records, int]:
    """The gallery and ``further`` rows as one, the latter without a label; and how many of them were left out."""
    if further is None or not len(further):
        return gallery, 0
    if both := set(further.keys).intersection([*gallery.keys, *queries.keys]):
        raise RecordsError(f"{min(both)!r} is a further distractor, and a query or in the gallery: name other splits")
    searching = set(queries.classes)
    rows = [row for row, name in enumerate(further.classes) if name is None or name not in searching]
    nobody = further.take(rows).table
    empty = pa.nulls(len(rows), nobody.schema.field("label").type)
    nobody = nobody.set_column(nobody.schema.get_field_index("label"), nobody.schema.field("label"), empty)
    return replace(gallery, table=pa.concat_tables([gallery.table, nobody])), len(further) - len(rows)


def _numbers(sizes: Sequence[float], most: int) -> dict[int, float]:
    """The number of rows that each size keeps, ascending, and the size itself; of two with one number the first."""
    check_sizes(sizes, most)
    counts: dict[int, float] = {}
    for size in sizes:
        counts.setdefault(max(1, round(size * most)) if size <= 1 else int(size), size)
    return dict(sorted(counts.items()))


def _values(
    vectors: Features, part: QuerySet, place: Rows, counts: list[int], wanted: list[Metric]
) -> tuple[dict[int, dict[str, Values]], npt.NDArray[np.int64]]:
    """By number of kept rows the value (Q,) of each metric; and how many rows each query searches, (Q, sizes)."""
    num_queries = len(part.queries)
    size_of = np.searchsorted(counts, place, side="right")  # the first size that has the row; len(kept): none has
    values = {count: {metric.name: np.empty(num_queries) for metric in wanted} for count in counts}
    searched = np.empty((num_queries, len(counts)), np.int64)
    depth = int(depths(wanted, part).max())
    for block, similarity, relevant, others in part.compared(vectors, 2):
        tables = np.zeros((len(counts), len(block), depth), np.bool_)
        for row, query in enumerate(block):
            ranks, searched[query] = _ranks(similarity[row], relevant[row], others[row], size_of, len(counts))
            at, place_of = np.nonzero(ranks < depth)
            tables[at, row, ranks[at, place_of]] = True
        for count, table in zip(counts, tables, strict=True):
            for metric in wanted:
                values[count][metric.name][block] = metric.function(table, part.num_relevant[block])
    return values, searched


def _ranks(
    similarity: npt.NDArray[np.float32], relevant: Mask, others: Mask, size_of: Rows, sizes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The ranks from 0 of one query's relevant rows in each gallery (sizes, R), and the rows in each (sizes,)."""
    order = _order(similarity)
    wanted = np.sort(order[relevant])
    before = np.searchsorted(wanted, order[others])  # how many relevant rows come before each other row
    counts = np.bincount(before * (sizes + 1) + size_of[others], minlength=(len(wanted) + 1) * (sizes + 1))
    counts = counts.reshape(len(wanted) + 1, sizes + 1)[:, :sizes].cumsum(axis=1).cumsum(axis=0)
    ranks: npt.NDArray[np.int64] = counts[: len(wanted)].T + np.arange(len(wanted))
    return ranks, counts[-1] + len(wanted)


def _order(similarity: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Different whole numbers (G,), ascending in the order of a ranking: similarity descending, then row ascending.

    The bits of a float ascend with it where it is positive, and descend where it is negative.
    """
    bits = (similarity + np.float32(0)).view(np.int32)  # -0 becomes 0: they are one similarity
    ascending = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    return -(ascending << 32) + np.arange(len(similarity))


ClassSize: TypeAlias = Literal["class_size", "training_class_size"]
"""Images of the query's class in the gallery, or among those that heads were trained on."""
EDGES = (0, 1, 2, 5, 10, 20, 50, 100, 1000)
"""The first size of each bin."""


class GroupScore(NamedTuple):
    """One metric over the queries of one group, with its interval over classes. ``group`` is such as ``5-9``."""

    group: str
    metric: str
    value: float
    low: float
    high: float
    queries: int
    classes: int


def by_class_size(scored: QueryScores, sizes: Mapping[str, int]) -> tuple[GroupScore, ...]:
    """The mean of each metric over the queries whose class has a size in one of the bins, small classes first.

    ``sizes`` are by the query's key: see :func:`gallery_sizes`, :func:`training_sizes`. Raises ValueError
    where one is missing.

    >>> scored = QueryScores(("a", "b", "c"), ("cup", "cup", "mug"), {"hit@1": np.array([1.0, 0.0, 1.0])})
    >>> [(group.group, group.value) for group in by_class_size(scored, {"a": 7, "b": 7, "c": 1})]
    [('1', 1.0), ('5-9', 0.5)]
    """
    if missing := [key for key in scored.query_keys if key not in sizes]:
        raise SettingsError(f"{len(missing):,} queries have no class size, the first is {missing[0]!r}")
    of_query = np.array([sizes[key] for key in scored.query_keys])
    units = class_numbers(scored.query_classes)
    groups = []
    bins = np.searchsorted(EDGES, of_query, side="right") - 1
    for number in np.unique(bins).tolist():
        rows = np.flatnonzero(bins == number)
        known = estimate(np.stack([row[rows] for row in scored.per_query.values()]), units[rows])
        columns = (column.tolist() for column in (known.mean, *share_interval(known)))
        groups += [
            GroupScore(_name(number), metric, mean, low, high, len(rows), known.units)
            for metric, mean, low, high in zip(scored.per_query, *columns, strict=True)
        ]
    return tuple(groups)


def stored_by_class_size(values: QueryValues, records: Records, by: ClassSize) -> list[dict[str, Any]]:
    """The stored scores of every head by the size of the query's class: an object for each group and metric."""
    in_gallery, queries = by == "class_size", records.split("query")
    count = gallery_sizes if in_gallery else training_sizes
    sizes = count(queries, records.split("gallery" if in_gallery else "train"))
    return [
        {"backbone": backbone, "head": head, "by": by} | group._asdict()
        for backbone, head in values.heads()
        for metric in values.of(backbone, head)
        for group in by_class_size(metric, sizes)
    ]


def gallery_sizes(queries: Records, gallery: Records) -> dict[str, int]:
    """How many images of its class each query can find in the gallery, by key: itself not counted."""
    counts, keys = Counter(gallery.classes), set(gallery.keys)
    pairs = zip(queries.keys, queries.classes, strict=True)
    return {key: 0 if name is None else counts[name] - (key in keys) for key, name in pairs}


def training_sizes(queries: Records, train: Records) -> dict[str, int]:
    """How many images of its class each query's head was trained on, by key; 0 is a class never seen."""
    counts = Counter(train.classes)
    return {key: 0 if name is None else counts[name] for key, name in zip(queries.keys, queries.classes, strict=True)}


def _name(number: int) -> str:
    first, *ends = EDGES[number : number + 2]
    if not ends:
        return f"{first}+"
    return str(first) if ends[0] - 1 == first else f"{first}-{ends[0] - 1}"
