"""At 64 bytes an image: a trained 64-number embedding in int8, PCA to 64 in int8, or OPQ codes of the whole feature?

    python -m benchmarks.equal_bytes [RUN.TOML ...]

Of each run file: its first backbone and the heads named here (trained where they are not yet), on its queries and
gallery. OPQ learns its codes from the gallery itself, which favours it. Writes ``results/equal_bytes.json``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from benchmarks.measured import machine
from cache import Features
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.progress import Display
from pipeline.vectors import find_vectors
from stages.analysis import paired_difference
from stages.records import Records
from stages.retrieval import (
    GalleryIndex,
    OpqIndexConfig,
    ScalarIndexConfig,
    Scores,
    evaluate,
    evaluate_index,
    index_gallery,
)

_RUNS = ("runs/cars.toml", "runs/fashion.toml", "runs/multi.toml")
_HEADS = ("arcface64", "lda64", "default64", "pca64")
_METRICS = ("mmp@5", "map@r", "hit@1")
_BYTES = 64


def main(run_files: list[str]) -> None:
    """Print a table for each run file, and write all rows."""
    rows = []
    for run_file in run_files:
        rows += _rows(Path(run_file))
    document = {"machine": machine(), "date": date.today().isoformat(), "rows": rows}
    Path(__file__).with_name("results").joinpath("equal_bytes.json").write_text(json.dumps(document, indent=2) + "\n")


def _rows(run_file: Path) -> list[dict[str, object]]:
    config, display = read_config(run_file), Display()
    heads = tuple(head for head in config.heads if head.name in _HEADS)
    config = replace(config, backbones=config.backbones[:1], heads=heads)
    run = run_of(config, display, run_file)
    records = run.records
    stores = {item.head: item.store for item in find_vectors(run, train=True)}
    scored: dict[str, tuple[float, Scores]] = {}
    for head, store in stores.items():
        scored[f"{head}, exact, float32"] = 4.0 * store.dim, _exact(records, store)
        if head != "raw":
            scored[f"{head}, int8"] = _through(records, store, ScalarIndexConfig(stored="int8"))
    scored["raw, OPQ codes"] = _through(records, stores["raw"], OpqIndexConfig(bytes=_BYTES))
    against = scored["raw, OPQ codes"][1]
    rows = []
    print(f"\n{run_file.stem}: {len(against.query_keys):,} queries, {against[0].gallery:,} gallery images")
    for name, (size, scores) in scored.items():
        gains = paired_difference(scores, against)
        for score, gain in zip((item for item in scores if item.domain == "all"), gains, strict=True):
            rows.append(
                {"run": run_file.stem, "what": name, "bytes": size}
                | {key: getattr(score, key) for key in ("metric", "value", "low", "high", "queries", "gallery")}
                | {"over_opq": gain.value, "over_opq_low": gain.low, "over_opq_high": gain.high}
            )
        first = rows[-len(gains)]
        print(
            f"{name:28} {size:7,.0f} bytes  "
            + "  ".join(
                f"{item.metric} {item.value:.3f} [{item.low:.3f}, {item.high:.3f}]"
                for item in scores
                if item.domain == "all"
            )
            + f"  over OPQ {first['over_opq']:+.3f} [{first['over_opq_low']:+.3f}, {first['over_opq_high']:+.3f}]"
        )
    return rows


def _exact(records: Records, store: Features) -> Scores:
    queries, gallery = records.split("query"), records.split("gallery")
    return evaluate(store, queries=queries, gallery=gallery, metrics=_METRICS)


def _through(records: Records, store: Features, kind: ScalarIndexConfig | OpqIndexConfig) -> tuple[float, Scores]:
    gallery = records.split("gallery")
    index: GalleryIndex = index_gallery(store, gallery, kind)
    scores = evaluate_index(store, index, queries=records.split("query"), gallery=gallery, metrics=_METRICS)
    # What is learned once (ranges, codes, a turn) is not counted: it does not grow with the gallery.
    return float(index.index.sa_code_size()), scores


if __name__ == "__main__":
    main(sys.argv[1:] or list(_RUNS))
