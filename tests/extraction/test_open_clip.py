"""Image towers of open_clip: each kind's pooled and projected vectors, and the traps around their weights."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cache.errors import SettingsError
from stages.extraction.backbones import Backbone, OpenClipConfig, load_backbone, load_backbones
from stages.extraction.preprocess import PreprocessConfig

PHOTO = np.random.default_rng(0).integers(0, 256, (181, 203, 3), dtype=np.uint8)


def _features(backbone: Backbone, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return backbone.forward(backbone.preprocess(image)[None])


VIT: dict[str, Any] = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TOWERS: dict[str, tuple[str, dict[str, Any], int]] = {
    # open_clip's model, its image tower made small, the width before the projection to 24
    "VisionTransformer": ("ViT-B-32", VIT, 32),
    "CoCa": ("coca_ViT-B-32", {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}, 24),
    "ResNet": ("RN50", {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}, 256),
    "timm, own head": (
        "convnext_tiny",
        {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        64,
    ),
    "timm, trunk's head": (
        "EVA02-B-16",
        {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None, "image_size": 160},
        64,
    ),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_an_image_tower_gives_its_pooled_or_its_projected_vector(tower: str, tmp_path: Path) -> None:
    name, vision, width = TOWERS[tower]
    kwargs = {"vision_cfg": vision, "embed_dim": 24}
    text = {"text_cfg": {"context_length": 4, "vocab_size": 4, "width": 8, "heads": 1, "layers": 1}}
    if "coca" in name:
        text["multimodal_cfg"] = text["text_cfg"]
    torch.manual_seed(7)
    model = open_clip.create_model(name, pretrained_text=False, **text, **kwargs).eval()
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    save_file(model.visual.state_dict(), tmp_path / "tower.safetensors")

    def backbones(file: str, projection: bool | Literal["both"]) -> tuple[Backbone, ...]:
        config = OpenClipConfig(
            name,
            weights=str(tmp_path / file),
            projection=projection,
            kwargs=kwargs,
            preprocess=PreprocessConfig(decoder="exact"),
        )
        return load_backbones(config)

    (pooled,), (projected,) = (backbones("whole.safetensors", projection) for projection in (False, True))
    assert (pooled.dim, projected.dim) == (width, 24)
    assert pooled.identity.fields["output"] == "pooled"
    assert projected.identity.fields["output"] == "projected"
    assert pooled.identity.fields["weights"] != projected.identity.fields["weights"]
    assert backbones("tower.safetensors", False)[0].identity == pooled.identity

    cfg = model.visual.preprocess_cfg
    transform = open_clip.image_transform(
        cfg["size"], is_train=False, **{key: cfg[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    )
    with torch.no_grad():
        image = transform(Image.fromarray(PHOTO))[None]
        whole = model.visual(image)
        wanted = (whole[0] if isinstance(whole, tuple) else whole).numpy()
    np.testing.assert_allclose(_features(projected, PHOTO), wanted, atol=2e-5)

    weights = {key: tensor.numpy() for key, tensor in model.visual.state_dict().items()}
    before = _features(pooled, PHOTO)
    after = {
        "VisionTransformer": lambda: before @ weights["proj"],
        "CoCa": lambda: before @ weights["proj"],
        "ResNet": lambda: before @ weights["attnpool.c_proj.weight"].T + weights["attnpool.c_proj.bias"],
        "timm, own head": lambda: before @ weights["head.proj.weight"].T,
        "timm, trunk's head": lambda: before @ weights["trunk.head.weight"].T + weights["trunk.head.bias"],
    }[tower]()
    np.testing.assert_allclose(after, wanted, atol=2e-5)

    first, second = backbones("whole.safetensors", "both")
    assert first.forward is second.forward, "one forward gives both"
    assert first.identity == pooled.identity, "features that were computed before the projection stay"
    assert (second.dim, second.identity.fields["output"], second.name) == (24, "projected", f"{first.name}-projected")
    values = first.forward(first.preprocess(PHOTO)[None])
    np.testing.assert_array_equal(values[:, first.columns], before)
    np.testing.assert_allclose(values[:, second.columns], wanted, atol=2e-5)


def test_siglip_has_no_projection_so_both_settings_are_one_store() -> None:
    vision = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
    kwargs = {"vision_cfg": vision, "embed_dim": 24}
    one, other = (
        load_backbone(OpenClipConfig("ViT-B-16-SigLIP", weights="random", projection=projection, kwargs=kwargs))
        for projection in (False, True)
    )
    assert one.identity == other.identity
    assert (one.preprocess.resize, one.preprocess.mean) == ("squash", (0.5, 0.5, 0.5)), "as its tags are listed"
    with pytest.raises(SettingsError, match="has no projection, its one feature is in the space of words"):
        load_backbones(OpenClipConfig("ViT-B-16-SigLIP", weights="random", projection="both", kwargs=kwargs))


def test_a_mismatch_of_quickgelu_is_an_error_that_names_the_other_model() -> None:
    with pytest.raises(
        ValueError, match=r"'openai' were trained with QuickGELU and ViT-B-32 runs without it.*ViT-B-32-q"
    ):
        load_backbone(OpenClipConfig("ViT-B-32", pretrained="openai"))
    with pytest.raises(ValueError, match="trained without QuickGELU and ViT-B-32 runs with it"):
        load_backbone(OpenClipConfig("ViT-B-32", pretrained="laion2b_e16", kwargs={"force_quick_gelu": True}))


def test_a_file_whose_preprocessing_is_open_must_be_given(tmp_path: Path) -> None:
    kwargs = {"vision_cfg": VIT, "embed_dim": 24}
    model = open_clip.create_model("ViT-L-14", **kwargs)
    save_file(model.visual.state_dict(), tmp_path / "a.safetensors")
    config = OpenClipConfig("ViT-L-14", weights=str(tmp_path / "a.safetensors"), kwargs=kwargs)
    with pytest.raises(ValueError, match=r"trained with mean \(0\.48.* or \(0\.5, 0\.5, 0\.5\).*give preprocess\.mean"):
        load_backbone(config)
    explicit = dataclasses.replace(config, preprocess=PreprocessConfig(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    assert load_backbone(explicit).preprocess.mean == (0.5, 0.5, 0.5)


def test_open_clip_leaves_the_root_logger_alone(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    load_backbone(OpenClipConfig("ViT-B-32", weights="random", kwargs={"vision_cfg": VIT, "embed_dim": 24}))
    assert (root.level, list(root.handlers)) == before
    assert "randomly" not in capfd.readouterr().err
