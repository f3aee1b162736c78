"""``permafrost report``: write one HTML page about a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from cache.atomic import replace_text
from cache.errors import ConfigError, UnwritableError
from pipeline.commands.health import health_of_run
from pipeline.commands.options import Json, Quiet, RunFile, emit
from pipeline.dataset import Run, open_run, remarks
from pipeline.vectors import Vectors, find_vectors, with_rows
from pipeline.views.pages import digests_of, render, thumbnails
from pipeline.views.report import curves
from pipeline.views.report.images import LISTS, map_view, shown_queries
from pipeline.views.report.measured import domain_charts, measure, overall, report_leaderboard
from pipeline.views.report.origins import origins
from stages.analysis.health import vector_health
from stages.retrieval.scores import MEAN

PICTURE, MAP_PICTURE = 128, 56
"""Sides of the pictures, in pixels."""
HUBS = 6
"""Images that are shown of those that are nearest most often."""
_DOUBTS = 24
_TIED = 6  # names in a sentence


def report(
    run_file: RunFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default in the artifacts folder.")
    ] = None,
    queries: Annotated[int, typer.Option(min=0, help="How many queries to show with their nearest images.")] = 40,
    health: Annotated[
        bool, typer.Option("--health", help="Look for copies across splits and doubtful labels too (minutes).")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about a run: leaderboard, curves, a map, and queries with right and wrong images."""
    started = time.monotonic()
    if output is not None and output.is_dir():
        raise ConfigError(f"--output names the file to write, got the folder {output}")
    run = open_run(run_file, quiet=quiet)
    display = run.display
    contents, text = build_report(run, queries, health=health)
    path = _write(run, text, output)
    size, seconds = len(text.encode()), time.monotonic() - started
    line = {
        "report": path, "bytes": size, "best": contents.best.head, "backbone": contents.best.vectors.backbone,
        "queries_shown": len(contents.queries), "seconds": round(seconds, 1),
    }  # fmt: skip
    emit(json, path, line)
    display.say(f"{size / 1e6:.1f} MB, {len(contents.pictures):,} pictures, {seconds:.0f} s")


def _write(run: Run, text: str, output: Path | None) -> str:
    """Write the page, and return where it is."""
    if output is not None:
        replace_text(output, text)
        return str(output)
    key = f"reports/{run.name}.html"
    try:
        run.storage.put(key, text.encode())
    except UnwritableError as error:
        if not error.read_only:
            raise
        path, there = Path(f"{run.name}.html"), run.storage.address(key)
        run.display.warn(f"note: {there} is read-only, so the page is here; --output names another place")
        replace_text(path, text)
        return str(path)
    return run.storage.address(key)


def build_report(run: Run, queries: int, *, health: bool) -> tuple[Contents, str]:
    """The contents and the page of the run as it is on disk. Raises MissingRowsError where something is missing."""
    vectors = find_vectors(run)
    contents = contents_of(with_rows(run, vectors), vectors, queries, health=health)
    return contents, report_page(contents)


class Contents(SimpleNamespace):
    """What the templates call ``report``. What a run does not have is empty or None.

    ``best`` is what won, searched exactly, ``head`` the best head, and ``raw`` the feature that it is made from.
    ``map_pictures`` are by the place of an image on the map, and ``pictures``, all others, by URI.
    """


def contents_of(run: Run, vectors: Sequence[Vectors], count: int, *, health: bool) -> Contents:
    """Gather all of it from ``vectors``; ``count`` queries are shown, and with ``health`` their images checked too."""
    config, records, display = run.config, run.records, run.display
    measured = measure(run, vectors)
    metrics, domain = config.retrieval.metrics, overall(measured[0].rows)
    metric, colours = metrics[0], curves.looks(measured)
    exact = [side for side in measured if side.exact]
    best = exact[0]
    head = next((side for side in exact if not side.raw), None)
    raw = next((side for side in exact if head and side.raw and side.vectors.backbone == head.vectors.backbone), None)
    compared = [side for side in dict.fromkeys((best, head, raw)) if side is not None]
    display.say("drawing curves")
    by_k = curves.k_curves(exact, domain, colours)
    sizes = curves.size_chart(run, compared, domain, colours)
    pairs = [section for side in compared if (section := curves.pair_section(run, side)) is not None]
    display.say("drawing the map")
    mapped = map_view(best, config.seed)
    ranked = [(side.name, side.vectors) for side in compared if side.ranks is not None]
    sound = {name: vector_health(own.backbone, own.head, own.store, records) for name, own in ranked}
    checked = health_of_run(run, vectors) if health else None
    queries = shown_queries(best, head, raw, metric, count)
    uris = [query.uri for query in queries]
    uris += [image.uri for query in queries for result in query.results.values() for image in result.images]
    uris += [hub.uri for line in sound.values() for hub in line.top[:HUBS]]
    if checked is not None:
        uris += [suspect.uri for suspect in checked.suspects[:_DOUBTS]]
        uris += [uri for copy in checked.copies[:_DOUBTS] for uri in (copy.uri, copy.other_uri)]
    with display.bar("pictures", "images") as update:
        digests = digests_of(uris, records.table)
        pictures = thumbnails(uris, PICTURE, lambda done, total: update(done, total, ""), digests=digests)
        on_map = {at: mapped.images[at].uri for at in mapped.pictured} if mapped is not None else {}
        small = thumbnails(on_map.values(), MAP_PICTURE, digests=digests_of(on_map.values(), records.table))
    over_all = measured[0].row(metric, domain)
    return Contents(
        name=run.name,
        run_file=str(run.file),
        queries_scored=0 if over_all is None else over_all.queries,
        gallery=0 if over_all is None else over_all.gallery,
        metric=metric,
        domain=domain,
        remarks=remarks(config, records, records.counts()),
        best=best,
        head=head,
        raw=raw,
        board=report_leaderboard(measured, metrics, domain, colours, records),
        curves=by_k,
        domains=domain_charts(measured, metric, colours),
        sizes=sizes,
        soundness=sound,
        health=checked,
        pairs=pairs,
        learning=curves.learning_curves(exact),
        map=mapped,
        map_pictures={at: small[uri] for at, uri in on_map.items()},
        queries=queries,
        pictures=pictures,
        origins=origins(
            exact, records, config.retrieval, f"permafrost report {run.file}{' --health' if health else ''}"
        ),
    )


def report_page(contents: Contents) -> str:
    """The whole page as HTML, which loads nothing from elsewhere."""
    lists, images = {query.list for query in contents.queries}, contents.map.images if contents.map else []
    return render(
        "report/page.html",
        report=contents,
        ticks=curves.TICKS,
        hubs=HUBS,
        place="in the mean of the domains" if contents.domain == MEAN else "over all queries",
        lists={name: title for name, title in LISTS.items() if name in lists},
        query_domains=sorted({query.domain for query in contents.queries if query.domain}),
        tied=[row.names[0] for row in contents.board.rows if row.tied][:_TIED],
        map_facts=[[image.label, image.domain, image.key] for image in images],
    )
