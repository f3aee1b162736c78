"""A network in a file of its own comes back as it was frozen, without what its configuration names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import WeightsError
from stages.extraction import BackboneConfig, BundledConfig, OpenClipConfig, TimmConfig, load_backbones
from stages.extraction.backbones import announced_backbones, timm
from stages.extraction.backbones.frozen import network_bytes

CONFIGS: dict[str, BackboneConfig] = {
    "bundled, with blocks": BundledConfig(blocks=(-2, -1)),
    "timm, of another image size": TimmConfig(name="test_vit", weights="random", image_size=96),
    "timm, two poolings": TimmConfig(name="test_vit", weights="random", pooling=("cls", "mean")),
    "open_clip, without projection": OpenClipConfig(name="ViT-S-32-alt", weights="random"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_has_the_identity_and_the_bits_of_the_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS[name]
    backbones = load_backbones(config)
    (tmp_path / "network.safetensors").write_bytes(network_bytes(backbones[0]))
    notes = [{"name": b.name, "dim": b.dim, "identity": dict(b.identity.fields)} for b in backbones]
    monkeypatch.setattr(timm, "_weights_file", lambda name: "no such package")
    stored = announced_backbones(config, notes, weights=tmp_path / "network.safetensors")
    size = backbones[0].preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
    for one, other in zip(backbones, stored, strict=True):
        np.testing.assert_array_equal(one.features(pixels), other.features(pixels))
    assert [b.identity.fingerprint for b in stored] == [b.identity.fingerprint for b in backbones]


def test_the_file_of_another_network_is_refused(tmp_path: Path) -> None:
    config = TimmConfig(name="test_vit", weights="random")
    (backbone,) = load_backbones(config)
    (other,) = load_backbones(TimmConfig(name="test_vit", weights="random", seed=1))
    (tmp_path / "network.safetensors").write_bytes(network_bytes(other))
    note = {"name": backbone.name, "dim": backbone.dim, "identity": dict(backbone.identity.fields)}
    (stored,) = announced_backbones(config, [note], weights=tmp_path / "network.safetensors")
    with pytest.raises(WeightsError, match="its weights or a library changed meanwhile"):
        stored.features(np.zeros((1, 3, backbone.preprocess.size, backbone.preprocess.size), np.uint8))
