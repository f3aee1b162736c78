"""What a search found: for the terminal, as JSON, and as one page with its pictures in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.thresholds import Limit
from pipeline.views.pages import render
from pipeline.views.thumbnails import thumbnails
from stages.analysis.open_set import PairShare, share_at
from stages.retrieval.gallery_rows import Match

_SIDE = 160


class Answer(NamedTuple):
    """A query by name, the images it is made of, and its ``matches``, best first."""

    query: str
    images: Sequence[str]
    matches: Sequence[Match]


def search_text(answer: Answer, limit: Limit | None, shares: Sequence[PairShare]) -> str:
    """A line for each match: rank, similarity, the share of pairs this similar that match, label, URI."""
    accepted = _accepted(answer.matches, limit)
    if not accepted:
        return f"{answer.query}\n  {_nothing(answer, limit)}"
    lines = [
        f"{rank:>3}  {match.similarity:.3f}{_share_text(match, shares)}  {match.label or '-'}  {match.uri}"
        for rank, match in enumerate(accepted, 1)
    ]
    return "\n".join([answer.query, *lines])


def search_json(answer: Answer, limit: Limit | None, shares: Sequence[PairShare]) -> str:
    """A flat object for each match, or one that says that there is none, a line each."""
    verdict = {} if limit is None else {"match": True, "threshold": limit.threshold, "rate": limit.rate}
    lines: list[dict[str, object]] = []
    for rank, match in enumerate(_accepted(answer.matches, limit), 1):
        step = share_at(match.similarity, shares)
        meaning = {} if step is None else {"share": round(step.share, 4), "pairs": step.pairs}
        place = {"image": answer.query, "rank": rank, "similarity": round(match.similarity, 6)}
        lines.append({**place, "label": match.label, "key": match.key, "uri": match.uri, **meaning, **verdict})
    if not lines:
        nothing = dict.fromkeys(("label", "key", "uri"))
        nearest = round(answer.matches[0].similarity, 6) if answer.matches else None
        lines = [{"image": answer.query, "rank": None, "similarity": nearest, **nothing, **verdict, "match": False}]
    return "\n".join(json.dumps(line) for line in lines)


def search_page(answers: Sequence[Answer], limit: Limit | None, shares: Sequence[PairShare], note: str) -> str:
    """The page as HTML, with a picture of every image and nothing loaded from elsewhere."""
    accepted = [(answer, _accepted(answer.matches, limit)) for answer in answers]
    uris = [uri for answer, matches in accepted for uri in (*answer.images, *(match.uri for match in matches))]
    shown = []
    for answer, matches in accepted:
        meant = [(match, share_at(match.similarity, shares)) for match in matches]
        shown.append({"answer": answer, "nothing": "" if matches else _nothing(answer, limit), "matches": meant})
    return render("search.html", answers=shown, pictures=thumbnails(uris, _SIDE), limit=limit, note=note)


def _accepted(matches: Sequence[Match], limit: Limit | None) -> list[Match]:
    """The ``matches`` at or above the threshold, all where there is none."""
    return [match for match in matches if limit is None or match.similarity >= limit.threshold]


def _nothing(answer: Answer, limit: Limit | None) -> str:
    if limit is None or not answer.matches:
        return "no match: no image of the gallery may be found"
    return f"no match: the nearest has {answer.matches[0].similarity:.4f}; {limit.summary}"


def _share_text(match: Match, shares: Sequence[PairShare]) -> str:
    step = share_at(match.similarity, shares)
    return "" if step is None else f"  {step.share:4.0%}"
