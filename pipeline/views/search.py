"""What is shown of a search: text and lines of JSON; the page is a template."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.thresholds import Limit
from stages.analysis.open_set import PairShare
from stages.retrieval.gallery_rows import Match


class Answer(NamedTuple):
    """A query by name, the images it is made of, and its ``matches`` with what their similarity means, best first.

    ``nearest`` is the similarity of the nearest image, also where the ``limit`` lets none match.
    """

    name: str
    images: Sequence[str]
    matches: Sequence[tuple[Match, PairShare | None]]
    nearest: float | None
    limit: Limit | None

    @property
    def nothing(self) -> str:
        """Why there is no match; empty where there is one."""
        if self.matches:
            return ""
        if self.limit is None or self.nearest is None:
            return "no match: no image of the gallery may be found"
        return f"no match: the nearest has {self.nearest:.4f}; {self.limit.summary}"

    def text(self) -> str:
        """A line for each match: rank, similarity, the share of pairs this similar that match, label, URI."""
        lines = [f"  {self.nothing}"] if self.nothing else []
        for rank, (match, step) in enumerate(self.matches, 1):
            share = "" if step is None else f"  {step.share:4.0%}"
            lines.append(f"{rank:>3}  {match.similarity:.3f}{share}  {match.label or '-'}  {match.uri}")
        return "\n".join([self.name, *lines])

    def json(self) -> str:
        """A flat object for each match, or one that says that there is none, a line each."""
        limit = self.limit
        verdict = {} if limit is None else {"match": True, "threshold": limit.threshold, "rate": limit.rate}
        lines: list[dict[str, object]] = []
        for rank, (match, step) in enumerate(self.matches, 1):
            meaning = {} if step is None else {"share": round(step.share, 4), "pairs": step.pairs}
            place = {"image": self.name, "rank": rank, "similarity": round(match.similarity, 6)}
            lines.append({**place, "label": match.label, "key": match.key, "uri": match.uri, **meaning, **verdict})
        if not lines:
            none = {"image": self.name, "rank": None, "similarity": self.nearest and round(self.nearest, 6)}
            lines = [{**none, **dict.fromkeys(("label", "key", "uri")), **verdict, "match": False}]
        return "\n".join(map(json_module.dumps, lines))
