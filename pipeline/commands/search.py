"""``permafrost search``: the images of a run's gallery that are nearest to an image of yours."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from cache import FeatureStore, parse_source
from cache.errors import ConfigError, RecordsError, StaleStoreError
from cache.fusion import image_proportions
from pipeline.approximate_scores import find_index
from pipeline.backbones import load_for_extraction
from pipeline.commands.options import Json, Quiet, RunFile
from pipeline.commands.threshold import Limit, limit_of
from pipeline.config import RunConfig, read_config
from pipeline.progress import Display
from pipeline.run import Vectors, find_vectors, read_dataset
from pipeline.vector_choice import choose_vectors
from stages.extraction import Backbone, DecodeError, decode
from stages.ranking import unit_length
from stages.records import Records
from stages.retrieval import FlatIndexConfig
from stages.training import FusedFeatures


def search(
    run_file: RunFile,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Images to search for: files or URIs.")],
    head: Annotated[str | None, typer.Option(help="A head of the run, or raw; by default its last head.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Search every record, not only the gallery.")] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="How many images to print for each.")] = 10,
    fmr: Annotated[float | None, typer.Option(help="Only matches, by the threshold kept for this FMR.")] = None,
    fpir: Annotated[float | None, typer.Option(help="Only matches, by the threshold kept for this FPIR.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Only matches, from this similarity on.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the images of the run's gallery that are nearest to yours, or that there is no match."""
    limits = {"fmr": fmr, "fpir": fpir, "threshold": threshold}
    asked = [(kind, value) for kind, value in limits.items() if value is not None]
    if len(asked) > 1:
        raise ConfigError(f"one of --fmr, --fpir and --threshold says what a match is; got {len(asked)} of them")
    if limits.get("fpir") is not None and everything:
        raise ConfigError("--fpir holds for the gallery that it was chosen for, and not for --all: leave one out")
    config, display = read_config(run_file), Display(quiet=quiet)
    records = read_dataset(config, display)
    found = choose_vectors(config, run_file, find_vectors(config, records, display), head, None)
    limit = limit_of(config, run_file, found, records, asked[0]) if asked else None
    gallery = records if everything else records.split("gallery")
    searched = (
        f"all {len(gallery):,} images" if everything else f"the gallery ({len(gallery):,} of {len(records):,} images)"
    )
    display.say(f"searching {searched} with {found.backbone} {found.head}; --all and --head choose otherwise")
    part = "all" if everything else "gallery"
    index = find_index(config, records, gallery, found.backbone, found.head, found.store, part, display)
    keys, labels, uris = gallery.keys, gallery.labels, gallery.uris
    places = {key: row for row, key in enumerate(keys)}
    searching = _embed(config, images, found, records, display)
    rows, similarity = index.search(searching, k)
    if limit is not None:
        if not isinstance(index.config, FlatIndexConfig):
            rows, similarity = _compared(found, gallery, [places[key] for key in index.keys], rows, searching)
        display.say(f"a match has a similarity of at least {limit.threshold:.4f}: {limit.said}")
    for image, nearest, scores in zip(images, rows, similarity, strict=True):
        if limit is not None and not scores[0] >= limit.threshold:
            typer.echo(_no_match(image, float(scores[0]), limit, json=json))
            continue
        for rank, (row, score) in enumerate(zip(nearest, scores, strict=True), 1):
            if row < 0 or (limit is not None and score < limit.threshold):
                break
            place = places[index.keys[row]]  # it is built of the gallery as it is: ids are its rows
            line = {
                "image": image,
                "rank": rank,
                "similarity": round(float(score), 6),
                "label": labels[place],
                "key": keys[place],
                "uri": uris[place],
            }
            if limit is not None:
                line |= {"match": True, "threshold": limit.threshold, "rate": limit.rate}
            text = f"{rank:>3}  {line['similarity']:.3f}  {line['label'] or '-'}  {line['uri']}"
            typer.echo(json_module.dumps(line) if json else f"{image}\n{text}" if rank == 1 else text)


def _compared(
    found: Vectors,
    gallery: Records,
    place: Sequence[int],
    rows: npt.NDArray[np.int64],
    queries: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The ``rows`` (Q, k) that an index of codes found, by their similarity: a threshold is of that, not of codes."""
    similarity = np.full(rows.shape, -np.inf, np.float32)
    digests = gallery.digests
    for at, some in enumerate(rows):
        known = np.flatnonzero(some >= 0)
        vectors = unit_length(found.store.read([digests[place[row]] for row in some[known]]))
        similarity[at, known] = vectors @ queries[at]
    order = np.argsort(-similarity, axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarity, order, axis=1)


def _no_match(image: str, nearest: float, limit: Limit, *, json: bool) -> str:
    """What is said of an image that is like none in the gallery."""
    line = {
        "image": image,
        "rank": None,
        "similarity": round(nearest, 6),
        "label": None,
        "key": None,
        "uri": None,
        "match": False,
        "threshold": limit.threshold,
        "rate": limit.rate,
    }
    return json_module.dumps(line) if json else f"{image}\n  no match: the nearest has {nearest:.4f}; {limit.said}"


def _embed(
    config: RunConfig, images: list[str], found: Vectors, records: Records, display: Display
) -> npt.NDArray[np.float32]:
    try:
        pictures = [decode(of.read(), box=of.box) for of in map(parse_source, images)]
    except (OSError, DecodeError) as error:
        raise RecordsError(f"an image to search for cannot be read: {error}") from error
    fused = found.features if isinstance(found.features, FusedFeatures) else None
    stores = (found.features,) if isinstance(found.features, FeatureStore) else found.features.stores
    parts = []
    for store in stores:
        backbone = _backbone_of(store, config, records, display)
        parts.append(backbone.features(np.stack([backbone.preprocess(picture) for picture in pictures])))
    sizes = image_proportions(*np.array([picture.shape[:2] for picture in pictures]).T)
    features = parts[0] if fused is None else fused.unite(parts, sizes if fused.sizes else None)
    return unit_length(features if found.trained is None else found.trained(features))


def _backbone_of(store: FeatureStore, config: RunConfig, records: Records, display: Display) -> Backbone:
    """The backbone of the run that filled ``store``."""
    for wanted in config.backbones:
        for backbone in load_for_extraction(wanted, records, Path(config.artifacts), "cpu", display):
            if all(store.identity.fields.get(key) == value for key, value in backbone.identity.fields.items()):
                return backbone
    raise StaleStoreError(
        store.path, ["backbone: none of the run file"], "Run `permafrost extract` with this run file."
    )
