"""``permafrost compact``: drop the rows that none of the run files lists, and heads and scores that none names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache import compact as compact_store
from cache.errors import StoreError
from pipeline import stores
from pipeline.commands.options import RunFiles
from pipeline.dataset import Run, open_run, recalled


def compact(
    run_files: RunFiles,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be dropped.")] = False,
) -> None:
    """Drop the rows that none of the run files lists, and heads, embeddings, indexes and scores that none names."""
    runs: dict[Path, list[Run]] = {}
    for run_file in run_files:
        run = open_run(run_file, quiet=True)
        unread, as_it_was = run.records.unreadable().uris, recalled(run)
        _say_unread(run_file, unread, as_it_was.records.unreadable().uris)
        runs.setdefault(run.artifacts, []).extend([run, *([as_it_was] if unread else [])])
    listed = {digest for named in runs.values() for run in named for digest in run.records.digests}
    for folder, named in sorted(runs.items()):
        gone = stores.unnamed(folder, named)
        for path in gone:
            megabytes = f"{stores.size_of(path) / 1e6:,.1f} MB"
            if yes:
                stores.remove(path)
            typer.echo(f"{path}: {megabytes} {'removed' if yes else 'would be removed'}, as no run file names it")
        for store in stores.stores_below(folder):
            if any(store.path.is_relative_to(path) for path in gone):
                continue
            if yes:
                done = compact_store(store, listed)
                chunks = f"{done.chunks_before} -> {done.chunks_after} chunks"
                typer.echo(f"{store.address}: {done.dropped:,} rows dropped, {chunks}")
            else:
                digests = (digest for rows in store.chunks().values() for digest in rows["digest"].to_pylist())
                unlisted = sum(digest not in listed for digest in digests)
                typer.echo(f"{store.address}: {unlisted:,} rows would be dropped")
    if not yes:
        typer.echo("Nothing was changed. Other run files may share these folders: name them all, then add --yes.")


def _say_unread(run_file: str, uris: list[str], unknown: list[str]) -> None:
    """Name what cannot be read. StoreError where an image may have a row that is not known to be its own."""
    if not uris:
        return
    if lost := [uri for uri in unknown if not Path(uri).is_symlink()]:
        raise StoreError(
            f"{len(lost):,} images of {run_file} cannot be read now, the first of them {lost[0]}, so their rows cannot "
            "be told from those that no dataset lists. Bring them back (is a disk missing?), or drop them from the "
            "table."
        )
    typer.echo(
        f"{len(uris):,} images of {run_file} cannot be read now, the first of them {uris[0]}: "
        "rows of what they were when they were read last stay"
    )
