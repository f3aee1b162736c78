"""The health of a run as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.tables import aligned

if TYPE_CHECKING:
    from pipeline.health import Health


def health_text(report: Health, top: int) -> str:
    """What was found, with at most ``top`` of each finding."""
    lines = ["records"]
    lines += aligned([["", f"{count:,}", what] for what, count in report.counts.items() if count], texts=0)
    lines += [f"note: {text}" for text in report.remarks]
    for backbone, reasons in report.failed.items():
        failed = sum(reasons.values())
        lines += [
            "",
            f"{backbone}: {failed:,} images failed, {report.not_finite[backbone]:,} stored rows are not finite",
        ]
        lines += [f"  {count:,} {reason}" for reason, count in list(reasons.items())[:top]]
    for same, what in (
        (True, "byte-identical"),
        (False, f"near-identical (cosine of at least {report.near_duplicate:g})"),
    ):
        copies = [of for of in report.copies if of.same_bytes == same]
        lines += ["", f"{len(copies):,} images are {what} to one on another side of the splits"]
        rows = [
            [of.role, of.key, of.label or "-", of.other_role, of.other, of.other_label or "-", f"{of.similarity:.3f}"]
            for of in copies[:top]
        ]
        lines += _listed(["", "image", "label", "", "is", "label", "similarity"], rows, texts=6)
    lines += [
        "",
        f"{len(report.suspects):,} of {report.judged:,} labels are doubtful: most neighbours, raw and by {report.head}, "
        "have one other label",
    ]
    lines += _listed(
        ["image", "side", "label", "neighbours say", "certainty", "file"],
        [[of.key, of.role, of.label or "-", of.says, f"{of.certainty:.2f}", of.uri] for of in report.suspects[:top]],
        texts=4,
    )
    for of in report.vectors:
        s = of.spread
        lines += [
            "",
            f"{of.head} on {of.backbone}, the gallery",
            f"  dimensions: {s.dim:,}, effective rank {s.effective_rank:.1f}, participation ratio {s.participation:.1f}; "
            f"{s.first:.1%} of the variance along the first direction, 90 % along {s.for_90:,}",
            f"  {s.dead:,} dimensions are always 0, {s.constant:,} constant; mean cosine of two images "
            f"{s.mean_similarity:.3f}",
            f"  hubs: skewness {of.skewness:.2f} of how often an image is among the {of.k} nearest; the most found "
            f"hundredth gives {of.top_share:.1%} of the answers, {of.never:,} images are never found",
        ]
        lines += _listed(
            ["image", "label", "found by", "file"],
            [[hub.key, hub.label or "-", f"{hub.found:,}", hub.uri] for hub in of.top[:top]],
            texts=2,
        )
    if report.bounds:
        lines += ["", "what bounds the scores"]
        rows = [
            [metric, domain, f"{floor:.4f}", f"{ceiling:.4f}"]
            for (metric, domain), (floor, ceiling) in report.bounds.items()
        ]
        lines += _listed(["metric", "domain", "by chance", "perfect"], rows, texts=2)
    return "\n".join(lines)


def _listed(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> list[str]:
    return [f"  {line}" for line in aligned([header, *rows], texts=texts)] if rows else []
