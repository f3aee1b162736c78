"""The command ``verify``."""

from __future__ import annotations

import json as json_module
from itertools import chain

import typer

from cache.storage import storage_of
from pipeline.commands.options import Json, RunFileOrStore
from pipeline.config import read_config
from pipeline.stores import find_stores, is_run_file
from pipeline.verification import verify_files, verify_stores


def verify(path: RunFileOrStore, json: Json = False) -> None:
    """Check every checksum and every row of the stores, and with a run file every head, index and score too."""
    sound = True
    files = verify_files(storage_of(read_config(path).artifacts)) if is_run_file(path) else ()
    for verified in chain(verify_stores(find_stores(path)), files):
        problems, store = verified.problems, verified.store
        sound &= not problems
        verdict = f"{len(problems):,} problems" if problems else "every checksum and row is right"
        if store is None:
            if problems:
                typer.echo(json_module.dumps({"file": verified.address, "problems": problems}) if json else problems[0])
        elif json:
            line = {"store": store.address, "chunks": len(store.chunks()), "images": len(store), "problems": problems}
            typer.echo(json_module.dumps(line))
        else:
            typer.echo(f"{store.address}: {len(store.chunks()):,} chunks, {len(store):,} images: {verdict}")
            for problem in problems:
                typer.echo(f"  {problem}")
    if not sound:
        raise typer.Exit(1)
