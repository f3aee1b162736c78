"""``permafrost plan``: say what `extract` would compute: images, bytes, time. Writes no feature."""

from __future__ import annotations

from collections.abc import Iterator

from cache.errors import DamagedStoreError, MissingRowsError, StaleStoreError
from pipeline.commands.options import BatchSize, Device, Json, Quiet, RetryFailed, RunFile, Workers, emit
from pipeline.dataset import Run, feature_sets, open_run
from pipeline.extraction import Hardware, bottleneck, plan_features
from pipeline.progress import duration_text
from pipeline.vectors import find_head
from stages.extraction import Plan
from stages.training.embed import Embedded, stored_embeddings


def plan(
    run_file: RunFile,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what `extract` would compute: images, bytes, time; and which heads are to be trained. Writes no feature."""
    run = open_run(run_file, quiet=quiet, workers=workers)
    planned = plan_features(run, Hardware(device, batch_size, workers, retry_failed))
    heads = list(_heads(run))
    emit(json, _text(planned), *_lines(planned))
    for line in heads:
        emit(json, f"{line['head']} on {line['backbone']}: {line['state']}", line)


def _heads(run: Run) -> Iterator[dict[str, str]]:
    """Every head of the run, what it learns from, and whether it is there; without all features, none is."""
    try:
        sets = feature_sets(run)
    except (MissingRowsError, StaleStoreError):
        for wanted in run.config.heads:
            yield {"backbone": "features that are extracted first", "head": wanted.name, "state": "to train"}
        return
    for part in sets:
        for wanted in part.heads:
            try:
                head = find_head(run, wanted, part.name, part.features)
            except (MissingRowsError, DamagedStoreError):
                state = "to train"
            else:
                path = run.storage.below(f"embeddings/{part.features.name}")
                stored = stored_embeddings(head, part.features, path, name=wanted.name, digests=run.records.digests)
                state = "trained, to embed" if isinstance(stored, Embedded) else "there"
            yield {"backbone": part.name, "head": wanted.name, "state": state}


def _lines(plan: Plan) -> list[dict[str, object]]:
    """A flat object for each backbone, then one for the whole pass."""
    names = ("present", "failed", "bytes_now", "bytes_more")
    lines: list[dict[str, object]] = [
        {"backbone": line.backbone.name, "images": line.todo, **{name: getattr(line, name) for name in names}}
        for line in plan.backbones
    ]
    rate = plan.images / plan.seconds if plan.seconds else None
    return [*lines, {"backbone": "all", "images": plan.images, "seconds": plan.seconds, "images_per_second": rate}]


def _text(plan: Plan) -> str:
    rows = [
        f"{line.backbone.name}: {line.todo:,} images to do, {line.present:,} there, {line.failed:,} known to fail; "
        f"{line.bytes_now / 1e6:,.1f} MB on disk, {line.bytes_more / 1e6:,.1f} MB more"
        for line in plan.backbones
    ]
    if not plan.images:
        return "\n".join([*rows, "nothing to do: no image would be opened"])
    pace = f"{plan.images / plan.seconds:,.0f} images/s; {bottleneck(plan.clock)}"
    return "\n".join([*rows, f"one pass over {plan.images:,} images: about {duration_text(plan.seconds)} ({pace})"])
