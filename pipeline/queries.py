"""What the search command is given, as vectors: each image for itself, or all terms as one query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cache import parse_source
from cache.errors import AbsentPathError, RecordsError
from cache.storage import file_exists
from pipeline.searcher import Searcher
from stages.ranking.normalize import Vectors, unit_length
from stages.retrieval.terms import LIKE, UNLIKE, combined


class Terms(NamedTuple):
    """Images (files or URIs), sentences, and keys of gallery images to be like and unlike."""

    images: Sequence[str]
    text: Sequence[str]
    like: Sequence[str]
    unlike: Sequence[str]

    @property
    def name(self) -> str:
        """Of the query that all of them are."""
        added = " + ".join([*self.images, *(f"{text!r}" for text in self.text), *self.like])
        return " - ".join([added, *self.unlike])


class Query(NamedTuple):
    """A ``vector`` (1, E) to search by, what it is called, and the images it is made of."""

    name: str
    vector: Vectors
    images: Sequence[str]


def refuse_absent(terms: Terms) -> None:
    """Raise AbsentPathError where none of the images to search for is there: before a network is loaded."""
    if terms.images and not any(file_exists(parse_source(image).path) for image in terms.images):
        raise AbsentPathError("no image to search for is there:\n" + "\n".join(terms.images))


def queries_of(searcher: Searcher, terms: Terms, *, together: bool) -> tuple[list[Query], list[str]]:
    """The queries, and a line for each image that cannot be read: without ``together`` others are answered still.

    Raises RecordsError where such an image is part of a query of several terms; MissingRowsError for a key that the
    gallery has not, SettingsError for text where the head knows none.
    """
    images: list[Query] = []
    unread = []
    for image in terms.images:
        try:
            source = parse_source(image)
            embedded = searcher.embed([source.read()], boxes=[source.box])
            if embedded.problems:
                raise RecordsError(embedded.problems[0])
            images.append(Query(image, unit_length(embedded.vectors), [image]))
        except (OSError, RecordsError) as error:
            unread.append(f"{image}: {error}")
    if not together:
        return images, unread
    if unread:
        raise RecordsError("a query of several terms takes all of them, and cannot be made:\n" + "\n".join(unread))
    parts = [query.vector for query in images]
    parts += [searcher.embed_text(terms.text)] if terms.text else []
    parts += [searcher.vectors_of(keys) for keys in (terms.like, terms.unlike) if keys]
    weights = [LIKE] * (len(images) + len(terms.text) + len(terms.like)) + [UNLIKE] * len(terms.unlike)
    return [Query(terms.name, combined(np.concatenate(parts), weights), terms.images)], []
