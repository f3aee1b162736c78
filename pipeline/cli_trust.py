"""The commands that say how far scores can be trusted: compare, gallery-sizes, threshold, health."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.options import Head, Json, OneBackbone, Quiet, RunFile

_Side = "RUN.TOML[:HEAD]"


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=f"The one before: {_Side}.")],
    second: Annotated[str, typer.Argument(metavar="B", help=f"The one after: {_Side}.")],
    head: Annotated[str | None, typer.Option(help="The head of both sides, or raw, where a side names none.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The backbone of both sides, by default every shared.")] = None,
    metric: Annotated[str | None, typer.Option(help="What queries are listed by; by default the first metric.")] = None,
    top: Annotated[int, typer.Option(min=0, help="How many queries that changed most to list.")] = 10,
    other_gallery: Annotated[
        bool, typer.Option("--other-gallery", help="Compare although the galleries differ; the result says so.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how much better B is than A over the same queries, how surely, and which queries changed most."""
    from pipeline.commands.compare import compare

    compare(
        first, second, head=head, backbone=backbone, metric=metric, top=top, other_gallery=other_gallery, json=json,
        quiet=quiet,
    )  # fmt: skip


def gallery_sizes(
    run_file: RunFile,
    size: Annotated[
        list[float] | None,
        typer.Option(min=0, help="A share of the gallery, or above 1 a number of distractors. Can be given again."),
    ] = None,
    distractors: Annotated[
        list[str] | None,
        typer.Option(help="A value of the split column with further distractors. Can be given again."),
    ] = None,
    head: Head = None,
    backbone: OneBackbone = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score the same queries in galleries of several sizes: what a small gallery hides."""
    from pipeline.commands.gallery_sizes import gallery_sizes

    gallery_sizes(run_file, size or [], distractors or [], head=head, backbone=backbone, json=json, quiet=quiet)


def threshold(
    run_file: RunFile,
    fmr: Annotated[
        list[float] | None, typer.Option(help="A wanted false match rate of comparisons. Can be given again.")
    ] = None,
    fpir: Annotated[
        list[float] | None,
        typer.Option(help="A wanted false-positive identification rate of searches. Can be given again."),
    ] = None,
    head: Head = None,
    backbone: OneBackbone = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose the similarity below which there is no match, and say how often that is wrong. `search` uses it."""
    from pipeline.commands.threshold import threshold

    threshold(run_file, fmr or [], fpir or [], head=head, backbone=backbone, json=json, quiet=quiet)


def health(
    run_file: RunFile,
    head: Head = None,
    backbone: OneBackbone = None,
    top: Annotated[int, typer.Option(min=0, help="How many to list of each finding.")] = 10,
    near_duplicate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Cosine similarity from which two images are one; by default 0.98."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for what makes scores wrong: copies across splits, labels, hubs, dead dimensions, failed images."""
    from pipeline.commands.health import health

    health(run_file, head=head, backbone=backbone, top=top, near_duplicate=near_duplicate, json=json, quiet=quiet)


COMMANDS = (compare, gallery_sizes, threshold, health)
