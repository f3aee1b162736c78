"""``permafrost search``: the images of a run's gallery that are nearest to an image of yours."""

from __future__ import annotations

import json as json_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import typer

from cache import FeatureStore, parse_source
from cache.errors import ConfigError, RecordsError, StaleStoreError
from pipeline.backbones import load_for_extraction
from pipeline.config import RunConfig, read_config
from pipeline.other_scores import find_index
from pipeline.progress import Display
from pipeline.run import RAW, Vectors, find_vectors, read_dataset
from stages.extraction import Backbone, DecodeError, decode
from stages.records import Records
from stages.retrieval import unit_length
from stages.training import FusedFeatures, image_proportions


def search_images(
    run_file: Path, images: list[str], head: str | None, k: int, *, everything: bool, json: bool, quiet: bool
) -> None:
    """Embed ``images`` with ``head`` (by default the run's last) on its first backbone, and print the k nearest."""
    config, display = read_config(run_file), Display(quiet=quiet)
    records = read_dataset(config, display)
    name = head or (config.heads[-1].name if config.heads else RAW)
    vectors = find_vectors(config, records, display)
    found = next((of for of in vectors if of.head == name), None)
    if found is None:
        known = ", ".join(dict.fromkeys(of.head for of in vectors))
        raise ConfigError(f"{run_file} has no head {name!r}; it has {known}")
    gallery = records if everything else records.split("gallery")
    searched = (
        f"all {len(gallery):,} images" if everything else f"the gallery ({len(gallery):,} of {len(records):,} images)"
    )
    display.say(f"searching {searched} with {found.backbone} {found.head}; --all and --head choose otherwise")
    part = "all" if everything else "gallery"
    index = find_index(config, records, gallery, found.backbone, found.head, found.store, part, display)
    keys, labels, uris = gallery.keys, gallery.labels, gallery.uris
    places = {key: row for row, key in enumerate(keys)}
    rows, similarity = index.search(_embed(config, images, found, records, display), k)
    for image, nearest, scores in zip(images, rows, similarity, strict=True):
        for rank, (row, score) in enumerate(zip(nearest, scores, strict=True), 1):
            if row < 0:
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
            text = f"{rank:>3}  {line['similarity']:.3f}  {line['label'] or '-'}  {line['uri']}"
            typer.echo(json_module.dumps(line) if json else f"{image}\n{text}" if rank == 1 else text)


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
