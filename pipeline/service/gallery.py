"""What is served at one time: the heads over one gallery, and what a request may name of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from cache.errors import PermafrostError, SettingsError
from pipeline.searcher import Searcher
from pipeline.service.limits import Limits, Refused, check_pixels
from pipeline.views.pages import small_jpeg
from stages.extraction.embedder import embed_together
from stages.ranking import unit_length
from stages.retrieval.gallery_rows import Match

_LISTED_VALUES = 200  # of a filter, those that the page offers; of one with more, any can be typed
_EXAMPLES = 24

Filters = tuple[tuple[str, tuple[str, ...]], ...]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ServedHead:
    """The searcher of one head, or of the raw feature; ``score`` is what it reached, for people: ``mmp@5 .759``."""

    backbone: str
    head: str
    searcher: Searcher
    score: str = ""

    @property
    def name(self) -> str:
        """Of the head in requests and answers."""
        return f"{self.backbone}/{self.head}"

    def least(self, fmr: float | None) -> float:
        """The similarity from which on there is a match, by the threshold kept for an FMR. Raises Refused for none."""
        if fmr is None:
            return -math.inf
        thresholds = self.searcher.thresholds
        if (least := thresholds.get(f"fmr {fmr:g}")) is None:
            there = f"there is one for {', '.join(thresholds)}" if thresholds else "there is none"
            raise Refused(422, "no_threshold", f"{self.name} has no threshold for fmr {fmr:g}; {there}")
        return least


class Upload(NamedTuple):
    """The bytes of an image, or a text, to embed for some heads."""

    content: bytes | str
    heads: tuple[ServedHead, ...]
    limits: Limits


class Query(NamedTuple):
    """A vector to search one head with, for matches of at least a similarity; ``itself`` does not find itself."""

    head: ServedHead
    vector: Vector
    k: int
    offset: int
    filters: Filters
    itself: str | None
    least: float


@dataclass(frozen=True, eq=False)
class Gallery:
    """Heads over one gallery, best first, and the snapshot that they are of."""

    snapshot: str
    heads: tuple[ServedHead, ...]
    thumbnail: Callable[[bytes], bytes | None]  # the small picture that is kept of the image of a digest

    @cached_property
    def _by_name(self) -> dict[str, ServedHead]:
        """The heads by their names, and by their names without the backbone where that is not ambiguous."""
        short = Counter(head.head for head in self.heads)
        own = {head.head: head for head in self.heads if short[head.head] == 1}
        return own | {head.name: head for head in self.heads}

    def chosen(self, names: Sequence[str], *, for_text: bool = False) -> tuple[ServedHead, ...]:
        """The heads of ``names``, each once: the best where none is named, all for ``*``. Raises Refused.

        With ``for_text`` those that take text; one that is named and takes none is refused.
        """
        heads = tuple(head for head in self.heads if head.searcher.takes_text) if for_text else self.heads
        if not heads:
            raise Refused(422, "no_text", "this gallery cannot be searched with text: send an image or a key")
        if not names:
            return heads[:1]
        if "*" in names:
            return heads
        for name in names:
            if name not in self._by_name:
                message = f"there is no head {name!r}; there are {', '.join(head.name for head in self.heads)}"
                raise Refused(404, "unknown_head", message)
        chosen = tuple(dict.fromkeys(self._by_name[name] for name in names))
        if unable := [head.name for head in chosen if head not in heads]:
            message = f"the head {unable[0]} takes no text; these do: {', '.join(head.name for head in heads)}"
            raise Refused(422, "no_text", message)
        return chosen

    def __len__(self) -> int:
        return len(self.heads[0].searcher)

    def picture(self, key: str, side: int) -> bytes | Exception:
        """A small JPEG of the image of ``key``: one that is kept, or one of ``side`` pixels; or why there is none."""
        for head in self.heads:
            if (row := head.searcher.row_of(key)) is not None:
                table = head.searcher.gallery.table
                digest = table["digest"][row].as_py()
                if (content := self.thumbnail(digest)) is not None:
                    return content
                made = small_jpeg(table["uri"][row].as_py(), side, digest)
                if made.reason:
                    return Refused(404, "no_picture", f"there is no picture of this image: it {made.reason}")
                return made.content
        return Refused(404, "unknown_key", f"the gallery has no image of key {key[:200]!r}")

    def vectors_of(self, key: str, heads: Sequence[ServedHead]) -> list[Vector]:
        """The stored vector of ``key`` for each of ``heads``. Raises Refused where one has none."""
        for head in heads:
            if head.searcher.row_of(key) is None:
                raise Refused(404, "unknown_key", f"the gallery of {head.name} has no image of key {key[:200]!r}")
        return [head.searcher.vectors_of([key])[0] for head in heads]

    @cached_property
    def described(self) -> dict[str, Any]:
        """What there is to search, for a program and for the page."""
        rows = self.heads[0].searcher.gallery
        places = np.unique(np.linspace(0, len(self) - 1, min(_EXAMPLES, len(self)), dtype=np.int64))
        heads = [
            {
                "name": head.name,
                "backbone": head.backbone,
                "head": head.head,
                "score": head.score,
                "text": head.searcher.takes_text,
                "thresholds": head.searcher.thresholds,
            }
            for head in self.heads
        ]
        values = {name: rows.values(name) for name in rows.filters}
        return {
            "snapshot": self.snapshot,
            "images": len(self),
            "text": any(head.searcher.takes_text for head in self.heads),
            "heads": heads,
            "filters": {name: {"count": len(own), "values": own[:_LISTED_VALUES]} for name, own in values.items()},
            "examples": rows.table["key"].take(places).to_pylist(),
        }


def filters_of(where: Sequence[str]) -> Filters:
    """``name=value`` texts as filters; several values of one name are alternatives. Raises Refused.

    >>> filters_of(["colour=red", "colour=blue", "kind=mug"])
    (('colour', ('red', 'blue')), ('kind', ('mug',)))
    """
    filters: dict[str, list[str]] = {}
    for text in where:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise Refused(422, "bad_filter", f"a filter is written name=value, got {text[:200]!r}")
        filters.setdefault(name, []).append(value)
    return tuple((name, tuple(values)) for name, values in filters.items())


def embed(uploads: Sequence[Upload]) -> list[dict[ServedHead, Vector] | Exception]:
    """The vectors of each upload for its heads; each image is decoded once, and goes through each network once."""
    answers: list[dict[ServedHead, Vector] | Exception] = [{} for _ in uploads]
    together: dict[tuple[ServedHead, ...], list[int]] = {}
    images = {}
    for place, (content, heads, limits) in enumerate(uploads):
        try:
            if isinstance(content, str):
                answers[place] = {head: head.searcher.embed_text([content])[0] for head in heads}
                continue
            check_pixels(content, limits)
        except Refused as refused:
            answers[place] = refused
        except PermafrostError as error:
            answers[place] = Refused(422, "no_text", str(error))
        else:
            images[place] = content
            together.setdefault(heads, []).append(place)
    for heads, places in together.items():
        contents = [images[place] for place in places]
        parts = embed_together([head.searcher.embedder for head in heads], contents)
        for head, embedded in zip(heads, parts, strict=True):
            vectors = unit_length(embedded.vectors)
            for row, place in enumerate(places):
                answer = answers[place]
                if row in embedded.problems:
                    answers[place] = Refused(422, "bad_image", f"the image cannot be used: {embedded.problems[row]}")
                elif isinstance(answer, dict):
                    answer[head] = vectors[row]
    return answers


def pictures(wanted: Sequence[tuple[Gallery, str, int]]) -> list[bytes | Exception]:
    """:meth:`Gallery.picture` of each."""
    return [gallery.picture(key, side) for gallery, key, side in wanted]


def find(queries: Sequence[Query]) -> list[dict[str, Any] | Exception]:
    """The answer to each query, as JSON; those of one head, depth, filters and threshold are searched for at once."""
    answers: list[dict[str, Any] | Exception] = [{}] * len(queries)
    together: dict[tuple[ServedHead, int, Filters, float], list[int]] = {}
    for place, query in enumerate(queries):
        depth = query.offset + query.k + 2  # the image itself, and one more to know whether there are more
        together.setdefault((query.head, depth, query.filters, query.least), []).append(place)
    for (head, depth, filters, least), places in together.items():
        vectors = np.stack([queries[place].vector for place in places])
        try:
            where = head.searcher.gallery.allowed(dict(filters)) if filters else None
            exact = bool(head.searcher.thresholds)
            every = head.searcher.find(vectors, depth, where=where, exact=exact, least=least)
            own: list[Any] = [_answer(queries[place], matches) for place, matches in zip(places, every, strict=True)]
        except SettingsError as error:
            own = [Refused(422, "bad_filter", str(error))] * len(places)
        except (PermafrostError, OSError) as error:
            why = f"the gallery cannot be searched: {error}"
            own = [Refused(503, "unavailable", why, {"Retry-After": "5"})] * len(places)
        for place, answer in zip(places, own, strict=True):
            answers[place] = answer
    return answers


def _answer(query: Query, matches: Sequence[Match]) -> dict[str, Any]:
    others = [match for match in matches if match.key != query.itself]
    last = query.offset + query.k
    page = [
        {
            "rank": rank,
            "key": match.key,
            "similarity": round(match.similarity, 6),
            "label": match.label,
            "domain": match.domain,
            "attributes": match.attributes,
            "image": image_path(match.key),
        }
        for rank, match in enumerate(others[query.offset : last], query.offset + 1)
    ]
    return {"head": query.head.name, "matches": page, "more": len(others) > last}


def image_path(key: str) -> str:
    """Where the picture of ``key`` is: with its slashes, unless a browser would take its path for another one.

    >>> image_path("cup/red 1.jpg"), image_path("../up.jpg")
    ('/images/cup/red%201.jpg', '/images/..%2Fup.jpg')
    """
    plain = all(part not in ("", ".", "..") for part in key.split("/"))
    return "/images/" + quote(key, safe="/" if plain else "")
