"""The command ``search``."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Sequence
from typing import Annotated

import typer

from cache import parse_source
from cache.errors import ConfigError, RecordsError
from pipeline.commands.options import Json, Quiet, RunFile
from pipeline.dataset import open_run
from pipeline.searcher import Searcher
from pipeline.thresholds import Limit, kept_thresholds, limit_of
from pipeline.vectors import find_chosen, with_rows
from stages.retrieval.gallery_rows import Match


def search(
    run_file: RunFile,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Images to search for: files or URIs.")],
    head: Annotated[
        str | None, typer.Option(help="A head of the run, or raw; by default the best on validation.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Search every record, not only the gallery.")] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="How many images to print for each.")] = 10,
    fmr: Annotated[float | None, typer.Option(help="Only matches, by the threshold kept for this FMR.")] = None,
    fpir: Annotated[float | None, typer.Option(help="Only matches, by the threshold kept for this FPIR.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Only matches, from this similarity on.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the images of the run's gallery that are nearest to yours, or that there is no match."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of PyTorch's threads, which else spin for seconds under load
    limits = [
        (kind, value) for kind, value in (("fmr", fmr), ("fpir", fpir), ("threshold", threshold)) if value is not None
    ]
    if len(limits) > 1:
        raise ConfigError(f"give one of --fmr, --fpir and --threshold: each decides what a match is; got {len(limits)}")
    if fpir is not None and everything:
        raise ConfigError("--fpir holds for the gallery that it was chosen for, and not for --all: leave one out")
    run = open_run(run_file, quiet=quiet)
    vectors = find_chosen(run, head)
    run, display = with_rows(run, [vectors]), run.display
    limit = limit_of(run, vectors, limits[0]) if limits else None
    thresholds = kept_thresholds(run, vectors, everything=everything)
    searcher = Searcher.of_run(run, vectors, everything=everything, thresholds=thresholds)
    count = f"{len(searcher):,}"
    part = f"all {count} images" if everything else f"the gallery ({count} of {len(run.records):,} images)"
    otherwise = "--head chooses another head" if everything else "--all and --head choose otherwise"
    display.say(f"searching {part} with {vectors.backbone} {vectors.head}; {otherwise}")
    if limit is not None:
        display.say(f"a match has a similarity of at least {limit.threshold:.4f}: {limit.summary}")
    unread = []
    for image in images:
        try:
            source = parse_source(image)
            matches = searcher.search([source.read()], k, boxes=[source.box], exact=limit is not None)[0]
        except (OSError, RecordsError) as error:
            unread.append(f"{image}: {error}")
            continue
        typer.echo("\n".join((_json_lines if json else _text_lines)(image, matches, limit)))
    if unread:
        raise RecordsError(f"{len(unread)} of {len(images)} images to search for cannot be read:\n" + "\n".join(unread))


def _text_lines(image: str, matches: Sequence[Match], limit: Limit | None) -> list[str]:
    if limit is not None and not _accepted(matches, limit):
        return [image, f"  no match: the nearest has {matches[0].similarity:.4f}; {limit.summary}"]
    listed = enumerate(_accepted(matches, limit), 1)
    return [image, *(f"{rank:>3}  {match.similarity:.3f}  {match.label or '-'}  {match.uri}" for rank, match in listed)]


def _json_lines(image: str, matches: Sequence[Match], limit: Limit | None) -> list[str]:
    verdict = {} if limit is None else {"match": True, "threshold": limit.threshold, "rate": limit.rate}
    lines: list[dict[str, object]] = [
        {
            "image": image,
            "rank": rank,
            "similarity": round(match.similarity, 6),
            "label": match.label,
            "key": match.key,
            "uri": match.uri,
            **verdict,
        }
        for rank, match in enumerate(_accepted(matches, limit), 1)
    ]
    if not lines:
        nothing = dict.fromkeys(("label", "key", "uri"))
        nearest = round(matches[0].similarity, 6)
        lines = [{"image": image, "rank": None, "similarity": nearest, **nothing, **verdict, "match": False}]
    return [json_module.dumps(line) for line in lines]


def _accepted(matches: Sequence[Match], limit: Limit | None) -> list[Match]:
    """The ``matches`` at or above the threshold, all where there is none."""
    return [match for match in matches if limit is None or match.similarity >= limit.threshold]
