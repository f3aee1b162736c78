"""Charts of the report: metrics against k and the size of the gallery, similarities of pairs, and how heads learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from pipeline.dataset import Run
from pipeline.thresholds import kept_decisions
from pipeline.vectors import summary_text
from pipeline.views.charts import Line, histogram, line_chart, look
from pipeline.views.report.measured import Measured
from stages.analysis import gallery_curve
from stages.analysis.first_ranks import FirstRanks
from stages.analysis.sizes import further_distractors
from stages.ranking.intervals import class_numbers, estimate, mean_of, share_interval
from stages.ranking.metrics import Values, at_every_k
from stages.ranking.nearest import Rows
from stages.records.splits import seeded_order
from stages.retrieval.scores import MEAN, domain_names, rows_by_group
from stages.training import EpochLog

TITLES = {
    "hit": "hit@k: is one of the first k right?",
    "precision": "precision@k: how many of the first k are right?",
    "recall": "recall@k: how many of all that are right are among the first k?",
    "mmp": "mmp@k: how many of the first k are right, of those that could be?",
}
TICKS = (1, 2, 5, 10, 20, 50, 100)
QUERIES = 400
"""Queries that are searched again, at most; sampled with the seed of the run."""
_CURVES, _BINS = 8, 60
_FINE = 2**14  # bins of similarity from -1 to 1: their width is far below what a chart or the ROC area shows


class KCurves(NamedTuple):
    """A chart for each metric with its title, and the means of hit@k at the ``TICKS`` by name."""

    charts: Sequence[tuple[str, Markup]]
    hits: Sequence[tuple[str, Sequence[float]]]


class PairSimilarities(NamedTuple):
    """How many pairs, matching ones and others, there are in each of the ``_FINE`` equal bins of similarity."""

    matching: Rows
    others: Rows

    @property
    def roc_auc(self) -> float:
        """How often a matching pair is more similar than one that does not match: the area under the ROC curve."""
        below = self.others.cumsum() - self.others / 2
        return float(self.matching @ below / self.matching.sum() / self.others.sum())


def looks(shown: Sequence[Measured]) -> dict[str, str]:
    """The class that colours each on the whole page: heads by their place, raw features as such."""
    heads = [side for side in shown if not side.raw]
    return {side.name: "raw" for side in shown if side.raw} | {side.name: look(at) for at, side in enumerate(heads)}


def k_curves(shown: Sequence[Measured], domain: str, colours: Mapping[str, str]) -> KCurves:
    """Each metric against k: means over all queries, or with ``domain`` the mean of the domains."""
    drawn = _drawn(shown)
    lines: dict[str, list[Line]] = {stem: [] for stem in TITLES}
    hits = []
    for at, side in enumerate(shown):
        if side.ranks is None:
            continue
        groups, classes = _groups(side.ranks, domain), class_numbers(side.ranks.queries.classes)
        deepest = max(1, int((side.ranks.rows >= 0).sum(axis=1).max()))  # a small gallery has no further rank
        for stem, table in at_every_k(side.ranks.relevant[:, :deepest], side.ranks.num_relevant).items():
            mean = np.mean([table[rows].mean(axis=0) for rows in groups], axis=0).tolist()
            if stem == "hit":
                hits.append((side.name, [mean[min(k, deepest) - 1] for k in TICKS]))
            if side in drawn:
                band = _band(table, groups, classes) if at == 0 or side.raw else []
                lines[stem].append(Line(side.name, colours[side.name], list(enumerate(mean, 1)), band))
    if not hits:
        return KCurves([], [])
    charts = []
    for stem, title in TITLES.items():
        most = max(len(line.points) for line in lines[stem])
        charts.append((title, _chart(lines[stem], f"{stem}@k from k = 1 to {most}", "k", TICKS)))
    return KCurves(charts, hits)


def size_chart(run: Run, shown: Sequence[Measured], domain: str, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """The first metric in ``domain`` by the number of distractors, for ``shown``; None where that makes no curve.

    Its ``chart``, the ``scores`` of each, and how many ``queries`` these are means of.
    """
    config, seed = run.config.retrieval, run.config.seed
    metric = config.metrics[0]
    if metric not in config.by_label:
        return None
    further = further_distractors(run.records, config.distractors) if config.distractors else None
    scores = []
    for side in shown:
        if side.ranks is None or len(side.ranks.searches) > 1:
            return None
        queries, gallery = side.ranks.queries, side.ranks.gallery
        most = max(1, len(gallery) + (0 if further is None else len(further)))
        sample, sizes = queries.take(_sample(queries.keys, seed)), [s for s in config.gallery_sizes if s <= most]
        by_size = gallery_curve(
            side.vectors.store,
            queries=sample,
            gallery=gallery,
            sizes=sizes,
            metrics=[metric],
            further=further,
            protocol=config.ranked,
            seed=seed,
        )
        scores.append((side.name, [sized for sized in by_size.scores if sized.score.domain == domain]))
    if min(len(curve) for _, curve in scores) < 2:
        return None
    lines = []
    for name, curve in scores:
        points = [(sized.distractors, sized.score.value) for sized in curve]
        band = [(sized.distractors, sized.score.low, sized.score.high) for sized in curve]
        lines.append(Line(name, colours[name], points, band))
    at = [sized.distractors for sized in scores[0][1]]
    label = f"{metric} with {at[0]:,.0f} to {at[-1]:,.0f} distractors"
    chart = _chart(lines, label, "gallery images that can distract", at, dots=True)
    return {"chart": chart, "scores": scores, "queries": scores[0][1][0].score.queries}


def pair_similarities(side: Measured, seed: int) -> PairSimilarities | None:
    """Compare some queries with every gallery image that they search; None without pairs of either kind."""
    counts = np.zeros((2, _FINE), np.int64)
    for part in () if side.ranks is None else side.ranks.searches:
        part = part.take(np.array(_sample(part.queries.keys, seed)))
        for _, similarity, *masks in part.compared(side.vectors.store, 2):
            for kind, mask in enumerate(masks):
                bins = np.clip((similarity[mask] + 1) * (_FINE / 2), 0, _FINE - 1).astype(np.int64)
                counts[kind] += np.bincount(bins, minlength=_FINE)
    return PairSimilarities(*counts) if counts.any(axis=1).all() else None


def pair_section(run: Run, side: Measured) -> dict[str, Any] | None:
    """The similarities of pairs by ``side``, and the thresholds that were calibrated for it; None without pairs."""
    if (pairs := pair_similarities(side, run.config.seed)) is None:
        return None
    decisions = kept_decisions(run, side.vectors)
    chart = _pair_chart(pairs, side.name, float(decisions[0]["threshold"]) if decisions else None)
    return {"name": side.name, "roc_auc": pairs.roc_auc, "chart": chart, "decisions": decisions}


def _pair_chart(pairs: PairSimilarities, name: str, threshold: float | None) -> Markup:
    """Both kinds of pairs as a histogram, each as shares of its own; ``threshold`` where one was calibrated."""
    at = (np.arange(_FINE) + 0.5) * 2 / _FINE - 1  # the similarity in the middle of each bin
    ends = [_quantile(pairs.matching + pairs.others, share) for share in (0.001, 0.999)]
    low, high = float(np.floor(ends[0] * 20) / 20), float(min(1.0, np.ceil(ends[1] * 20) / 20))
    edges = np.linspace(low, high, _BINS + 1)
    shares = [
        (np.histogram(np.clip(at, low, high), edges, weights=counts)[0] / counts.sum()).tolist()
        for counts in (pairs.others, pairs.matching)
    ]
    label = (
        f"similarity by {name}: matching pairs {_quantile(pairs.matching, 0.5):.2f} in the median, others "
        f"{_quantile(pairs.others, 0.5):.2f}; a matching pair is the more similar one {pairs.roc_auc:.1%} of the time"
    )
    mark = None if threshold is None else (threshold, f"threshold {threshold:.3f}")
    return histogram(shares, label=label, across="cosine similarity", low=low, high=high, mark=mark)


def _sample(keys: Sequence[str], seed: int) -> list[int]:
    """``QUERIES`` of the queries, the same whatever the vectors."""
    order = sorted(range(len(keys)), key=lambda row: seeded_order(seed, "sizes", keys[row]))
    return sorted(order[:QUERIES])


def _quantile(counts: Rows, share: float) -> float:
    """The similarity below which a ``share`` of the pairs lies, of counts by bin."""
    return float(np.searchsorted(counts.cumsum(), share * counts.sum()) * 2 / _FINE - 1)


def _drawn(shown: Sequence[Measured]) -> list[Measured]:
    """Those with a curve of their own: the first few, and the raw features among the others."""
    heads = [side for side in shown if not side.raw][: _CURVES - 1]
    raws = [side for side in shown if side.raw][: max(1, _CURVES - len(heads))]
    return [*heads, *raws]


def _groups(ranks: FirstRanks, domain: str) -> list[Rows]:
    names = domain_names(ranks.groups) if domain == MEAN else []
    return [*rows_by_group(ranks.groups, names).values()] or [np.arange(len(ranks.groups))]


def _band(table: Values, groups: Sequence[Rows], classes: Rows) -> list[tuple[float, float, float]]:
    ends = share_interval(mean_of([estimate(table[rows].T, classes[rows]) for rows in groups]))
    return [(k, low, high) for k, (low, high) in enumerate(zip(*(end.tolist() for end in ends), strict=True), 1)]


def _chart(lines: Sequence[Line], label: str, across: str, at: Sequence[float], *, dots: bool = False) -> Markup:
    """The lines, the first on top; the label has both ends of each."""
    ends = "; ".join(f"{line.name} {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}" for line in lines)
    return line_chart(lines[::-1], label=f"{label}: {ends}", across=across, ticks_at=at, log=True, dots=dots)


class LearningCurves(NamedTuple):
    """The charts of one head, and in words what it was trained on and which epoch was kept."""

    name: str
    summary: str
    loss: Markup | None
    validation: Markup | None


def learning_curves(shown: Sequence[Measured]) -> list[LearningCurves]:
    """The curves of every head; a closed form has no epochs, and no charts."""
    curves = []
    for side in shown:
        head = side.vectors.trained
        if head is None:
            continue
        trainings = _trainings(head.log)
        losses = [(group, [(e.epoch, e.loss) for e in log]) for group, log in trainings]
        validated = [
            (group, [(e.epoch, e.validation_mmp5) for e in log if e.validation_mmp5 is not None])
            for group, log in trainings
        ]
        loss = _epochs_chart(losses, f"{side.name}: loss")
        validation = _epochs_chart(validated, f"{side.name}: mMP@5 on what was held out")
        curves.append(LearningCurves(side.name, summary_text(head), loss, validation))
    return curves


def _trainings(log: Sequence[EpochLog]) -> list[tuple[str, list[EpochLog]]]:
    """One for each phase, expert and member of a soup, by name, in the order of the log; members share one."""
    phases, experts = {e.phase for e in log}, {e.expert for e in log}
    trainings: list[tuple[str, list[EpochLog]]] = []
    last: EpochLog | None = None
    for epoch in log:
        part = epoch.phase, epoch.expert, epoch.member
        if last is None or part != (last.phase, last.expert, last.member) or epoch.epoch <= last.epoch:
            phase = {"choose": "choosing", "train": "final"}[epoch.phase] if len(phases) > 1 else ""
            expert = epoch.expert or "no domain" if len(experts) > 1 else ""
            trainings.append((", ".join(name for name in (expert, phase) if name), []))
        trainings[-1][1].append(epoch)
        last = epoch
    return trainings


def _epochs_chart(trainings: Sequence[tuple[str, list[tuple[int, float]]]], label: str) -> Markup | None:
    """The curves, a colour for each group; only the first of a group is named."""
    groups = list(dict.fromkeys(group for group, _ in trainings))
    trainings = [(group, points) for group, points in trainings if points]
    if not trainings:
        return None
    lines: list[Line] = []
    for group, points in trainings:
        named = any(line.name == group for line in lines)
        lines.append(Line("" if named else group, look(groups.index(group)), points))
    ends = "; ".join(f"{group or 'from'} {points[0][1]:.3f} to {points[-1][1]:.3f}" for group, points in trainings[:8])
    return line_chart(lines, label=f"{label}: {ends}", across="epoch", height=170, dots=len(lines) == 1)
