"""What was made from features and no run file names any more: heads, embeddings, indexes, searchers, scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from cache import FeatureStore
from cache.errors import RecordsError
from cache.lock import writer_lock
from pipeline.approximate_scores import index_key
from pipeline.dataset import Run
from pipeline.features import feature_sets
from pipeline.heads import head_key, training_arguments
from pipeline.score_rows import RAW
from pipeline.stores import stores_below
from pipeline.vectors import Vectors

_GONE = ".removed"


def unnamed(folder: Path, runs: Sequence[Run]) -> list[Path]:
    """The files and folders below the artifacts ``folder`` that none of ``runs`` would use, by path.

    Raises MissingRowsError where the features of a run are not extracted, as its heads cannot be told then.
    """
    embeddings, names = stores_below(folder / "embeddings"), {run.name for run in runs}
    named = {path for run in runs for path in _named(run, embeddings)}
    made = (path for pattern in ("heads/*/*", "embeddings/*/*", "indexes/*/*") for path in folder.glob(pattern))
    gone = [path for path in made if path.suffix != ".lock" and not {path, path.with_suffix("")} & named]  # checkpoints
    gone += [path.parent for path in folder.glob("searchers/*/*/searcher.json") if not _used(path, folder, named)]
    of_runs = (path for pattern in ("scores/*", "thresholds/*", "reports/*") for path in folder.glob(pattern))
    gone += [path for path in of_runs if not any(f"{path.name}.".startswith(f"{name}.") for name in names)]
    return sorted(gone)


def _named(run: Run, embeddings: Sequence[FeatureStore]) -> Iterator[Path]:
    from stages.training import head_identity

    parts = [run.records.split("gallery"), run.records]
    for backbone, features, heads, _ in feature_sets(run):
        for part in parts:
            yield run.artifacts / index_key(run, part, Vectors(backbone, RAW, features, features))
        for head in heads:
            try:
                identity = head_identity(**training_arguments(run, head, features))
            except RecordsError:  # it cannot be trained on these records, so it was not
                continue
            yield run.artifacts / head_key(head.name, features, identity)
            for store in embeddings:
                if store.identity.fields.get("head") == identity.fingerprint:
                    yield store.path
                    for part in parts:
                        yield run.artifacts / index_key(run, part, Vectors(backbone, head.name, store, features))


def _used(path: Path, folder: Path, named: set[Path]) -> bool:
    """Whether the searcher at ``path`` is of an index and a head that are named."""
    try:
        described = json.loads(path.read_bytes())
        needed = [described["index"]["folder"], *filter(None, [described["head"]])]
        return all(folder / part in named for part in needed)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


def remove(path: Path) -> None:
    """Remove a file, or a folder at once: under a name that nothing reads its files go one by one.

    Raises StoreBusyError where it is a store that is being written.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with writer_lock(path) if (path / "identity.json").exists() else nullcontext():
        gone = path if path.suffix == _GONE else path.rename(path.with_name(path.name + _GONE))
        shutil.rmtree(gone)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
