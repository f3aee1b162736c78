"""What ``compare`` prints: changes by metric and domain, and the queries that changed most, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.views.tables import aligned
from stages.analysis import Change, Changes, Moved
from stages.analysis.compared_runs import HeadName, ScoredRun

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
    for domain, moved in _listed(differences, listed, top):
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
    for domain, moved in _listed(differences, listed, top):
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


def _listed(differences: Changes, metric: str, top: int) -> list[tuple[str | None, list[Moved]]]:
    """The queries that changed most, of all and of each domain."""
    domains = [change.domain for change in differences.changes if change.metric == metric]
    domains = [domain for domain in domains if domain not in ("all", "mean")]
    return [(domain, differences.moved(metric, top, domain)) for domain in (None, *domains)]


def _mark(change: Change) -> str:
    return " *" if change.low > 0 or change.high < 0 else "  "
