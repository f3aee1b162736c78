"""``permafrost search``: print the images of the run's gallery that are nearest to yours, or that there is no match."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

from cache import parse_source
from cache.atomic import replace_text
from cache.errors import AbsentPathError, ConfigError, RecordsError
from cache.storage import file_exists
from pipeline.bundle.layout import Bundle, is_bundle
from pipeline.commands.options import BestHead, Json, OneBackbone, Quiet, where_values
from pipeline.dataset import open_run
from pipeline.progress import Display
from pipeline.searcher import Searcher
from pipeline.thresholds import Limit, kept_decisions, kept_shares, limit_among, limit_of, thresholds_of
from pipeline.vectors import find_chosen, with_rows
from pipeline.views.pages import digests_of, render, thumbnails
from pipeline.views.search import Answer
from stages.analysis.open_set import PairShare, share_at
from stages.analysis.thresholds import ENOUGH_CLASSES, class_shortage
from stages.ranking.normalize import Vectors, unit_length
from stages.retrieval.gallery import LIKE, UNLIKE, combined

_NO_SHARES = "what a similarity means is not known here"
_OF_IMAGES = "was measured on pairs of images, and is not known for words and for several terms"
_SIDE = 160  # of a picture on the page, in pixels


def search(
    run_file: Annotated[str, typer.Argument(metavar="RUN.TOML|BUNDLE", help="A run file or a bundle, or its address.")],
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE...]", help="Images to search for: files or URIs.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="Words to search for, of a head that knows text.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="The key of a gallery image to be like.")] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="The key of a gallery image to be unlike.")] = None,
    together: Annotated[bool, typer.Option("--together", help="Search for the mean of the images, not each.")] = False,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only images with this label, domain or attribute.")
    ] = None,
    head: BestHead = None,
    backbone: OneBackbone = None,
    everything: Annotated[bool, typer.Option("--all", help="Search every record, not only the gallery.")] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="How many images to print for each.")] = 10,
    fmr: Annotated[float | None, typer.Option(help="Only matches, by the threshold kept for this FMR.")] = None,
    fpir: Annotated[float | None, typer.Option(help="Only matches, by the threshold kept for this FPIR.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Only matches, from this similarity on.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page with the pictures in it.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the gallery images that are nearest to your images, words or keys, or that there is no match."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of PyTorch's threads, which else spin for seconds under load
    every = ("fmr", fmr), ("fpir", fpir), ("threshold", threshold)
    limits = [(kind, value) for kind, value in every if value is not None]
    if len(limits) > 1:
        raise ConfigError(f"give one of --fmr, --fpir and --threshold: each decides what a match is; got {len(limits)}")
    if fpir is not None and everything:
        raise ConfigError("--fpir holds for the gallery that it was chosen for, and not for --all: leave one out")
    images, text, like, unlike = images or [], text or [], like or [], unlike or []
    if not any((images, text, like, unlike)):
        raise ConfigError("there is nothing to search for: give an image, --text or --like")
    if images and not any(file_exists(parse_source(image).path) for image in images):
        raise AbsentPathError("no such image:\n" + "\n".join(images))
    mixed = bool(text or unlike) or (bool(together or like) and len(images) + len(like) > 1)
    if mixed and limits and limits[0][0] != "threshold":
        kind, value = limits[0]
        raise ConfigError(
            f"--{kind} {value:g} {_OF_IMAGES}, whose similarities are others: search for one image or one --like, "
            "or give the similarity itself, --threshold"
        )
    filters = where_values(where)
    opened = partial(_bundle if is_bundle(run_file) else partial(_run, words=bool(text)), mixed=mixed)
    searcher, limit, shares, display = opened(
        run_file, head, backbone, everything, limits[0] if limits else None, quiet
    )
    if limit is not None:
        display.say(f"a match has a similarity of at least {limit.threshold:.4f}: {limit.summary}")
    queries, unread = _single(searcher, images)
    if together or text or like or unlike:
        if unread:
            reasons = "\n".join(unread)
            raise RecordsError(f"a query of several terms takes all of them, and cannot be made:\n{reasons}")
        queries = [_combined(searcher, queries, text, like, unlike)]
    allowed = searcher.gallery.allowed(filters) & ~np.isin(searcher.gallery.keys, [*like, *unlike])
    passing, exact = None if allowed.all() else allowed, limit is not None or bool(shares)
    answers = []
    for query in queries:
        matches = searcher.find(query.vector, k, where=passing, exact=exact)[0]
        accepted = [match for match in matches if limit is None or match.similarity >= limit.threshold]
        meant = [(match, share_at(match.similarity, shares)) for match in accepted]
        answers.append(Answer(query.name, query.images, meant, matches[0].similarity if matches else None, limit))
    for answer in answers:
        typer.echo(answer.json() if json else answer.text())
    if html is not None:
        note = ", ".join([f"Of {len(searcher):,} images of {run_file}", *(where or [])]) + "."
        note += f" What a similarity means {_OF_IMAGES}." if mixed else ""
        queried = thumbnails([image for answer in answers for image in answer.images], _SIDE)
        uris = [match.uri for answer in answers for match, _ in answer.matches]
        pictures = thumbnails(uris, _SIDE, digests=digests_of(uris, searcher.gallery.table))
        page = {"answers": answers, "queried": queried, "pictures": pictures, "limit": limit, "note": note}
        replace_text(html, render("search.html", **page))
        display.say(f"the page: {html}")
    if unread:
        count = f"{len(unread)} of {len(images)}"
        raise RecordsError(f"{count} images to search for cannot be read:\n" + "\n".join(unread))


_Opened = tuple[Searcher, Limit | None, list[PairShare], Display]
_Wanted = tuple[str, float] | None


def _run(
    run_file: str,
    head: str | None,
    backbone: str | None,
    everything: bool,
    wanted: _Wanted,
    quiet: bool,
    *,
    words: bool,
    mixed: bool,
) -> _Opened:
    """The searcher of a run file, its threshold, and what a similarity means; of ``mixed`` terms that is not known."""
    run = open_run(run_file, quiet=quiet)
    vectors = find_chosen(run, head, backbone, text=words)
    run = with_rows(run, [vectors])
    limit = limit_of(run, vectors, wanted) if wanted else None
    decisions = kept_decisions(run, vectors)
    thresholds = thresholds_of(decisions, everything=everything)
    searcher = Searcher.of_run(run, vectors, everything=everything, thresholds=thresholds)
    count = f"{len(searcher):,}"
    part = f"all {count} images" if everything else f"the gallery ({count} of {len(run.records):,} images)"
    options = [name for name, given in (("--all", everything), ("--head", head is not None)) if not given]
    choose = f"; {' and '.join(options)} choose{'s' if len(options) == 1 else ''} otherwise" if options else ""
    run.display.say(f"searching {part} with {vectors.backbone} {vectors.head}{choose}")
    way = f"`permafrost threshold {run_file} --head {vectors.head}` calibrates it"
    if class_shortage(run.records) is not None:
        way = f"that takes {ENOUGH_CLASSES}"
    return searcher, limit, _meaning(kept_shares(decisions), mixed, way, run.display), run.display


def _meaning(shares: list[PairShare], mixed: bool, way: str, display: Display) -> list[PairShare]:
    """The ``shares`` where they hold for the query; else it is said that they do not, or the ``way`` to get them."""
    if mixed:
        display.say(f"what a similarity means {_OF_IMAGES}")
    elif not shares:
        display.say(f"{_NO_SHARES}: {way}")
    return [] if mixed else shares


def _bundle(
    folder: str,
    head: str | None,
    backbone: str | None,
    everything: bool,
    wanted: _Wanted,
    quiet: bool,
    *,
    mixed: bool,
) -> _Opened:
    """The same of a bundle, which has one head and one gallery."""
    bundle = Bundle.open(folder)
    own = bundle.described["head"]
    if everything or backbone is not None or head not in (None, own):
        raise ConfigError(f"{folder} has one gallery and the head {own}: leave --head, --backbone and --all out")
    limit = None
    if wanted:
        choose = f"Choose it, `permafrost threshold RUN_FILE --{wanted[0]} {wanted[1]:g}`, and export again."
        limit = limit_among(bundle.described["thresholds"], wanted, choose)
    searcher = Searcher.open(folder)
    display = Display(quiet=quiet)
    display.say(f"searching the {len(searcher):,} images of {folder}")
    way = (
        f"with {ENOUGH_CLASSES}, `permafrost threshold RUN.TOML` calibrates it, and `permafrost export` takes it along"
    )
    return searcher, limit, _meaning(bundle.shares, mixed, way, display), display


class _Query(NamedTuple):
    """A ``vector`` (1, E) to search by, what it is called, and the images it is made of."""

    name: str
    vector: Vectors
    images: Sequence[str]


def _single(searcher: Searcher, images: Sequence[str]) -> tuple[list[_Query], list[str]]:
    """A query for each image, and a line for each that cannot be read."""
    queries, unread = [], []
    for image in images:
        try:
            source = parse_source(image)
            embedded = searcher.embed([source.read()], boxes=[source.box])
            if embedded.problems:
                raise RecordsError(embedded.problems[0])
            queries.append(_Query(image, unit_length(embedded.vectors), [image]))
        except (OSError, RecordsError) as error:
            unread.append(f"{image}: {error}")
    return queries, unread


def _combined(
    searcher: Searcher, images: Sequence[_Query], text: Sequence[str], like: Sequence[str], unlike: Sequence[str]
) -> _Query:
    """The one query that all of them are."""
    parts = [query.vector for query in images]
    parts += [searcher.embed_text(text)] if text else []
    parts += [searcher.vectors_of(keys) for keys in (like, unlike) if keys]
    weights = [LIKE] * (len(images) + len(text) + len(like)) + [UNLIKE] * len(unlike)
    added = " + ".join([*(query.name for query in images), *map(repr, text), *like])
    used = [image for query in images for image in query.images]
    return _Query(" - ".join([added, *unlike]), combined(np.concatenate(parts), weights), used)
