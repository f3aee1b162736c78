"""How far to trust a score, as text and JSON lines: comparisons, scores by size, health, thresholds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.thresholds import plain_rates
from pipeline.vectors import Vectors
from pipeline.views.tables import aligned, interval_text
from stages.analysis import Change, Changes, Moved, SizeCurve
from stages.analysis.comparison import HeadName, ScoredRun
from stages.analysis.health import Copy, Health, VectorHealth
from stages.analysis.open_set import Rate
from stages.analysis.thresholds import Decision, Ground

_NAMED = 3  # queries that only one side has, by name


def comparison_json(
    differences: Changes, heads: Sequence[HeadName], listed: str, top: int, runs: Sequence[ScoredRun]
) -> str:
    """A line for each metric and domain (``change``), each listed query, and each query that only one has."""
    seen = _seen(runs)
    names = {
        "a": runs[0].name, "a_backbone": heads[0][0], "a_head": heads[0][1],
        "b": runs[1].name, "b_backbone": heads[1][0], "b_head": heads[1][1],
    }  # fmt: skip
    lines: list[dict[str, Any]] = [{"kind": "change"} | names | change._asdict() for change in differences.changes]
    for domain, moved in _most_moved(differences, listed, top):
        lines += [
            {"kind": "moved"} | names | {"among": domain or "all"} | query._asdict()
            | {"value": query.value, "uri": seen[query.key][0], "label": seen[query.key][1]}
            for query in moved
        ]  # fmt: skip
    for which, keys in (("a", differences.only_first), ("b", differences.only_second)):
        lines += [
            {"kind": "unmatched", "only_in": which, "metric": metric, "key": key}
            for metric, unmatched in keys.items()
            for key in unmatched
        ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def comparison_text(
    differences: Changes, heads: Sequence[HeadName], listed: str, top: int, runs: Sequence[ScoredRun]
) -> str:
    """The changes as a table, the queries that only one has, and those that changed most."""
    lines = [
        f"{letter}: {run.name} {head} on {backbone}"
        for letter, run, (backbone, head) in zip("AB", runs, heads, strict=True)
    ]
    by_domain = any(change.domain != "all" for change in differences.changes)
    header = ["metric", *(["domain"] if by_domain else []), "A", "B", "B - A", "95 % interval", "better", "worse"]
    table = [[*header, "same", "queries"]]
    table += [
        [change.metric, *([change.domain] if by_domain else []),
         f"{change.first:.4f}", f"{change.second:.4f}", f"{change.value:+.4f}",
         f"[{change.low:+.4f}, {change.high:+.4f}]{_mark(change)}",
         *(f"{count:,}" for count in (change.better, change.worse, change.same, change.queries))]
        for change in sorted(differences.changes, key=lambda change: list(differences.shared).index(change.metric))
    ]  # fmt: skip
    lines += aligned(table, texts=2 if by_domain else 1)
    lines.append("interval over classes of the mean difference of the same queries; * it does not hold 0")
    for which, other, unmatched in (("A", "B", differences.only_first), ("B", "A", differences.only_second)):
        for metric, keys in unmatched.items():
            if keys:
                named = ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
                lines.append(f"{metric}: {len(keys):,} queries of {which} that {other} has not are left out: {named}")
    seen = _seen(runs)
    for domain, moved in _most_moved(differences, listed, top):
        if not moved:
            continue
        lines += ["", f"the queries that changed most by {listed}{f' in {domain}' if domain else ''}"]
        rows = [["query", "label", "image", "A", "B", "B - A"]]
        for query in moved:
            image, label = seen[query.key]
            values = f"{query.first:.3f}", f"{query.second:.3f}", f"{query.value:+.3f}"
            rows.append([query.key, label or "-", image, *values])
        lines += aligned(rows, texts=3)
    return "\n".join(lines)


def _seen(runs: Sequence[ScoredRun]) -> dict[str, tuple[str, str | None]]:
    """The image and the label of each query of either side."""
    images: dict[str, tuple[str, str | None]] = {}
    for run in runs:
        queries = run.records.split("query")
        images |= dict(zip(queries.keys, zip(queries.uris, queries.labels, strict=True), strict=True))
    return images


def _most_moved(differences: Changes, metric: str, top: int) -> list[tuple[str | None, list[Moved]]]:
    """The queries that changed most, of all and of each domain."""
    domains = [change.domain for change in differences.changes if change.metric == metric]
    domains = [domain for domain in domains if domain not in ("all", "mean")]
    return [(domain, differences.moved(metric, top, domain)) for domain in (None, *domains)]


def _mark(change: Change) -> str:
    return " *" if change.low > 0 or change.high < 0 else "  "


def curve_lines(curve: SizeCurve, vectors: Vectors) -> list[dict[str, Any]]:
    """A flat object for each size, domain and metric."""
    return [
        {"backbone": vectors.backbone, "head": vectors.head, "size": at.size, "sampled": at.sampled,
         "distractors": at.distractors, "searched": at.searched, "domain": at.score.domain, "metric": at.score.metric,
         "value": at.score.value,
         "low": at.score.low, "high": at.score.high, "floor": at.floor, "ceiling": at.ceiling,
         "queries": at.score.queries, "embeddings": vectors.store.fingerprint}
        for at in curve.scores
    ]  # fmt: skip


def curve_table(lines: Sequence[dict[str, Any]]) -> str:
    """A line for each backbone, head, domain and size; a column for each metric."""
    heads = list(dict.fromkeys((line["backbone"], line["head"]) for line in lines))
    domains = list(dict.fromkeys(line["domain"] for line in lines))

    def place(line: dict[str, Any]) -> tuple[int, ...]:
        return heads.index((line["backbone"], line["head"])), domains.index(line["domain"]), line["sampled"]

    columns = {name: name for name in ("backbone", "head", "domain", "distractors", "searched")}
    notes = [
        "every query keeps its relevant rows; distractors are sampled, those of a smaller gallery all in the larger,",
        "and counted in the mean over queries; [95 % interval over classes]",
    ]
    return "\n".join([*_by_metric(sorted(lines, key=place), columns, ()), *notes])


def group_table(lines: Sequence[dict[str, Any]]) -> str:
    """A table for each of what scores are grouped by: a line a head and group, a column a metric."""
    tables = []
    for by in dict.fromkeys(line["by"] for line in lines):
        part = [line for line in lines if line["by"] == by]
        where = "in the gallery, itself not counted" if by == "class_size" else "that heads were trained on"
        where += "; [95 % interval over classes]"
        columns = {"backbone": "backbone", "head": "head", "images": "group"}
        title = f"by the number of images of the query's class {where}"
        tables += [title, *_by_metric(part, columns, ("queries", "classes")), ""]
    return "\n".join(tables).rstrip()


def _by_metric(lines: Sequence[dict[str, Any]], columns: Mapping[str, str], counts: Sequence[str]) -> list[str]:
    """A row for each place: the keys ``columns`` of the lines, by title, each metric with its interval."""
    cells: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for line in lines:
        cells.setdefault(tuple(_cell(line[key]) for key in columns.values()), {})[line["metric"]] = line
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    table = [[*columns, *metrics, *counts]]
    for place, by_metric in cells.items():
        first = next(iter(by_metric.values()))
        scores = [interval_text(by_metric[metric]) if metric in by_metric else "-" for metric in metrics]
        table.append([*place, *scores, *(_cell(first[key]) for key in counts)])
    return aligned(table, texts=3)


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}"


def health_text(report: Health, top: int) -> str:
    """What was found, with at most ``top`` of each finding."""
    lines = ["records"]
    lines += [f"  {count:>9,}  {what}" for what, count in report.counts.items() if count]
    lines += [f"note: {text}" for text in report.remarks]
    for backbone, reasons in report.failed.items():
        damaged = report.not_finite[backbone]
        lines += ["", f"{backbone}: {sum(reasons.values()):,} images failed, {damaged:,} stored rows are not finite"]
        lines += [f"  {count:,} {reason}" for reason, count in list(reasons.items())[:top]]
    near = f"near-identical (cosine of at least {report.near_duplicate:g})"
    for same, what in ((True, "byte-identical"), (False, near)):
        copies = [copy for copy in report.copies if copy.same_bytes == same]
        lines += ["", f"{len(copies):,} images are {what} to one on another side of the splits"]
        lines += _copies(copies[:top])
    for same_bytes, what in (
        (report.repeats, "records are byte-identical copies of an earlier one"),
        (report.conflicts, "images have byte-identical copies of another label"),
    ):
        lines += ["", f"{len(same_bytes):,} {what}", *_copies(same_bytes[:top])]
    summary = f"{len(report.suspects):,} of {report.judged:,} labels are doubtful: most neighbours have one other"
    lines += ["", f"{summary}, raw and by {report.head}"]
    rows = [
        [suspect.key, suspect.role, suspect.label or "-", suspect.says, suspect.uri, f"{suspect.certainty:.2f}"]
        for suspect in report.suspects[:top]
    ]
    lines += _listed(["image", "side", "label", "neighbours say", "file", "certainty"], rows, texts=5)
    for vectors in report.vectors:
        lines += ["", f"{vectors.head} on {vectors.backbone}, the gallery", *_vectors(vectors, top)]
    if report.bounds:
        lines += ["", "what bounds the scores"]
        bounds = [[*place, f"{floor:.4f}", f"{ceiling:.4f}"] for place, (floor, ceiling) in report.bounds.items()]
        lines += _listed(["metric", "domain", "by chance", "perfect"], bounds, texts=2)
    return "\n".join(lines)


def health_lines(report: Health) -> list[dict[str, Any]]:
    """A flat object a finding, distinguished by ``kind``."""
    lines: list[dict[str, Any]] = [{"kind": "counts"} | dict(report.counts)]
    lines += [{"kind": "remark", "text": text} for text in report.remarks]
    for backbone, reasons in report.failed.items():
        lines += [{"kind": "failed", "backbone": backbone, "reason": r, "images": n} for r, n in reasons.items()]
        lines.append({"kind": "not_finite", "backbone": backbone, "rows": report.not_finite[backbone]})
    findings = {"copy": report.copies, "repeat": report.repeats, "conflict": report.conflicts}
    for kind, of_kind in (findings | {"suspect": report.suspects}).items():
        lines += [{"kind": kind} | each._asdict() for each in of_kind]
    for each in report.vectors:
        names = {"backbone": each.backbone, "head": each.head}
        lines.append({"kind": "spread"} | names | each.spread._asdict())
        numbers = {name: getattr(each, name) for name in ("k", "searching", "skewness", "never", "top_share")}
        lines.append({"kind": "hubs"} | names | numbers)
        lines += [{"kind": "hub"} | names | hub._asdict() for hub in each.top]
    lines += [
        {"kind": "bounds", "metric": metric, "domain": domain, "floor": floor, "ceiling": ceiling}
        for (metric, domain), (floor, ceiling) in report.bounds.items()
    ]
    return lines


def _vectors(vectors: VectorHealth, top: int) -> list[str]:
    spread = vectors.spread
    rank = f"effective rank {spread.effective_rank:.1f}, participation ratio {spread.participation:.1f}"
    variance = f"{spread.first:.1%} of the variance along the first direction, 90 % along {spread.for_90:,}"
    dead = f"{spread.dead:,} of them always 0, {spread.constant:,} constant"
    often = f"skewness {vectors.skewness:.2f} of how often an image is among the {vectors.k} nearest"
    often += f" of {vectors.searching:,}"
    share = f"the most found hundredth gives {vectors.top_share:.1%} of the answers"
    rows = [[hub.key, hub.label or "-", hub.uri, f"{hub.queries:,}"] for hub in vectors.top[:top]]
    return [
        f"  {spread.dim:,} dimensions, {dead}: {rank}",
        f"  {variance}; mean cosine of two images {spread.mean_similarity:.3f}",
        f"  hubs: {often}; {share}, {vectors.never:,} images are among the {vectors.k} nearest of none",
        *_listed(["image", "label", "file", "found by"], rows, texts=3),
    ]


def _copies(copies: Sequence[Copy]) -> list[str]:
    rows = [
        [c.role, c.key, c.label or "-", c.other_role, c.other, c.other_label or "-", f"{c.similarity:.3f}"]
        for c in copies
    ]
    return _listed(["side", "image", "label", "side", "other image", "label", "similarity"], rows, texts=6)


def _listed(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> list[str]:
    return [f"  {line}" for line in aligned([header, *rows], texts=texts)] if rows else []


_RATES = ("fmr", "fnmr", "fpir", "fnir", "answered")


def threshold_lines(decision: Decision, vectors: Vectors, on: Ground) -> list[dict[str, Any]]:
    """A flat object for the calibration, and one for the test queries of all and of each domain."""
    lines = []
    parts = [("calibration", "all", decision.calibration), *(("test", *decided) for decided in decision.test.items())]
    for side, domain, rates in parts:
        line: dict[str, Any] = {"backbone": vectors.backbone, "head": vectors.head, "on": side, "domain": domain}
        line |= {"kind": decision.kind, "wanted": decision.wanted, "threshold": rates.threshold}
        for name, value in plain_rates(rates).items():
            line |= {f"{name}_{k}" if k != "value" else name: v for k, v in value.items()} if name in _RATES else {}
        line |= {"queries": rates.queries, "classes": rates.classes, "gallery": rates.gallery}
        lines.append(line | {"ground": on.summary, "embeddings": vectors.store.fingerprint})
    return lines


def threshold_text(decisions: Sequence[Decision], vectors: Vectors, on: Ground) -> str:
    """A line for each decision and domain, and what its columns are."""
    table = [["wanted", "domain", "similarity", *(name.upper() for name in _RATES[:4]), "answered"]]
    for decision in decisions:
        for domain, rates in decision.test.items():
            numbers = [_rate_text(getattr(rates, name)) for name in _RATES]
            table.append([f"{decision.kind.upper()} {decision.wanted:g}", domain, f"{rates.threshold:.4f}", *numbers])
    test = decisions[0].test["all"]
    lines = [f"{vectors.head} on {vectors.backbone}; {on.summary}", *aligned(table, texts=2)]
    lines += [
        f"rates of {test.queries:,} test queries of {test.classes:,} classes in a gallery of {test.gallery:,}",
        "[95 % interval over classes]",
        "comparisons (verification): FMR, non-mated at or above the similarity; FNMR, mated below it",
        "searches (identification, rank 1): FPIR, non-mated with a candidate at or above it; FNIR, mated whose first",
        "candidate is no mate or below it",
        "non-mated searches: every row of the query's class left out; answered: mated searches with a candidate",
    ]
    for decision in decisions:
        rate, gallery = getattr(decision.calibration, decision.kind), decision.calibration.gallery
        lines.append(
            f"{decision.kind.upper()} {decision.wanted:g}: {rate.value:.4g} of {rate.trials:,} trials when calibrated, "
            f"with a gallery of {gallery:,}"
        )
    return "\n".join(lines)


def _rate_text(rate: Rate) -> str:
    return "-" if math.isnan(rate.value) else f"{rate.value:.4f} [{rate.low:.4f}, {rate.high:.4f}]"
