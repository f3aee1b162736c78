"""A run's gallery, head and networks -> a bundle: written beside under another name, and renamed when it is whole.

For object storage it is written into the folder of copies on this machine, and put from there, ``bundle.json`` last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cache import LocalStorage, ObjectStorage, digest_bytes
from cache.atomic import replace_bytes, replace_text
from cache.errors import SettingsError, StoreError, WeightsError
from cache.layout import cache_folder
from cache.lock import confirm_driver, driver_lease, writer_lock
from cache.sealed import json_text
from cache.storage import storage_of
from pipeline.bundle import layout
from pipeline.bundle.card import model_card
from pipeline.bundle.layout import CARD, FILE, HEAD, THUMBNAILS, WEIGHTS, Bundle, describe_files, is_bundle
from pipeline.bundle.snapshots import CURRENT, SNAPSHOTS, Snapshot, make_current, write_snapshot
from pipeline.dataset import Run, networks_of, stores_of
from pipeline.scores import find_index
from pipeline.searcher import text_tower_of
from pipeline.thresholds import kept_shares
from pipeline.vectors import Vectors
from stages.extraction import Backbone, BackboneConfig, PcaConfig
from stages.extraction.backbones.frozen import network_bytes
from stages.extraction.executor import LIBRARIES
from stages.extraction.known import basis_key
from stages.ranking import unit_length
from stages.records import Records
from stages.retrieval import FlatIndexConfig, GalleryIndex, MilvusIndexConfig
from stages.training import FusedFeatures
from stages.training.text.sentences import DISTRIBUTION, ENCODER, WEIGHTS_SHA256

_REQUESTS = 16
_LOCK = "export.lock"


def export_bundle(
    run: Run,
    vectors: Vectors,
    path: Path | str,
    *,
    everything: bool = False,
    weights: bool = True,
    thumbnails: bool = False,
    decisions: Sequence[dict[str, Any]] = (),
) -> Bundle:
    """Write the gallery of ``run``, or with ``everything`` all its records, as a bundle of ``vectors`` into ``path``.

    ``path`` is a folder that is not there yet, or is empty; or the text of such an address. Without ``weights`` the
    networks are named, with the digests of their weights. The thresholds of ``decisions`` go along, with ``everything``
    none for an FPIR, which holds for one gallery. Raises StoreError where ``path`` holds something, SettingsError for a
    network that another machine could not find again, WeightsError for one that does not come back as it was.
    """
    _check_free(path, vectors.store.fingerprint)
    storage = storage_of(path)
    far = storage if isinstance(storage, ObjectStorage) else None
    target = Path(path).absolute() if far is None else cache_folder() / "bundles" / digest_bytes(far.url.encode()).hex()
    partial = target.with_name(f".{target.name}.partial")
    with driver_lease(far) if far else nullcontext(), writer_lock(partial / "export"):
        for entry in partial.iterdir():  # of an export that was killed
            if entry.name != _LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        holding = [decision for decision in decisions if decision["kind"] == "fmr" or not everything]
        judged = {
            "thresholds": [{k: value for k, value in decision.items() if k != "shares"} for decision in holding],
            "shares": kept_shares(decisions),
        }
        _write_parts(run, vectors, partial, judged, weights=weights, thumbnails=thumbnails)
        snapshot = _first_snapshot(run, run.records if everything else run.records.split("gallery"), vectors)
        write_snapshot(partial, snapshot)
        make_current(partial, 1)
        if thumbnails:
            with run.display.bar("drawing thumbnails", "images") as update:
                for problem in layout.write_thumbnails(LocalStorage(partial), snapshot.rows, update):
                    run.display.warn(f"no thumbnail of {problem}")
        bundle = Bundle.open(partial)
        bundle.backbones()  # what cannot be loaded again is refused now, and not on another machine
        replace_text(partial / CARD, model_card(run, vectors, bundle, len(snapshot.rows)))
        _check_free(path, vectors.store.fingerprint)
        (partial / _LOCK).unlink()
        if far is not None:
            _put(far, LocalStorage(partial))
            target = layout.copy_folder(far, bundle.described)
            shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    return Bundle.open(path)


def _check_free(path: Path | str, embeddings: str) -> None:
    """StoreError where ``path`` holds something; at an address there may be what a killed export has put."""
    storage = storage_of(path)
    if is_bundle(path):
        same = layout.description(storage)["identity"]["embeddings"] == embeddings
        what = "these embeddings" if same else "other embeddings"
        hint = f"`permafrost add {path} FOLDER` adds images to it; or n" if same else "N"
        raise StoreError(f"{path} is a bundle of {what} already. {hint}ame another folder, or delete this one first.")
    if isinstance(storage, ObjectStorage):
        parts = {CARD, CURRENT, HEAD, SNAPSHOTS, THUMBNAILS, WEIGHTS}
        if other := [key for key in storage.list() if key.split("/")[0] not in parts]:
            raise StoreError(f"{path} is not empty, it has {other[0]}: name an address under which nothing is yet.")
        return
    path = Path(path)
    if path.absolute() == Path.cwd():
        raise StoreError(f"{path} is the folder you stand in, which a bundle would take the place of: name a new one.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{path} is not an empty folder: name one that is not there yet, or empty it first.")


def _put(storage: ObjectStorage, folder: LocalStorage) -> None:
    """Put the bundle in ``folder``, whose ``bundle.json`` comes last: before that there is none."""

    def put(key: str) -> None:
        content = folder.map(key) or b""
        if not storage.put_new(key, content) and storage.read(key) != content:
            raise StoreError(
                f"{storage.address(key)} is of another export, which was not finished. Delete what is under "
                f"{storage.url}/, or name another address."
            )

    with ThreadPoolExecutor(_REQUESTS) as pool:
        list(pool.map(put, [key for key in folder.list() if key != FILE]))
    confirm_driver(storage)
    if not storage.put_new(FILE, folder.read(FILE)):
        raise StoreError(f"{storage.url} was made a bundle by another process meanwhile: name another address.")


def _write_parts(
    run: Run, vectors: Vectors, folder: Path, judged: dict[str, Any], *, weights: bool, thumbnails: bool
) -> None:
    """Write everything but the snapshot and the card, ``bundle.json`` last."""
    stores = stores_of(vectors.features)
    entries: list[dict[str, Any]] = []
    features: dict[str, tuple[int, int]] = {}
    for wanted, backbones, filled in networks_of(run, stores):
        features |= {store.fingerprint: (len(entries), output) for output, store in enumerate(filled)}
        entries.append(_entry(run, wanted, backbones, folder, len(entries), weights=weights))
    if (own := vectors.trained) is not None:
        own.save(folder / HEAD)
    words = _words(run, vectors, folder, weights=weights)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.*")) if path.is_file()]
    described: dict[str, Any] = {
        "format": layout.FORMAT,
        "version": layout.VERSION,
        "libraries": {name: version(name) for name in ("permafrost-retrieval", *LIBRARIES)},
        "backbone": vectors.backbone,
        "head": vectors.head,
        "backbones": entries,
        "features": [features[store.fingerprint] for store in stores],
        "dtype": str(np.result_type(*(store.dtype for store in stores))),
        "sizes": isinstance(vectors.features, FusedFeatures) and vectors.features.sizes,
        "identity": {
            "backbones": [[output["fingerprint"] for output in entry["outputs"]] for entry in entries],
            "features": [store.fingerprint for store in stores],
            "head": None if own is None else own.fingerprint,
            "embeddings": vectors.store.fingerprint,
            "dim": vectors.store.dim,
        },
        **judged,
        "text": words,
        "thumbnails": layout.SIDE if thumbnails else None,
        "files": describe_files(folder, [name for name in names if name != _LOCK]),
    }
    replace_text(folder / FILE, json_text(described))


def _words(run: Run, vectors: Vectors, folder: Path, *, weights: bool) -> dict[str, Any] | None:
    """What the bundle says of the encoder of words; a text tower of the backbone's own is written to ``folder``."""
    if vectors.trained is not None and vectors.trained.config.kind == "text":
        return {"encoder": ENCODER, "package": DISTRIBUTION, "sha256": WEIGHTS_SHA256, "extra": "text"}
    if (tower := text_tower_of(run, vectors)) is None:
        return None
    try:
        content = tower.weights_bytes()
    except (SettingsError, WeightsError):  # the features are not among words, or the file has the image tower alone
        return None
    name = f"{WEIGHTS}/text.safetensors" if weights else None
    if name is not None:
        replace_bytes(folder / name, content)
    return {"encoder": f"the text tower of {tower.config.name}", "weights": name}


def _entry(
    run: Run, wanted: BackboneConfig, backbones: Sequence[Backbone], folder: Path, number: int, *, weights: bool
) -> dict[str, Any]:
    """What the bundle says of one network, whose file is written to ``folder``."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(wanted)))
    name = f"{WEIGHTS}/{number}-{backbones[0].name}.safetensors"
    entry: dict[str, Any] = {"config": settings, "weights": None, "basis": None}
    if isinstance(wanted, PcaConfig):
        entry["basis"] = name
        replace_bytes(folder / name, run.storage.read(f"features/{basis_key(wanted, run.records)}"))
    elif weights:
        if ":" in wanted.name:
            raise SettingsError(f"{wanted.name} is built from a configuration of the Hub: export it with --no-weights")
        run.display.say(f"loading {wanted.name}")
        entry["weights"] = name
        replace_bytes(folder / name, network_bytes(backbones[0]))
    elif settings.get("weights") not in (None, "random"):
        raise SettingsError(
            f"the weights of {wanted.name} are the file {settings['weights']}, which another machine has not: export "
            "it without --no-weights"
        )
    entry["outputs"] = [
        {
            "name": backbone.name,
            "dim": backbone.dim,
            "fingerprint": backbone.identity.fingerprint,
            "identity": dict(backbone.identity.fields),
            "sample": [*backbone.sample],
        }
        for backbone in backbones
    ]
    return entry


def _first_snapshot(run: Run, part: Records, vectors: Vectors) -> Snapshot:
    """The images of ``part`` that have an embedding, with the ids from 0."""
    part = part.take(part.rows_in(vectors.store))
    rows = unit_length(vectors.store.read(part.digests))
    embeddings = vectors.store.fingerprint
    config = run.config.retrieval.index
    if isinstance(config, FlatIndexConfig):
        index = GalleryIndex.build(rows, part.keys, embeddings)
    elif isinstance(config, MilvusIndexConfig):
        raise SettingsError("a bundle opens without a server: name another kind of index than milvus to export it")
    else:
        built = find_index(run, part, vectors)
        assert isinstance(built, GalleryIndex)
        index = GalleryIndex(
            built.index, part.keys, embeddings, built.config, originals=built.originals, mapped=built.mapped
        )
    attributes = [name for name in part.table.column_names if name.startswith("attributes.")]
    names = ["key", "label", "uri", "digest", "domain", *attributes]
    types = {"digest": pa.binary(32)}
    table = pa.table({name: part.table[name].cast(types.get(name, pa.string())) for name in names})
    return Snapshot(1, table.add_column(0, "id", pa.array(index.ids)), rows, index)
