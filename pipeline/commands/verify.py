"""The command ``verify``."""

from __future__ import annotations

import json as json_module

import typer

from cache import verify as verify_store
from pipeline.commands.options import Json, RunFileOrStore
from pipeline.stores import find_stores


def verify(path: RunFileOrStore, json: Json = False) -> None:
    """Check every checksum and every row of the stores."""
    sound = True
    for store in find_stores(path):
        problems = verify_store(store)
        sound &= not problems
        if json:
            line = {"store": str(store.path), "chunks": len(store.chunks()), "images": len(store), "problems": problems}
            typer.echo(json_module.dumps(line))
        else:
            verdict = f"{len(problems):,} problems" if problems else "every checksum and row is right"
            typer.echo(f"{store.path}: {len(store.chunks()):,} chunks, {len(store):,} images: {verdict}")
            for problem in problems:
                typer.echo(f"  {problem}")
    if not sound:
        raise typer.Exit(1)
