"""The commands that look after stores: inspect, verify, compact."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path

import typer

from cache import FeatureStore
from cache import compact as compact_store
from cache import verify as verify_store
from cache.errors import StoreError
from pipeline.config import read_config
from pipeline.progress import Display


def inspect(what: Path, *, json: bool) -> None:
    """One block a store; with a run file, failures by their keys."""
    names: dict[bytes, str] = {}
    if what.suffix == ".toml":
        from pipeline.run import read_dataset

        records = read_dataset(read_config(what), Display(quiet=True))
        names = dict(zip(records.digests, records.uris, strict=True))
    for store in find_stores(what):
        counts = store.counts()
        failures = [
            {
                "digest": failure.digest.hex(),
                "image": names.get(failure.digest),
                "status": failure.outcome.status,
                "reason": failure.outcome.error,
            }
            for failure in store.failures()
        ]
        facts = {
            "store": str(store.path),
            "fingerprint": store.fingerprint,
            "rows": dict(sorted(counts.items())),
            "chunks": len(store.chunks()),
            "dim": store.dim,
            "dtype": str(store.dtype),
            "bytes": store.size_bytes(),
            "identity": dict(store.identity.fields),
            "provenance": json_module.loads((store.path / "provenance.json").read_text(encoding="utf-8")),
            "failures": failures,
        }
        typer.echo(json_module.dumps(facts) if json else _block(facts))


def _block(facts: dict[str, object]) -> str:
    lines = [str(facts["store"])]
    for key, value in list(facts.items())[1:]:
        if isinstance(value, dict):
            text = json_module.dumps(value, indent=2, sort_keys=True) if key == "identity" else json_module.dumps(value)
            lines.append(f"  {key}: " + text.replace("\n", "\n  "))
        elif isinstance(value, list):
            lines.append(f"  {key}: {len(value):,}")
            lines += [f"    {entry['image'] or entry['digest'][:16] + '...'}: {entry['reason']}" for entry in value]
        else:
            lines.append(f"  {key}: {value:,}" if isinstance(value, int) else f"  {key}: {value}")
    return "\n".join(lines)


def verify(what: Path, *, json: bool) -> None:
    """One line a store, and one for each problem; status 1 when there is any."""
    sound = True
    for store in find_stores(what):
        problems = verify_store(store)
        sound &= not problems
        if json:
            line = {"store": str(store.path), "chunks": len(store.chunks()), "images": len(store), "problems": problems}
            typer.echo(json_module.dumps(line))
        else:
            said = "every checksum and row is right" if not problems else f"{len(problems):,} problems"
            typer.echo(f"{store.path}: {len(store.chunks()):,} chunks, {len(store):,} images: {said}")
            for problem in problems:
                typer.echo(f"  {problem}")
    if not sound:
        raise typer.Exit(1)


def compact(run_files: Sequence[Path], *, yes: bool) -> None:
    """Drop from every store of the run files' artifacts folders what none of their datasets lists."""
    from pipeline.run import read_dataset

    display, keep, folders = Display(quiet=True), set[bytes](), set[Path]()
    for run_file in run_files:
        config = read_config(run_file)
        records = read_dataset(config, display)
        if unread := len(records.unreadable()):
            raise StoreError(
                f"{unread:,} images of {run_file} cannot be read now, so their rows cannot be told from those that no "
                "dataset lists. Bring them back (is a disk missing?), or drop them from the table."
            )
        keep |= set(records.digests)
        folders.add(Path(config.artifacts))
    for folder in sorted(folders):
        for store in stores_below(folder):
            unlisted = sum(
                digest not in keep for rows in store.chunks().values() for digest in rows["digest"].to_pylist()
            )
            if yes:
                done = compact_store(store, keep)
                typer.echo(
                    f"{store.path}: {done.dropped:,} rows dropped, {done.chunks_before} -> {done.chunks_after} chunks"
                )
            else:
                typer.echo(f"{store.path}: {unlisted:,} rows would be dropped")
    if not yes:
        typer.echo("Nothing was changed. Other run files may share these stores: name them all, then add --yes.")


def find_stores(what: Path) -> list[FeatureStore]:
    """The store in the folder ``what``, or all stores of the run file ``what``."""
    if what.is_dir() and (what / "identity.json").exists():
        return [FeatureStore.at(what)]
    if what.suffix == ".toml":
        artifacts = Path(read_config(what).artifacts)
        if stores := stores_below(artifacts):
            return stores
        raise StoreError(f"{artifacts} holds no store yet. Run `permafrost extract {what}` first.")
    if stores := stores_below(what):
        return stores
    raise StoreError(f"{what} is neither a run file nor the folder of a store")


def stores_below(folder: Path) -> list[FeatureStore]:
    """Every store in an artifacts folder, by path."""
    return [FeatureStore.at(path.parent) for path in sorted(folder.rglob("identity.json"))]
