"""What is shown of the health of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.progress import aligned
from stages.analysis.health import Copy, Health, VectorHealth


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
