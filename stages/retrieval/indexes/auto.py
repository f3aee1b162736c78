"""``auto``: the index that budgets ask for, chosen by what was measured here, and a table of what was tried.

Exact search is measured first. Where it keeps within the budgets it is taken, and nothing is built. Otherwise kinds are
built on a sample of the gallery (whole classes), each visiting as few lists as the allowed loss *in the task's metric*
permits; the fastest within the budgets is built once more, of the whole gallery, and measured there again. It is taken
if it still keeps the budgets and is faster than exact search; if not, exact search stays, and the table says why.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from pydantic import Field

from cache.errors import NothingToScoreError, SettingsError
from cache.fingerprint import JSON
from cache.settings import Settings, Within, changed_settings
from cache.storage import Where, storage_of
from stages.ranking.metrics import Metric, find_metric
from stages.ranking.nearest import Rows
from stages.ranking.normalize import Vectors, check_unit
from stages.ranking.relevance import ByClass, ByGroups, Judgement, Relevance, table_of_rows
from stages.retrieval.indexes import lazy_faiss as faiss
from stages.retrieval.indexes.faiss_search import PIECES, number_of_lists
from stages.retrieval.indexes.gallery_index import GalleryIndex
from stages.retrieval.indexes.kinds import (
    BuiltConfig,
    FlatIndexConfig,
    IvfFlatIndexConfig,
    IvfPqIndexConfig,
    RabitqIndexConfig,
    ScalarIndexConfig,
)
from stages.retrieval.indexes.milvus import MilvusIndexConfig
from stages.retrieval.indexes.snapshots import read_sidecar

FEWEST_QUERIES = 20
_DEEPEST = 1000
_ID = 8  # bytes of a row's id in a list
_ROUNDS = 5  # of measuring
_SECONDS = 0.1  # that a round takes, or until all queries were asked
_FEWEST = 3
_MOST_SHARE = 4  # a query that visits more than a quarter of the lists gains nothing

Probed: TypeAlias = IvfFlatIndexConfig | IvfPqIndexConfig | ScalarIndexConfig | RabitqIndexConfig


@dataclass(frozen=True)
class AutoIndexConfig(Settings):
    """The budgets that an index is chosen by.

    Args:
        ms: milliseconds of CPU time that a query may take, as measured on this machine.
        bytes: that a row may take; left out, any number.
        loss: how much of the ``metric`` may be lost against exact search.
        metric: of the first ranks (at most 1,000); by default the first such of the run's metrics, or mmp@5.
        batch: queries that come together when time is measured.
        queries: at most so many are measured on.
        sample: rows of the gallery that kinds are tried on, in whole classes.
        seed: of the draws, and of the index.
    """

    kind: Literal["auto"] = "auto"
    ms: Annotated[float, Within("(0, inf]", "a budget")] = 1.0
    bytes: Annotated[float | None, Within("(0, inf]", "a budget")] = None
    loss: Annotated[float, Within("[0, 1)", "how much of the metric may be lost")] = 0.005
    metric: str | None = None
    batch: Annotated[int, Within("[1, inf]")] = 1
    queries: Annotated[int, Within("[20, inf]")] = 500
    sample: Annotated[int, Within("[1000, inf]")] = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if find_metric(self.judged_by).reach == "gallery":
            raise SettingsError(f"metric must look at the first ranks only, such as mmp@5 or map@r, got {self.metric}")

    @property
    def judged_by(self) -> str:
        """The metric that the loss is measured in."""
        return self.metric or "mmp@5"


class Tried(NamedTuple):
    """One index that was measured: on so many ``rows``, with the verdict in words."""

    name: str
    rows: int
    build_s: float
    bytes: float
    ms: float
    value: float
    loss: float
    verdict: str


@dataclass(frozen=True)
class Choice:
    """The index that was chosen, and everything that was tried, in order."""

    index: GalleryIndex
    tried: tuple[Tried, ...]

    def save(self, folder: Where, budgets: AutoIndexConfig, judged: str) -> None:
        """Write the index, its ``budgets``, the fingerprint of what it was ``judged`` by, and what was tried."""
        tried: list[JSON] = [dict(each._asdict()) for each in self.tried]
        self.index.save(folder, choice={"budgets": changed_settings(budgets), "judged": judged, "tried": tried})

    @classmethod
    def load(
        cls, folder: Where, budgets: AutoIndexConfig, judged: str, *, embeddings: str, keys: Sequence[str]
    ) -> Choice | None:
        """What was chosen by the same budgets and judgement for these embeddings and keys; None where by others."""
        choice: Any = read_sidecar(storage_of(folder)).get("choice")
        if choice is None or (choice["budgets"], choice.get("judged")) != (changed_settings(budgets), judged):
            return None
        index = GalleryIndex.load(folder, embeddings=embeddings, keys=keys)
        return cls(index, tuple(Tried(**each) for each in choice["tried"]))


IndexConfig: TypeAlias = Annotated[AutoIndexConfig | MilvusIndexConfig | BuiltConfig, Field(discriminator="kind")]
"""Any kind of index, distinguished by ``kind``, or the budgets that one is chosen by."""


@dataclass(frozen=True)
class Evidence:
    """Queries to choose an index by.

    ``vectors`` (Q, E) are of unit length; ``judged`` says which of the G gallery rows are relevant to each, and
    ``itself`` (Q,) is the gallery row that a query is, or -1.
    """

    vectors: Vectors
    judged: Judgement
    itself: Rows

    @classmethod
    def from_gallery(cls, vectors: Vectors, classes: Rows) -> Evidence:
        """Every gallery row of ``vectors`` (G, E) searches all others for its class (G,), -1 for none."""
        return cls(vectors, Judgement(ByClass(classes, classes)), np.arange(len(classes)))

    def __len__(self) -> int:
        return len(self.itself)

    @property
    def num_relevant(self) -> Rows:
        """How many gallery rows are relevant to each query, (Q,)."""
        return self.judged.num_relevant(self.itself)

    def gallery_classes(self, rows: int) -> Rows:
        """The class of each of the gallery's ``rows``; -1, none, where relevance is not by one class."""
        relevant = self.judged.relevant
        return relevant.gallery if isinstance(relevant, ByClass) else np.full(rows, -1)

    def drawn(self, count: int, seed: int) -> Evidence:
        """At most ``count`` of the queries to which something is relevant, drawn from the ``seed``."""
        answerable = np.flatnonzero(self.num_relevant > 0)
        if len(answerable) > count:
            answerable = np.sort(np.random.default_rng(seed).choice(answerable, count, replace=False))
        return Evidence(self.vectors[answerable], self.judged.take(answerable), self.itself[answerable])

    def within(self, rows: Rows) -> Evidence:
        """The same for a gallery of only ``rows`` (n,), ascending: the queries to which something is left."""
        at = np.minimum(np.searchsorted(rows, self.itself), len(rows) - 1)
        itself = np.where(rows[at] == self.itself, at, -1)
        junk = self.judged.junk
        judged = Judgement(_within(self.judged.relevant, rows), None if junk is None else _within(junk, rows))
        left = Evidence(self.vectors, judged, itself)
        return left.drawn(len(left), 0)


def _within(relevance: Relevance, rows: Rows) -> Relevance:
    if isinstance(relevance, ByClass):
        return ByClass(relevance.queries, relevance.gallery[rows])
    own = (relevance.rows(query) for query in range(len(relevance.counts)))
    return ByGroups.listed([np.flatnonzero(np.isin(rows, listed)).tolist() for listed in own])


def choose_index(
    vectors: Vectors,
    keys: Sequence[str],
    embeddings: str,
    config: AutoIndexConfig = AutoIndexConfig(),
    *,
    evidence: Evidence,
) -> Choice:
    """Choose an index for the gallery ``vectors`` (G, E) of unit length by the queries of ``evidence``.

    Raises ValueError for vectors that cannot be indexed, NothingToScoreError for fewer than 20 queries that can find.

    >>> vectors, keys = np.eye(32, dtype=np.float32), [str(row) for row in range(32)]
    >>> evidence = Evidence.from_gallery(vectors, np.arange(32) // 2)  # two rows of each class
    >>> choice = choose_index(vectors, keys, "made by this store", AutoIndexConfig(ms=1000), evidence=evidence)
    >>> choice.index.config.kind, choice.tried[0].bytes > 4 * 32
    ('flat', True)
    """
    vectors = check_unit(vectors, "gallery vectors")
    drawn = evidence.drawn(config.queries, config.seed)
    if len(drawn) < FEWEST_QUERIES:
        raise NothingToScoreError(too_few_queries(len(drawn)))
    exact, seconds = _build(vectors, keys, embeddings, FlatIndexConfig())
    flat = _measured(config, exact, seconds, drawn, None)
    if not (over := _over(config, flat)):
        return Choice(exact, (flat._replace(verdict="chosen: exact, and within the budgets"),))
    tried = [flat._replace(verdict=f"exact; {over}")]
    best = _on_a_sample(config, vectors, drawn, tried)
    if best is not None:
        index, seconds = _build(vectors, keys, embeddings, best)
        _fewest_probes(config, index, drawn, flat.value, least=best.probes)
        measured = _measured(config, index, seconds, drawn, flat.value)
        depth = _depth(find_metric(config.judged_by), drawn, index)
        of_flat, of_index = milliseconds([exact, index], drawn, depth, config.batch)  # in turns: they are compared
        flat, measured = flat._replace(ms=min(flat.ms, of_flat)), measured._replace(ms=min(measured.ms, of_index))
        tried[0] = tried[0]._replace(ms=flat.ms)
        why = _over(config, measured) or ("" if measured.ms < flat.ms else "no faster than exact search")
        tried.append(measured._replace(verdict=why or "chosen"))
        if not why:
            return Choice(index, tuple(tried))
    tried.append(flat._replace(verdict=f"chosen: nothing else keeps the budgets, and exact search does not: {over}"))
    return Choice(exact, tuple(tried))


def too_few_queries(count: int) -> str:
    """Why no index is chosen by ``count`` queries with something to find."""
    return (
        f"an index is chosen by at least {FEWEST_QUERIES} labelled queries with something to find in the gallery; "
        f"there are {count}. Name a kind of index instead, such as flat."
    )


def _build(vectors: Vectors, keys: Sequence[str], embeddings: str, config: BuiltConfig) -> tuple[GalleryIndex, float]:
    started = time.perf_counter()
    return GalleryIndex.build(vectors, keys, embeddings, config), time.perf_counter() - started


def _measured(
    config: AutoIndexConfig, index: GalleryIndex, seconds: float, evidence: Evidence, exact: float | None
) -> Tried:
    """What ``index`` costs, and what it loses against ``exact``, the value of exact search."""
    metric = find_metric(config.judged_by)
    value = value_of(index, evidence, metric)
    (ms,) = milliseconds([index], evidence, _depth(metric, evidence, index), config.batch)
    loss = 0.0 if exact is None else exact - value
    chosen = [name for name in ("stored", "bits", "bytes", "lists", "probes") if hasattr(index.config, name)]
    label = " ".join([index.config.kind, *(f"{name}={getattr(index.config, name)}" for name in chosen)])
    return Tried(label, len(index), seconds, index.bytes_a_row, ms, value, loss, "")


def _depth(metric: Metric, evidence: Evidence, index: GalleryIndex) -> int:
    """How many rows a query asks ``index`` for."""
    return min(_DEEPEST, int(metric.depths(evidence.num_relevant, len(index)).max()))


def _over(config: AutoIndexConfig, tried: Tried) -> str:
    over = []
    if tried.loss > config.loss:
        over.append(f"loses {tried.loss:.4f} of {config.judged_by}, {config.loss:g} may be lost")
    if config.bytes is not None and tried.bytes > config.bytes:
        over.append(f"takes {tried.bytes:.0f} bytes a row, {config.bytes:g} are allowed")
    if tried.ms > config.ms:
        over.append(f"takes {tried.ms:.3g} ms a query, {config.ms:g} are allowed")
    return "; ".join(over)


def _on_a_sample(config: AutoIndexConfig, vectors: Vectors, evidence: Evidence, tried: list[Tried]) -> Probed | None:
    """The kind that is fastest on a sample of the gallery within loss and bytes; what was ``tried`` is added."""
    rows = sample_of_classes(evidence.gallery_classes(len(vectors)), config.sample, config.seed)
    some = evidence.within(rows)
    if len(some) < FEWEST_QUERIES:
        rows, some = np.arange(len(vectors)), evidence
    part, names = vectors[rows], [str(row) for row in rows.tolist()]
    exact = value_of(GalleryIndex.build(part, names, ""), some, find_metric(config.judged_by))
    best: tuple[float, Probed] | None = None
    for kind in _kinds(config, *part.shape):
        index, seconds = _build(part, names, "", kind)
        probes = _fewest_probes(config, index, some, exact, least=1)
        measured = _measured(config, index, seconds, some, exact)
        fits = measured.loss <= config.loss and measured.bytes <= (config.bytes or np.inf)
        tried.append(measured._replace(verdict="" if fits else _over(config, measured)))
        if fits and (best is None or measured.ms < best[0]):
            # As many probes are a smaller share of the lists of the whole gallery: the least that may do there.
            best = measured.ms, replace(kind, lists=number_of_lists(0, len(vectors)), probes=probes)
    return None if best is None else best[1]


def _kinds(config: AutoIndexConfig, rows: int, dim: int) -> Iterator[Probed]:
    """What is tried for a gallery of so many ``rows``: kinds in lists whose bytes may fit."""
    lists, seed, allowed = number_of_lists(0, rows), config.seed, config.bytes or np.inf
    every: list[tuple[float, Probed]] = [(4 * dim, IvfFlatIndexConfig(lists=lists, probes=1, seed=seed))]
    if 4 * dim + _ID > allowed:  # else fewer bytes only lose
        every = [
            (2 * dim, ScalarIndexConfig(stored="float16", lists=lists, probes=1, seed=seed)),
            (dim, ScalarIndexConfig(stored="int8", lists=lists, probes=1, seed=seed)),
            (dim / 2, ScalarIndexConfig(stored="int4", lists=lists, probes=1, seed=seed)),
            (dim / 8 + 8, RabitqIndexConfig(lists=lists, probes=1, seed=seed)),
        ]
        if rows >= PIECES and dim % 4 == 0:
            every.append((dim / 4, IvfPqIndexConfig(bytes=dim // 4, lists=lists, probes=1, seed=seed)))
    return (kind for size, kind in every if size + _ID <= allowed)


def _fewest_probes(config: AutoIndexConfig, index: GalleryIndex, evidence: Evidence, exact: float, least: int) -> int:
    """Let ``index`` visit as few lists as the allowed loss permits, from ``least`` and twice as many each time."""
    inside = faiss.extract_index_ivf(index.index)
    most = max(1, inside.nlist // _MOST_SHARE)
    probes = min(least, most)
    while True:
        inside.nprobe = probes
        if probes >= most or exact - value_of(index, evidence, find_metric(config.judged_by)) <= config.loss:
            break
        probes = min(2 * probes, most)
    index.config = replace(index.config, probes=probes)  # type: ignore[arg-type]  # it is one in lists
    return probes


def sample_of_classes(classes: Rows, rows: int, seed: int) -> Rows:
    """Places of about ``rows`` of a gallery of ``classes`` (G,): whole classes, and the same share of those in none."""
    if len(classes) <= rows:
        return np.arange(len(classes))
    rng = np.random.default_rng(seed)
    share = rows / len(classes)
    sampled = rng.random(int(classes.max(initial=-1)) + 1) < share
    alone = rng.random(len(classes)) < share
    return np.flatnonzero(np.where(classes >= 0, sampled[classes], alone))


def value_of(index: GalleryIndex, evidence: Evidence, metric: Metric) -> float:
    """The mean of ``metric`` over the queries of ``evidence``, searched by a new ``index`` (ids are places)."""
    num_relevant, judged = evidence.num_relevant, evidence.judged
    depth = int(metric.depths(num_relevant, len(index)).max())
    ids, _ = index.search(evidence.vectors, min(depth + judged.most_junk(), len(index)), evidence.itself)
    return float(table_of_rows(judged, np.arange(len(ids)), ids, depth).value(metric, num_relevant).mean())


def milliseconds(indexes: Sequence[GalleryIndex], evidence: Evidence, k: int, batch: int) -> list[float]:
    """A query's time by each of ``indexes``, in searches for ``k`` rows of ``batch`` queries that come together.

    It is CPU time of the thread that searches, so that waiting for other programs does not count, and the least of the
    medians of several rounds, in which the indexes take turns.
    """
    queries = [evidence.vectors[low : low + batch] for low in range(0, len(evidence), batch)]
    rounds = [[_round(index, queries, k) for index in indexes] for _ in range(_ROUNDS)]
    return list(map(min, zip(*rounds, strict=True)))


def _round(index: GalleryIndex, queries: Sequence[Vectors], k: int) -> float:
    index.search(queries[0], k)  # the first is slower: memory is touched
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _FEWEST or (time.perf_counter() - started < _SECONDS and len(times) < len(queries)):
        some = queries[len(times) % len(queries)]
        before = time.thread_time()
        index.search(some, k)
        times.append((time.thread_time() - before) / len(some))
    return float(np.median(times)) * 1e3
