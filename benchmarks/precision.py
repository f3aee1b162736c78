"""What the fast decoder, float16 storage and a bfloat16 forward cost, on real photographs and real weights.

Each backbone goes through four ways; the reference is the exact decoder, a float32 forward and float32 storage.

    python -m benchmarks.precision

Photographs and weights are those of PERMAFROST_DATA and PERMAFROST_WEIGHTS (see runs/local_weights.toml).
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.measured import machine
from cache import FeatureStore, Identity, Provenance, RowOutcome, StoreWriter
from pipeline.config import read_config
from stages.extraction import Backbone, BackboneConfig, extract_all, load_backbone
from stages.records import read_records
from stages.retrieval import evaluate

_METRICS = ("mmp@5", "map@r", "hit@1")


def main() -> None:
    """Print the table, and write ``results/precision.json``."""
    records = read_records(read_config("runs/grocery.toml").dataset)
    configs = [*read_config("runs/grocery.toml").backbones, *read_config("runs/local_weights.toml").backbones]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        ways = [(config, way, backbone) for config in configs for way, backbone in _ways(config)]
        filled = extract_all(records, [backbone for *_, backbone in ways], scratch, dtype="float32")
        stores = [(_name(config), way, done.store) for (config, way, _), done in zip(ways, filled, strict=True)]
        stores += [
            (name, f"{way}, stored in float16", _in_float16(store, Path(scratch) / "half"))
            for name, way, store in stores
            if way != "exact"
        ]
        for name in dict.fromkeys(name for name, *_ in stores):
            mine = [(way, store) for network, way, store in stores if network == name]
            digests = mine[0][1].digests()
            truth = _unit(mine[0][1].read(digests))
            for way, store in mine:
                cosine = np.einsum("nd,nd->n", truth, _unit(store.read(digests)))
                scores = evaluate(
                    store, queries=records.split("query"), gallery=records.split("gallery"), metrics=_METRICS
                )
                values = {score.metric: score.value for score in scores}
                rows.append({"backbone": name, "way": way, "least cosine": float(cosine.min()), **values})
    for row in rows:
        print(f"{row['backbone']:40} {row['way']:36} {row['least cosine']:.6f}", end="")
        print("".join(f"  {metric} {row[metric]:.4f}" for metric in _METRICS))
    report = {"machine": machine(), "date": date.today().isoformat(), "images": len(records), "rows": rows}
    Path(__file__).with_name("results").joinpath("precision.json").write_text(json.dumps(report, indent=2) + "\n")


def _ways(config: BackboneConfig) -> list[tuple[str, Backbone]]:
    fast = replace(config.preprocess, decoder="fast")  # type: ignore[call-arg]
    exact = replace(config.preprocess, decoder="exact")  # type: ignore[call-arg]
    return [
        ("exact", load_backbone(replace(config, preprocess=exact))),  # type: ignore[call-arg]
        ("fast", load_backbone(replace(config, preprocess=fast))),  # type: ignore[call-arg]
        ("fast, bfloat16", load_backbone(replace(config, preprocess=fast, precision="bfloat16"))),  # type: ignore[call-arg]
    ]


def _name(config: BackboneConfig) -> str:
    weights = getattr(config, "weights", None)
    return Path(weights).name.removesuffix(".safetensors") if weights else config.name


def _unit(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def _in_float16(store: FeatureStore, parent: Path) -> FeatureStore:
    """A store of the same rows in float16."""
    provenance = Provenance.here("cpu", ["numpy"])
    identity = Identity({**store.identity.fields, "of": store.fingerprint})
    half = FeatureStore.open(parent, store.name, identity, dim=store.dim, dtype="float16", provenance=provenance)
    with StoreWriter(half) as writer:
        for number, chunk in enumerate(writer.plan(store.digests()).chunks):
            rows = store.chunks()[number]
            outcomes = [RowOutcome(*list(row.values())[1:]) for row in rows.to_pylist()]
            writer.commit(chunk, store.read(chunk.digests), outcomes, provenance)
    return half


if __name__ == "__main__":
    main()
