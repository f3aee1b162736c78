"""What a backbone computes of one fixed image: by it a store notices a library that computes other numbers now.

An identity holds the weights of a network, not the code around them, so the numbers are compared: a store keeps the
sample of the network that filled it in ``network.json``, and whoever opens the store with a backbone whose sample
differs by more than rounding is refused.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cache import FeatureStore, Provenance
from cache.errors import DamagedStoreError, WeightsError
from cache.sealed import json_text, read_json
from stages.device import compute_with, device_name
from stages.extraction.backbones import Backbone

Sample = tuple[float, ...]

_KEY = "network.json"
_MIXES = 16
# How far two samples of the same network may be apart, of the feature's length. float32: half a step of float16, in
# which features are stored; the others round by themselves, and differently on another processor.
_ROUNDING = {"float32": 2.0**-11, "tf32": 2.0**-7, "bfloat16": 2.0**-3}


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
            f"{store.storage.address(_KEY)} cannot be read: {error}. Delete it: it is written again."
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
