"""What is shown of a comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pipeline.progress import aligned
from stages.analysis import Changes, Moved

_NAMED = 3  # queries that only one side has, by name

MovedByDomain: TypeAlias = Mapping[str | None, Sequence[Moved]]
"""The queries that changed most, of all (None) and of each domain."""

QueryImages: TypeAlias = Mapping[str, tuple[str, str | None]]
"""The image and the label of each query."""


def comparison_lines(
    differences: Changes, sides: Sequence[tuple[str, str, str]], moved: MovedByDomain, images: QueryImages
) -> list[dict[str, Any]]:
    """A line for each metric and domain (``change``), each listed query, and each query that only one has."""
    names: dict[str, Any] = {}
    for letter, (run, backbone, head) in zip("ab", sides, strict=True):
        names |= {letter: run, f"{letter}_backbone": backbone, f"{letter}_head": head}
    lines = [{"kind": "change"} | names | change._asdict() for change in differences.changes]
    for domain, queries in moved.items():
        for query in queries:
            uri, label = images[query.key]
            line = {"kind": "moved"} | names | {"among": domain or "all"} | query._asdict()
            lines.append(line | {"value": query.value, "uri": uri, "label": label})
    for letter, unmatched in (("a", differences.only_first), ("b", differences.only_second)):
        for metric, keys in unmatched.items():
            lines += [{"kind": "unmatched", "only_in": letter, "metric": metric, "key": key} for key in keys]
    return lines


def comparison_text(
    differences: Changes, sides: Sequence[tuple[str, str, str]], moved: MovedByDomain, images: QueryImages, listed: str
) -> str:
    """The changes as a table, the queries that only one has, and those that changed most."""
    lines = [f"{letter}: {run} {head} on {backbone}" for letter, (run, backbone, head) in zip("AB", sides, strict=True)]
    by_domain = any(change.domain != "all" for change in differences.changes)
    header = ["metric", *(["domain"] if by_domain else []), "A", "B", "B - A", "95 % interval", "better", "worse"]
    table = [[*header, "same", "queries"]]
    for change in sorted(differences.changes, key=lambda change: list(differences.shared).index(change.metric)):
        names = [change.metric, *([change.domain] if by_domain else [])]
        surely = "*" if change.low > 0 or change.high < 0 else " "
        values = f"{change.first:.4f}", f"{change.second:.4f}", f"{change.value:+.4f}"
        counts = (f"{count:,}" for count in (change.better, change.worse, change.same, change.queries))
        table.append([*names, *values, f"[{change.low:+.4f}, {change.high:+.4f}] {surely}", *counts])
    lines += aligned(table, texts=2 if by_domain else 1)
    lines.append("interval over classes of the mean difference of the same queries; * it does not hold 0")
    for which, other, unmatched in (("A", "B", differences.only_first), ("B", "A", differences.only_second)):
        for metric, keys in unmatched.items():
            if keys:
                named = ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
                lines.append(f"{metric}: {len(keys):,} queries of {which} that {other} has not are left out: {named}")
    for domain, queries in moved.items():
        if queries:
            rows = [["query", "label", "image", "A", "B", "B - A"]]
            for query in queries:
                image, label = images[query.key]
                values = f"{query.first:.3f}", f"{query.second:.3f}", f"{query.value:+.3f}"
                rows.append([query.key, label or "-", image, *values])
            where = f" in {domain}" if domain else ""
            lines += ["", f"the queries that changed most by {listed}{where}", *aligned(rows, texts=3)]
    return "\n".join(lines)
