"""``permafrost inspect``: print what a store holds: identity, provenance, rows, failures, bytes."""

from __future__ import annotations

import json as json_module
from typing import Any

from cache import FeatureStore, Provenance
from pipeline.commands.options import Json, RunFileOrStore, emit, find_stores, is_run_file
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.progress import Display


def inspect(path: RunFileOrStore, json: Json = False) -> None:
    """Print what a store holds: identity, provenance, rows, failures, bytes."""
    uris: dict[bytes, str] = {}  # with a run file, failures are named by their images
    if is_run_file(path):
        records = run_of(read_config(path), Display(quiet=True, warnings=False)).records
        uris = dict(zip(records.digests, records.uris, strict=True))
    for storage in find_stores(path):
        facts = _facts(FeatureStore(storage), uris)
        emit(json, _text(facts), facts)


def _facts(store: FeatureStore, uris: dict[bytes, str]) -> dict[str, Any]:
    return {
        "store": store.address,
        "fingerprint": store.fingerprint,
        "rows": dict(sorted(store.counts().items())),
        "chunks": len(store.chunks()),
        "dim": store.dim,
        "dtype": str(store.dtype),
        "bytes": store.size_bytes(),
        "identity": dict(store.identity.fields),
        "provenance": json_module.loads(Provenance.merged([*map(store.provenance, store.chunks())]).to_json()),
        "failures": [
            {"digest": digest.hex(), "image": uris.get(digest), "status": outcome.status, "reason": outcome.error}
            for digest, outcome in store.failures()
        ],
    }


def _text(facts: dict[str, Any]) -> str:
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
