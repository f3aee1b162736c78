"""``permafrost verify``: check every checksum and every row of the stores."""

from __future__ import annotations

from itertools import chain

import typer

from cache.storage import storage_of
from pipeline import stores
from pipeline.commands.options import Json, RunFileOrStore, emit
from pipeline.config import read_config


def verify(path: RunFileOrStore, json: Json = False) -> None:
    """Check every checksum and every row of the stores, and with a run file every head, index and score too."""
    sound = True
    files = stores.verify_files(storage_of(read_config(path).artifacts)) if stores.is_run_file(path) else ()
    for verified in chain(stores.verify_stores(stores.find_stores(path)), files):
        problems, store = verified.problems, verified.store
        sound &= not problems
        if store is not None:
            chunks, images = len(store.chunks()), len(store)
            verdict = f"{len(problems):,} problems" if problems else "every checksum and row is right"
            text = [f"{store.address}: {chunks:,} chunks, {images:,} images: {verdict}", *problems]
            line = {"store": store.address, "chunks": chunks, "images": images, "problems": problems}
            emit(json, "\n  ".join(text), line)
        else:
            emit(json, problems[0], {"file": verified.address, "problems": problems})
    if not sound:
        raise typer.Exit(1)
