"""Every family of frozen networks that the field compares: real architectures with random weights, and their tags.

Most are built with two blocks, so that a test takes a second; widths, tokens, norms, pooling and preprocessing are the
real ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from stages.extraction import OpenClipConfig, TimmConfig, load_backbone, load_backbones
from stages.extraction.backbones.open_clip import check_name
from stages.extraction.backbones.open_clip import own_preprocess as open_clip_preprocess
from stages.extraction.backbones.timm import build
from stages.extraction.backbones.timm import own_preprocess as timm_preprocess
from stages.extraction.preprocess import Preprocess, PreprocessConfig

CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
MAPS = ("mean", "gem", "max")
TOKENS = ("cls", "mean", "cls+mean", "gem", "max")


Config = TimmConfig | OpenClipConfig


def _clip(name: str, **settings: Any) -> OpenClipConfig:
    """A transformer of open_clip's own with two of its blocks."""
    vision = {**open_clip.get_model_config(name)["vision_cfg"], "layers": 2}
    return OpenClipConfig(name, weights="random", kwargs={"vision_cfg": vision}, **settings)


def _vit(name: str, **settings: Any) -> TimmConfig:
    """A transformer of timm with two of its blocks."""
    return TimmConfig(name, weights="random", kwargs={"depth": 2, **settings.pop("kwargs", {})}, **settings)


def _slow(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.slow)


FAMILIES = [
    # what is loaded, the width of its own pooling, the width of its tokens or map, the poolings to try
    (_clip("ViT-B-32"), 768, 768, TOKENS),
    (_clip("ViT-B-32-quickgelu"), 768, 768, TOKENS),  # OpenAI's CLIP and MetaCLIP
    (_clip("ViT-B-32", projection=True), 512, 768, ()),
    _slow(_clip("ViT-H-14-quickgelu"), 1280, 1280, TOKENS),
    (_clip("ViT-L-14-CLIPA"), 1024, 1024, TOKENS),
    (OpenClipConfig("convnext_tiny", weights="random"), 768, 768, MAPS),
    _slow(OpenClipConfig("convnext_base", weights="random"), 1024, 1024, ()),
    _slow(OpenClipConfig("EVA02-B-16", weights="random"), 768, 768, ()),
    _slow(OpenClipConfig("ViT-B-16-SigLIP", weights="random"), 768, 768, ()),
    _slow(OpenClipConfig("ViT-B-32-SigLIP2-256", weights="random"), 768, 768, ()),
    _slow(OpenClipConfig("RN50-quickgelu", weights="random"), 2048, 2048, MAPS),
    (_vit("eva02_base_patch16_clip_224.merged2b"), 768, 768, TOKENS),
    (_vit("vit_base_patch16_siglip_224.webli"), 768, 768, MAPS),
    (_vit("vit_base_patch16_siglip_224.v2_webli"), 768, 768, MAPS),
    _slow(_vit("vit_so400m_patch14_siglip_384.webli", image_size=224), 1152, 1152, MAPS),
    (_vit("vit_small_patch14_dinov2.lvd142m", image_size=224), 384, 384, TOKENS),
    (_vit("vit_base_patch14_reg4_dinov2.lvd142m", image_size=224), 768, 768, TOKENS),
    (_vit("vit_small_patch16_dinov3.lvd1689m"), 384, 384, TOKENS),
    (_vit("vit_base_patch16_dinov3.lvd1689m"), 768, 768, TOKENS),
    (_vit("samvit_base_patch16.sa1b", image_size=224, kwargs={"global_attn_indexes": [1]}), 256, 256, MAPS),
    (TimmConfig("resnet18", weights="random"), 512, 512, MAPS),
    (TimmConfig("resnet34", weights="random"), 512, 512, MAPS),
    (TimmConfig("resnet50", weights="random"), 2048, 2048, MAPS),
    _slow(TimmConfig("resnet101", weights="random"), 2048, 2048, MAPS),
    (_vit("vit_base_patch16_224.augreg2_in21k_ft_in1k"), 768, 768, TOKENS),
]


def _case(value: object) -> str | None:
    if not isinstance(value, (TimmConfig, OpenClipConfig)):
        return ""
    return f"{value.kind}-{value.name}{'-projected' if isinstance(value, OpenClipConfig) and value.projection else ''}"


@pytest.mark.parametrize(("config", "dim", "width", "pooling"), FAMILIES, ids=_case)
def test_a_family_gives_the_same_features_alone_in_a_batch_and_again(
    config: Config, dim: int, width: int, pooling: tuple[str, ...]
) -> None:
    backbone = load_backbone(config)
    assert backbone.dim == dim
    size = backbone.preprocess.size
    batch = np.random.default_rng(1).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    together = backbone.features(batch)
    assert together.shape == (3, dim)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    assert not np.array_equal(together[0], together[1])
    assert np.array_equal(together, backbone.features(batch)), "no dropout, and batch norm does not learn"
    alone = np.concatenate([backbone.features(image[None]) for image in batch])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)
    if not pooling:
        return
    pooled = load_backbones(replace(config, pooling=pooling))
    assert {entry.identity.fields["weights"] for entry in pooled} == {backbone.identity.fields["weights"]}, (
        "of its seed"
    )
    assert [entry.dim for entry in pooled] == [2 * width if kind == "cls+mean" else width for kind in pooling]
    assert all(np.isfinite(entry.features(batch[:1])).all() for entry in pooled)


# name, tag, size, (mean, std), interpolation, resize, resize_to
TIMM_TAGS = [
    ("vit_so400m_patch14_siglip_384", "webli", 384, HALF, "bicubic", "shorter", 426),
    ("vit_base_patch16_siglip_224", "v2_webli", 224, HALF, "bicubic", "shorter", 248),
    ("vit_so400m_patch14_siglip_378", "v2_webli", 378, HALF, "bicubic", "shorter", 420),
    ("eva02_base_patch16_clip_224", "merged2b", 224, CLIP, "bicubic", "shorter", 248),
    ("vit_small_patch14_dinov2", "lvd142m", 518, IMAGENET, "bicubic", "shorter", 518),
    ("vit_base_patch14_reg4_dinov2", "lvd142m", 518, IMAGENET, "bicubic", "shorter", 518),
    ("vit_large_patch14_dinov2", "lvd142m", 518, IMAGENET, "bicubic", "shorter", 518),
    ("vit_base_patch16_dinov3", "lvd1689m", 256, IMAGENET, "bicubic", "shorter", 256),
    ("vit_large_patch16_dinov3", "lvd1689m", 256, IMAGENET, "bicubic", "shorter", 256),
    ("samvit_base_patch16", "sa1b", 1024, IMAGENET, "bicubic", "shorter", 1024),
    ("resnet18", "a1_in1k", 224, IMAGENET, "bicubic", "shorter", 235),
    ("resnet34", "a1_in1k", 224, IMAGENET, "bicubic", "shorter", 235),
    ("resnet50", "a1_in1k", 224, IMAGENET, "bicubic", "shorter", 235),
    ("resnet50", "tv_in1k", 224, IMAGENET, "bilinear", "shorter", 256),
    ("resnet101", "a1h_in1k", 224, IMAGENET, "bicubic", "shorter", 235),
    ("vit_base_patch16_224", "augreg2_in21k_ft_in1k", 224, HALF, "bicubic", "shorter", 248),
    ("vit_base_patch16_224", "orig_in21k", 224, HALF, "bicubic", "shorter", 248),
]


@pytest.mark.parametrize(("name", "tag", "size", "colours", "interpolation", "resize", "resize_to"), TIMM_TAGS)
def test_a_tag_of_timm_is_there_with_its_preprocessing(
    name: str, tag: str, size: int, colours: Any, interpolation: Any, resize: Any, resize_to: int
) -> None:
    assert f"{name}.{tag}" in timm.list_pretrained(f"{name}.*")
    network = build(f"{name}.{tag}", {} if "resnet" in name else {"depth": 1})
    preprocess = timm_preprocess(network, PreprocessConfig(), {})
    assert preprocess == Preprocess(size, resize, resize_to, interpolation, colours[0], colours[1], preprocess.fill)


OPEN_CLIP_TAGS = [
    ("ViT-B-32-quickgelu", "openai", 224, CLIP, "bicubic", "shorter"),
    ("ViT-L-14-336-quickgelu", "openai", 336, CLIP, "bicubic", "shorter"),
    ("ViT-B-32", "laion2b_s34b_b79k", 224, CLIP, "bicubic", "shorter"),
    ("ViT-L-14", "datacomp_xl_s13b_b90k", 224, CLIP, "bicubic", "shorter"),
    ("ViT-H-14", "laion2b_s32b_b79k", 224, CLIP, "bicubic", "shorter"),
    ("ViT-bigG-14", "laion2b_s39b_b160k", 224, CLIP, "bicubic", "shorter"),
    ("ViT-H-14-quickgelu", "dfn5b", 224, CLIP, "bicubic", "squash"),
    ("convnext_base_w", "laion2b_s13b_b82k", 256, CLIP, "bicubic", "shorter"),
    ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup", 320, CLIP, "bicubic", "shorter"),
    ("convnext_xxlarge", "laion2b_s34b_b82k_augreg_soup", 256, CLIP, "bicubic", "shorter"),
    ("ViT-L-14-CLIPA", "datacomp1b", 224, IMAGENET, "bilinear", "squash"),
    ("ViT-H-14-CLIPA-336", "datacomp1b", 336, IMAGENET, "bilinear", "squash"),
    ("EVA02-B-16", "merged2b_s8b_b131k", 224, CLIP, "bicubic", "shorter"),
    ("EVA02-L-14-336", "merged2b_s6b_b61k", 336, CLIP, "bicubic", "shorter"),
    ("ViT-B-32-quickgelu", "metaclip_400m", 224, CLIP, "bicubic", "shorter"),
    ("ViT-B-16-quickgelu", "metaclip_fullcc", 224, CLIP, "bicubic", "shorter"),
    ("ViT-H-14-quickgelu", "metaclip_fullcc", 224, CLIP, "bicubic", "shorter"),
    ("ViT-B-16-SigLIP", "webli", 224, HALF, "bicubic", "squash"),
    ("ViT-SO400M-14-SigLIP-384", "webli", 384, HALF, "bicubic", "squash"),
    ("ViT-B-16-SigLIP2", "webli", 224, HALF, "bicubic", "squash"),
    ("ViT-SO400M-14-SigLIP2-378", "webli", 378, HALF, "bicubic", "squash"),
    ("RN50-quickgelu", "openai", 224, CLIP, "bicubic", "shorter"),
]


@pytest.mark.parametrize(("name", "tag", "size", "colours", "interpolation", "resize"), OPEN_CLIP_TAGS)
def test_a_tag_of_open_clip_is_there_with_its_preprocessing(
    name: str, tag: str, size: int, colours: Any, interpolation: Any, resize: Any
) -> None:
    assert (name, tag) in open_clip.list_pretrained()
    config = OpenClipConfig(name, pretrained=tag)
    check_name(config)  # it goes with the network's activation
    settings = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(name, tag))
    settings["size"] = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    tower: Any = torch.nn.Module()
    tower.preprocess_cfg = settings  # as create_model notes it once it has fetched the weights
    assert open_clip_preprocess(config, tower) == Preprocess(size, resize, size, interpolation, colours[0], colours[1])
