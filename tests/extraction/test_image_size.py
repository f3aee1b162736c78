"""Another input size: position embeddings interpolated by hand, by the libraries' own ways, and from every source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from stages.extraction import Backbone, OpenClipConfig, TimmConfig, load_backbone
from stages.extraction.preprocess import PreprocessConfig

VIT: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET: dict[str, Any] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
SIGLIP: dict[str, Any] = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}


def _batch(size: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, (2, 3, size, size), dtype=np.uint8)


def _interpolated(embedding: torch.Tensor, side: int) -> torch.Tensor:
    """A position embedding (1 + N, D) for ``side`` x ``side`` patches, channel by channel."""
    first, grid = embedding[:1], embedding[1:]
    old = round(len(grid) ** 0.5)
    channels = [
        torch.nn.functional.interpolate(
            grid[:, channel].reshape(1, 1, old, old), (side, side), mode="bicubic", antialias=True
        ).reshape(-1)
        for channel in range(grid.shape[1])
    ]
    return torch.cat([first, torch.stack(channels, 1)])


def _saved(path: Path, name: str) -> Any:
    torch.manual_seed(9)
    network = timm.create_model(name, num_classes=0).eval()
    save_file(network.state_dict(), path)
    return network


@pytest.mark.parametrize("size", [96, 224])
def test_a_transformer_of_timm_at_another_size_has_its_position_embedding_interpolated(
    size: int, tmp_path: Path
) -> None:
    state = _saved(tmp_path / "a.safetensors", "test_vit").state_dict()
    state["pos_embed"] = _interpolated(state["pos_embed"][0], size // 16)[None]
    other: Any = timm.create_model("test_vit", num_classes=0, img_size=size, dynamic_img_size=False).eval()
    other.load_state_dict(state)
    backbone = load_backbone(TimmConfig("test_vit", weights=str(tmp_path / "a.safetensors"), image_size=size))
    assert (backbone.preprocess.size, backbone.name) == (size, f"test_vit-{size}px")
    assert backbone.identity.fields["image_size"] == size
    with torch.no_grad():
        wanted = other(backbone.preprocess.normalize(torch.from_numpy(_batch(size)))).numpy()
    np.testing.assert_allclose(backbone.features(_batch(size)), wanted, atol=2e-5)


def test_a_tag_and_its_file_are_one_store_at_another_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(2)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "a.safetensors")
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: load_file(tmp_path / "a.safetensors")
    )
    fetched = load_backbone(TimmConfig("test_vit", pretrained="r160_in1k", image_size=128))
    local = load_backbone(TimmConfig("test_vit", weights=str(tmp_path / "a.safetensors"), image_size=128))
    assert fetched.identity == local.identity
    assert fetched.name == "test_vit.r160_in1k-128px"
    theirs = load_backbone(TimmConfig("test_vit", pretrained="r160_in1k", kwargs={"img_size": 128}))
    assert fetched.identity.fields["weights"] == theirs.identity.fields["weights"], "timm's own way to the same weights"


def test_the_networks_own_size_and_a_convolutional_network_need_no_change() -> None:
    plain = load_backbone(TimmConfig("test_vit", weights="random"))
    explicit = load_backbone(TimmConfig("test_vit", weights="random", image_size=160))
    assert (plain.identity, plain.name) == (explicit.identity, explicit.name)
    larger = load_backbone(TimmConfig("test_resnet", weights="random", image_size=192))
    same = load_backbone(TimmConfig("test_resnet", weights="random", preprocess=PreprocessConfig(size=192)))
    assert larger.identity == same.identity, "the size of its images is all there is to it"
    assert larger.name == "test_resnet-192px"


def test_the_crop_keeps_its_part_of_the_image() -> None:
    own, larger = (load_backbone(TimmConfig("test_vit", weights="random", image_size=size)) for size in (None, 320))
    assert own.preprocess.size / own.preprocess.resize_to == pytest.approx(0.95, abs=0.01)
    assert (larger.preprocess.size, larger.preprocess.resize_to) == (320, 336)
    overridden = TimmConfig("test_vit", weights="random", image_size=96, preprocess=PreprocessConfig(resize_to=100))
    assert load_backbone(overridden).preprocess.resize_to == 100


def test_rotary_positions_follow_the_size() -> None:
    for name in ("vit_small_patch16_dinov3", "eva02_tiny_patch14_224"):
        step = 14 if "14" in name else 16
        ours = load_backbone(TimmConfig(name, weights="random", kwargs={"depth": 1}, image_size=8 * step))
        theirs = load_backbone(TimmConfig(name, weights="random", kwargs={"depth": 1, "img_size": 8 * step}))
        if "dinov3" in name:  # no learned position embedding, so that the random weights are the same
            np.testing.assert_allclose(ours.features(_batch(8 * step)), theirs.features(_batch(8 * step)), atol=1e-5)
        assert ours.preprocess == theirs.preprocess


def _clip(path: Path, name: str, vision: dict[str, Any]) -> Any:
    torch.manual_seed(3)
    model = open_clip.create_model(name, vision_cfg=vision, embed_dim=24).eval()
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return model


def _at(path: Path, name: str, vision: dict[str, Any], size: int) -> Backbone:
    config = OpenClipConfig(
        name,
        weights=str(path),
        kwargs={"vision_cfg": vision, "embed_dim": 24},
        projection=True,
        image_size=size,
        preprocess=PreprocessConfig(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic"),
    )
    return load_backbone(config)


@pytest.mark.parametrize("part", ["whole", "tower"])
def test_a_transformer_of_open_clip_is_what_open_clip_makes_of_it(part: str, tmp_path: Path) -> None:
    from open_clip.factory import load_checkpoint

    model = _clip(tmp_path / "whole.safetensors", "ViT-B-32", VIT)
    save_file(model.visual.state_dict(), tmp_path / "tower.safetensors")
    backbone = _at(tmp_path / f"{part}.safetensors", "ViT-B-32", VIT, 72)
    theirs = open_clip.create_model("ViT-B-32", vision_cfg={**VIT, "image_size": 72}, embed_dim=24).eval()
    load_checkpoint(theirs, str(tmp_path / "whole.safetensors"))
    torch.testing.assert_close(
        theirs.visual.positional_embedding.data, _interpolated(model.visual.positional_embedding.data, 9)
    )
    with torch.no_grad():
        wanted = theirs.encode_image(backbone.preprocess.normalize(torch.from_numpy(_batch(72)))).numpy()
    np.testing.assert_allclose(backbone.features(_batch(72)), wanted, atol=2e-5)
    assert (backbone.preprocess.size, backbone.preprocess.resize_to) == (72, 72)
    assert (backbone.name, backbone.identity.fields["image_size"]) == ("ViT-B-32-72px", 72)


def test_the_attention_pool_of_a_clip_resnet_is_interpolated_too(tmp_path: Path) -> None:
    model = _clip(tmp_path / "a.safetensors", "RN50", RESNET)
    backbone = _at(tmp_path / "a.safetensors", "RN50", RESNET, 128)
    visual = model.visual
    wider = _interpolated(visual.attnpool.positional_embedding.data, 4)
    visual.attnpool.positional_embedding = torch.nn.Parameter(wider)
    with torch.no_grad():
        wanted = visual(backbone.preprocess.normalize(torch.from_numpy(_batch(128)))).numpy()
    np.testing.assert_allclose(backbone.features(_batch(128)), wanted, atol=2e-5)


def test_a_tower_of_timm_in_open_clip_is_resized_from_a_file(tmp_path: Path) -> None:
    model = _clip(tmp_path / "a.safetensors", "ViT-B-16-SigLIP", SIGLIP)
    backbone = _at(tmp_path / "a.safetensors", "ViT-B-16-SigLIP", SIGLIP, 224)
    model.visual.set_input_size(224)
    with torch.no_grad():
        wanted = model.encode_image(backbone.preprocess.normalize(torch.from_numpy(_batch(224)))).numpy()
    np.testing.assert_allclose(backbone.features(_batch(224)), wanted, atol=2e-5)
    assert backbone.preprocess.resize == "squash"


def test_sizes_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match="ViT-B-32 must be a multiple of its patch of 8, got 36: take 32 or 40"):
        load_backbone(
            OpenClipConfig("ViT-B-32", weights="random", kwargs={"vision_cfg": VIT, "embed_dim": 24}, image_size=36)
        )
    with pytest.raises(ValueError, match="multiple of its patch of 16, got 100: take 96 or 112"):
        load_backbone(TimmConfig("vit_tiny_patch16_224", weights="random", kwargs={"depth": 1}, image_size=100))
    with pytest.raises(ValueError, match=r"mixer_s32_224 does not run on images of 256 x 256"):
        load_backbone(TimmConfig("mixer_s32_224", weights="random", image_size=256))


def test_a_size_is_said_once() -> None:
    with pytest.raises(ValueError, match="image_size is in pixels and must be at least 1, got 0"):
        TimmConfig("a", weights="random", image_size=0)
    with pytest.raises(ValueError, match=r"image_size of a is 96 and preprocess.size 128: leave preprocess.size out"):
        TimmConfig("a", weights="random", image_size=96, preprocess=PreprocessConfig(size=128))
    with pytest.raises(ValueError, match=r"image_size of a is given, and kwargs.img_size too"):
        TimmConfig("a", weights="random", image_size=96, kwargs={"img_size": 96})
    with pytest.raises(ValueError, match=r"image_size of a is given, and kwargs.force_image_size too"):
        OpenClipConfig("a", weights="random", image_size=96, kwargs={"force_image_size": 96})
