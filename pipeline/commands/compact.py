"""``permafrost compact``: drop the rows that none of the run files lists, and heads and scores that none names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from cache import FeatureStore
from cache import compact as compact_store
from cache.errors import DamagedStoreError, RecordsError, StoreError, WeightsError
from cache.fingerprint import JSON
from cache.lock import writer_lock
from cache.storage import storage_of
from pipeline.commands.options import RunFiles, stores_below
from pipeline.config import RAW
from pipeline.dataset import Run, feature_sets, open_run
from pipeline.scores import index_key
from pipeline.vectors import Vectors, head_key, training_arguments
from stages.training import Head, head_identity

_MADE = ("heads/*/*", "embeddings/*/*", "indexes/*/*", "searchers/*/*")  # the last by earlier versions alone


def compact(
    run_files: RunFiles,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be dropped.")] = False,
) -> None:
    """Drop the rows that none of the run files lists, and heads, embeddings, indexes and scores that none names."""
    runs: dict[Path, list[Run]] = {}
    for run_file in run_files:
        run = open_run(run_file, quiet=True)
        runs.setdefault(run.artifacts, []).extend([run, *_as_it_was(run)])
    listed = {digest for named in runs.values() for run in named for digest in run.records.digests}
    for folder, named in sorted(runs.items()):
        gone = _unnamed(folder, named)
        for path in gone:
            megabytes = f"{size_of(path) / 1e6:,.1f} MB"
            if yes:
                _remove(path)
            typer.echo(f"{path}: {megabytes} {'removed' if yes else 'would be removed'}, as no run file names it")
        for store in map(FeatureStore, stores_below(storage_of(folder))):
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


def _as_it_was(run: Run) -> list[Run]:
    """The ``run`` with the digests that images had which cannot be read now, where there are any; they are named.

    StoreError where an image may have a row that is not known to be its own.
    """
    records, unread = run.records, run.records.unreadable().uris
    if not unread:
        return []
    known = dict(zip(unread, run.digests.remembered(unread), strict=True))
    column = [digest or known.get(uri) for uri, digest in zip(records.uris, records.digests, strict=True)]
    place, field = records.table.schema.get_field_index("digest"), records.table.schema.field("digest")
    before = replace(records, table=records.table.set_column(place, field, pa.array(column, field.type)))
    if lost := [uri for uri in before.unreadable().uris if not Path(uri).is_symlink()]:
        raise StoreError(
            f"{len(lost):,} images of {run.file} cannot be read now, the first of them {lost[0]}, so their rows cannot "
            "be told from those that no dataset lists. Bring them back (is a disk missing?), or drop them from the "
            "table."
        )
    typer.echo(
        f"{len(unread):,} images of {run.file} cannot be read now, the first of them {unread[0]}: "
        "rows of what they were when they were read last stay"
    )
    return [replace(run, records=before)]


def _unnamed(folder: Path, runs: Sequence[Run]) -> list[Path]:
    """The files and folders below the artifacts ``folder`` that none of ``runs`` would use, by path.

    Raises MissingRowsError where the features of a run are not extracted, as its heads cannot be told then.
    """
    embeddings = [FeatureStore(storage) for storage in stores_below(storage_of(folder / "embeddings"))]
    names = {run.name for run in runs}
    named = {path for run in runs for path in _named(run, embeddings)}
    made = (path for pattern in _MADE for path in folder.glob(pattern))
    own = (path for path in made if not {path, path.with_suffix("")} & named)  # a head's checkpoint is beside it
    gone = [path for path in own if path.suffix != ".lock"]
    of_runs = (path for pattern in ("scores/*", "thresholds/*", "reports/*") for path in folder.glob(pattern))
    gone += [path for path in of_runs if not any(f"{path.name}.".startswith(f"{name}.") for name in names)]
    return sorted(gone)


def _named(run: Run, embeddings: Sequence[FeatureStore]) -> Iterator[Path]:
    parts = [run.records.split("gallery"), run.records]
    for backbone, features, heads, _ in feature_sets(run):
        for part in parts:
            yield run.artifacts / index_key(run, part, Vectors(backbone, RAW, features, features))
        for head in heads:
            try:
                identity = head_identity(**training_arguments(run, head, features))
            except RecordsError:  # it cannot be trained on these records, so it was not
                continue
            saved = run.artifacts / head_key(head.name, features, identity)
            yield saved
            made_by: dict[str, JSON] = {"head": identity.fingerprint}
            with suppress(WeightsError, DamagedStoreError):  # without the head nothing is of its weights
                made_by["weights"] = Head.load(saved).weights_digest
            for store in embeddings:
                if {name: store.identity.fields.get(name) for name in ("head", "weights")} == made_by:
                    yield store.path
                    for part in parts:
                        yield run.artifacts / index_key(run, part, Vectors(backbone, head.name, store, features))


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


def _remove(path: Path) -> None:
    """Remove a file, or a folder at once: under a name that nothing reads its files go one by one."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with writer_lock(path) if (path / "identity.json").exists() else nullcontext():
        gone = path if path.suffix == ".removed" else path.rename(path.with_name(path.name + ".removed"))
        shutil.rmtree(gone)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
