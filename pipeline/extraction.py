"""Stage 1 of a run file: what would be computed, and computing it, in one pass over the images for all backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from cache import FeatureStore
from cache.digest_list import DigestIndex, as_digests
from cache.errors import ConfigError, NothingToScoreError, SettingsError
from cache.features import fused_name
from pipeline.dataset import Run, sources_of
from pipeline.progress import Display
from pipeline.scores import check_by_label
from pipeline.vectors import of_head
from stages.extraction import Backbone, Clock, Filled, Plan, Progress, extract_all, plan_extraction
from stages.extraction.embedder import ONE_COLOUR
from stages.extraction.flow import Pace
from stages.extraction.known import known_backbones
from stages.extraction.precomputed import PrecomputedConfig, import_features
from stages.extraction.ray_executor import RayExecutor
from stages.ranking.relevance import own_rows
from stages.ray_cluster import RayCluster
from stages.records import Records
from stages.retrieval import AutoIndexConfig, FlatIndexConfig
from stages.retrieval.evaluate import check_scores
from stages.retrieval.indexes.auto import FEWEST_QUERIES, too_few_queries
from stages.training.training_inputs import check_records

_SHOWN = 5
_STARVED = 0.1  # of the network's time: waiting longer than that, it is not the network that the run waits for
_SIZES = 3  # features that the proportions of an image are


class Hardware(NamedTuple):
    """How a run is done; none of it changes an identity."""

    device: str = "cpu"
    batch_size: int | None = None
    workers: int | None = None
    retry_failed: bool = False
    wait: bool = False
    cluster: RayCluster | None = None


class Failed(NamedTuple):
    """A record without a feature, and why."""

    key: str
    uri: str
    reason: str


class Extracted(NamedTuple):
    """What stage 1 did for one backbone: images computed now, there already, and records without a feature."""

    features: FeatureStore
    computed: int
    present: int
    failures: list[Failed]


def _backbones(run: Run, hardware: Hardware) -> list[Backbone]:
    """Every backbone that runs over the images; raises what training and scoring would where that is seen now."""
    check_run(run)
    folder, on_load = run.storage.below("features"), run.display.say
    backbones = [
        backbone
        for wanted in run.config.backbones
        if not isinstance(wanted, PrecomputedConfig)
        for backbone in known_backbones(wanted, run.records, folder, device=hardware.device, on_load=on_load)
    ]
    identities = [backbone.identity.fingerprint for backbone in backbones]
    for at, backbone in enumerate(backbones):
        if (first := identities.index(identities[at])) < at:
            raise ConfigError(
                f"{backbones[first].name} and {backbone.name} of [[backbones]] compute the same numbers: drop one"
            )
    if not any(isinstance(wanted, PrecomputedConfig) for wanted in run.config.backbones):  # which a head may name
        check_backbones(run, backbones)
    return backbones


def plan_features(run: Run, hardware: Hardware) -> Plan:
    """What stage 1 would compute, with the time it would take by a timed sample."""
    if not (backbones := _backbones(run, hardware)):
        raise ConfigError("every one of [[backbones]] is read from a file: there is nothing to plan for")
    run.display.say("timing a sample of the images")
    return plan_extraction(run.records, backbones, run.storage.below("features"), **_settings(run, hardware))


def _settings(run: Run, hardware: Hardware) -> dict[str, Any]:
    return {
        "batch_size": hardware.batch_size,
        "workers": hardware.workers,
        "dtype": run.config.extraction.dtype,
        "retry_failed": hardware.retry_failed,
    }


def extract_features(run: Run, hardware: Hardware) -> list[Extracted]:
    """Stage 1: fill the feature stores of all backbones, those whose features come from a file last."""
    backbones = _backbones(run, hardware)
    done = _extracted(run, hardware, backbones) if backbones else []
    for wanted in run.config.backbones:
        if isinstance(wanted, PrecomputedConfig):
            run.display.say(f"reading {wanted.name} from {wanted.path}")
            how: dict[str, Any] = {"dtype": run.config.extraction.dtype, "retry_failed": hardware.retry_failed}
            how |= {"wait": hardware.wait, "digests": run.digests}
            done.append(import_features(wanted, run.records, run.storage.below("features"), **how))
    images = len(run.records.digests.readable().unique())
    summaries = []
    for filled in done:
        failures = _failed(filled.store, run.records)
        summaries.append(Extracted(filled.store, filled.computed, images - filled.computed, failures))
        _say(summaries[-1], run.records, run.display)
    return summaries


def _extracted(run: Run, hardware: Hardware, backbones: Sequence[Backbone]) -> list[Filled]:
    """One pass over the images for all networks."""
    records, display = run.records, run.display
    what = backbones[0].name if len(backbones) == 1 else f"{len(backbones)} backbones in one pass"
    with display.bar(f"extracting {what}", "images") as update:

        def report(progress: Progress) -> None:
            failed = f"{progress.failed:,} failed, " if progress.failed else ""
            workers = "" if hardware.cluster is None else f"; {paces_text(progress.clock.workers)}"
            update(progress.done, progress.total, failed + bottleneck(progress.clock) + workers)
            paces.update(progress.clock.workers)

        paces: dict[str, Pace] = {}
        filled = extract_all(
            records,
            backbones,
            run.storage.below("features"),
            wait=hardware.wait,
            on_progress=report,
            executor=None if hardware.cluster is None else RayExecutor(hardware.cluster, hardware.workers),
            **_settings(run, hardware),
        )
    for name, pace in paces.items():
        display.say(f"worker {name}: {pace.images:,} images, {_pace_text(pace)}")
    return filled


def paces_text(workers: Mapping[str, Pace]) -> str:
    """The images a second of each worker and what it waits for; of many, of the slowest.

    >>> paces_text({"one:7": Pace(90, 3.0, Clock(network=1.0)), "two:8": Pace(50, 5.0, Clock(waiting=9.0))})
    'one:7 30 images/s, waits for the backbone; two:8 10 images/s, waits for reading and decoding'
    """
    if not workers:
        return "no worker of the cluster has begun"
    if len(workers) <= _SHOWN:
        return "; ".join(f"{name} {_pace_text(pace)}" for name, pace in workers.items())
    slowest, *_, fastest = sorted(workers, key=lambda name: _rate(workers[name]))
    low, high = _rate(workers[slowest]), _rate(workers[fastest])
    slow = f"the slowest is {slowest}: {_pace_text(workers[slowest])}"
    return f"{len(workers):,} workers, {low:.3g} to {high:.3g} images/s; {slow}"


def _rate(pace: Pace) -> float:
    return pace.images / pace.seconds


def _pace_text(pace: Pace) -> str:
    return f"{_rate(pace):.3g} images/s, waits for {_awaited(pace.clock)}"


def bottleneck(clock: Clock) -> str:
    """What the run waits for, and how much of the rate of its networks alone it reaches."""
    share = clock.network / max(1e-9, clock.network + clock.waiting)
    return f"{share:.0%} of the backbone's own rate; waits for {_awaited(clock)}"


def _awaited(clock: Clock) -> str:
    if clock.writing > clock.network + clock.waiting:
        return "writing"
    return "reading and decoding" if clock.waiting > _STARVED * clock.network else "the backbone"


def _say(extracted: Extracted, records: Records, display: Display) -> None:
    computed, failures, images = extracted.computed, extracted.failures, extracted.computed + extracted.present
    of_images = f" of {images:,} different images" if images < len(records) else ""
    opened = f"{computed:,} images computed, {extracted.present:,} stored already"
    opened = opened if computed else "all images are in the store already, so none was opened"
    display.say(
        f"extract {extracted.features.name}: {opened}; {len(failures):,} of {len(records):,} records{of_images} failed"
    )
    reasons = {f"{failed.key} ({failed.uri})": failed.reason for failed in failures}
    display.list_failed(reasons, "; `permafrost extract --json` lists them", shown=_SHOWN)
    if computed and (flat := _of_one_colour(extracted.features, records)):
        display.warn(f"  {len(flat):,} images decode to one colour, and say nothing: {', '.join(flat[:_SHOWN])}")


def _of_one_colour(features: FeatureStore, records: Records) -> list[str]:
    noted = {
        digest
        for rows in features.chunks().values()
        for digest in rows.filter(pc.equal(rows["error"], ONE_COLOUR))["digest"].to_pylist()
    }
    return [key for key, digest in zip(records.keys, records.digests, strict=True) if digest in noted]


def _failed(features: FeatureStore, records: Records) -> list[Failed]:
    failures, digests = features.failures(records.digests), records.digests
    reasons = {failure.digest: failure.outcome.error for failure in failures}
    bad = DigestIndex(as_digests([*reasons])).find(digests) >= 0
    rows = records.take(np.flatnonzero(bad | ~digests.all_known())).table
    return [
        Failed(row["key"], row["uri"], reasons.get(row["digest"]) or row["problem"])
        for row in rows.select(["key", "uri", "digest", "problem"]).to_pylist()
    ]


def check_run(run: Run) -> None:
    """Raise what training a head and scoring would raise later, as far as the records show it.

    Images without any label are extracted and searched: then nothing is asked of labels.
    """
    if not run.records.has_labels:
        return
    train = run.records.split("train")
    for head in run.config.heads:
        with of_head(head.name):
            check_records(train, head.recipe)
    queries, gallery = run.records.split("query"), run.records.split("gallery")
    if not len(queries) or not len(gallery):
        return
    retrieval = run.config.retrieval
    check_scores(run.records, retrieval)
    if not isinstance(retrieval.index, FlatIndexConfig) or retrieval.rerank:
        check_by_label(run)
    if isinstance(retrieval.index, AutoIndexConfig):
        _check_auto(run, gallery)


def check_backbones(run: Run, backbones: Sequence[Backbone]) -> None:
    """Raise where a head names a backbone that is not there, or is larger than the features of its backbones allow."""
    dims = {backbone.name: backbone.dim for backbone in backbones}
    if len(dims) < len(backbones) or not run.records.has_labels:
        return  # stores of one name are called by their folders
    for head in run.config.heads:
        for sources in sources_of(head, list(dims)):
            dim = sum(dims[name] for name in sources) + _SIZES * head.sizes
            if (closed_form := head.recipe.closed_form) is not None and closed_form.dim > dim:
                raise SettingsError(
                    f"{head.name} on {fused_name(sources, sizes=head.sizes)}: dim is {closed_form.dim:,}, but features "
                    f"of {dim:,} dimensions give {closed_form.kind} at most {dim:,}: set dim to {dim:,} or less"
                )


def _check_auto(run: Run, gallery: Records) -> None:
    judge = run.config.retrieval.ranked.judge
    counts = []
    for queries in (run.records.split("validation_query"), gallery):
        relevant = judge(queries, gallery).num_relevant(own_rows(queries.keys, gallery.keys))
        counts.append(int(np.count_nonzero(relevant)))
    if max(counts) < FEWEST_QUERIES:
        raise NothingToScoreError(too_few_queries(max(counts)))
