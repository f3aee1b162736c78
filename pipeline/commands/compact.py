"""The command ``compact``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache import compact as compact_store
from cache.errors import StoreError
from pipeline.commands.options import RunFiles
from pipeline.config import read_config
from pipeline.dataset import read_dataset
from pipeline.progress import Display
from pipeline.stores import stores_below


def compact(
    run_files: RunFiles,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be dropped.")] = False,
) -> None:
    """Drop the rows that none of the run files lists, from the stores in their artifacts folders."""
    display, listed, folders = Display(quiet=True), set[bytes](), set[Path]()
    for run_file in run_files:
        config = read_config(run_file)
        records = read_dataset(config, display)
        if unread := len(records.unreadable()):
            raise StoreError(
                f"{unread:,} images of {run_file} cannot be read now, so their rows cannot be told from those that no "
                "dataset lists. Bring them back (is a disk missing?), or drop them from the table."
            )
        listed |= set(records.digests)
        folders.add(Path(config.artifacts))
    for store in (store for folder in sorted(folders) for store in stores_below(folder)):
        if yes:
            done = compact_store(store, listed)
            chunks = f"{done.chunks_before} -> {done.chunks_after} chunks"
            typer.echo(f"{store.path}: {done.dropped:,} rows dropped, {chunks}")
        else:
            digests = (digest for rows in store.chunks().values() for digest in rows["digest"].to_pylist())
            unlisted = sum(digest not in listed for digest in digests)
            typer.echo(f"{store.path}: {unlisted:,} rows would be dropped")
    if not yes:
        typer.echo("Nothing was changed. Other run files may share these stores: name them all, then add --yes.")
