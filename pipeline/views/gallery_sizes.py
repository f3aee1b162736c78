"""What is shown of a search in galleries of several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.views.leaderboard import table_by_metric


def gallery_sizes_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """A line for each backbone, head, domain and size; a column for each metric."""
    heads = list(dict.fromkeys((line["backbone"], line["head"]) for line in lines))
    domains = list(dict.fromkeys(line["domain"] for line in lines))

    def place(line: Mapping[str, Any]) -> tuple[int, ...]:
        return heads.index((line["backbone"], line["head"])), domains.index(line["domain"]), line["sampled"]

    columns = {name: name for name in ("backbone", "head", "domain", "distractors", "searched")}
    notes = [
        "every query keeps its relevant rows; distractors are sampled, those of a smaller gallery all in the larger,",
        "and counted in the mean over queries; [95 % interval over classes]",
    ]
    return "\n".join([*table_by_metric(sorted(lines, key=place), columns, ()), *notes])
