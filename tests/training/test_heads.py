from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import load_file

from cache import Identity, LocalStorage
from cache.errors import DamagedStoreError, WeightsError
from cache.fingerprint import JSON
from stages.training import EpochLog, Head, HeadConfig, InputsConfig, LinearHeadConfig, TrainingSummary
from stages.training.heads.networks import LinearHead

DIM = 12
PLAIN = InputsConfig(center=False, rescale="none")


def features(rows: int = 20, seed: int = 0) -> npt.NDArray[np.float16]:
    return np.random.default_rng(seed).normal(3.0, 2.0, (rows, DIM)).astype(np.float16)


def weights_of(head: Head) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    assert isinstance(head.network, LinearHead)
    return head.network.weight.detach().numpy(), head.network.bias.detach().numpy()


def make_head(config: LinearHeadConfig | None = None, *, seed: int = 0) -> Head:
    config = config or LinearHeadConfig(dim=4)
    network = config.build([DIM], torch.Generator().manual_seed(seed))
    network.observe(torch.from_numpy(features()))
    settings: dict[str, JSON] = {
        "kind": "linear",
        "dim": config.dim,
        "dropout": config.dropout,
        "inputs": asdict(config.inputs),
    }
    identity = Identity({"head": settings, "features": "f" * 64})
    log = (EpochLog("choose", 1, 2.5, 1e-3, 0.25, 0.1), EpochLog("train", 1, 2.25, 1e-3, None, 0.1))
    return Head.of(config, identity, network, TrainingSummary(20, 4, 1, 0, 1, "it is the last"), log)


def test_an_embedding_is_the_linear_map_of_the_standardized_feature_at_unit_length() -> None:
    head, rows = make_head(), features(seed=1)
    training = features().astype(np.float64)
    mean = training.mean(0)
    spread = math.sqrt(sum((x - m) ** 2 for row in training for x, m in zip(row, mean, strict=True)) / training.size)
    weight, bias = weights_of(head)
    for row, embedding in zip(rows.astype(np.float64), head(rows), strict=True):
        mapped = weight @ ((row - mean) / spread) + bias
        np.testing.assert_allclose(embedding, mapped / math.sqrt(sum(mapped**2)), atol=1e-6)


def test_without_a_step_before_it_the_map_takes_the_feature_as_it_is() -> None:
    head, rows = make_head(LinearHeadConfig(dim=4, inputs=PLAIN)), features(seed=1)
    weight, bias = weights_of(head)
    mapped = rows.astype(np.float32) @ weight.T + bias
    np.testing.assert_allclose(head(rows), mapped / np.linalg.norm(mapped, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_are_float32_of_unit_length_whatever_the_features_are(dtype: type[np.floating]) -> None:
    embeddings = make_head()(features().astype(dtype))
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (20, 4)
    np.testing.assert_allclose((embeddings.astype(np.float64) ** 2).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_with_rescale_spread_the_size_of_the_features_makes_no_difference(factor: float) -> None:
    rows = torch.from_numpy(features()).float()
    config = LinearHeadConfig(dim=4)
    plain, scaled = (config.build([DIM], torch.Generator().manual_seed(0)) for _ in range(2))
    plain.observe(rows)
    scaled.observe(rows * factor + 7)
    torch.testing.assert_close(scaled(rows * factor + 7), plain(rows), atol=1e-4, rtol=1e-4)


def test_features_that_are_all_alike_give_finite_embeddings() -> None:
    network = LinearHeadConfig(dim=4).build([DIM], torch.Generator().manual_seed(0))
    network.observe(torch.ones(5, DIM))
    assert network(torch.ones(5, DIM)).isfinite().all()


def test_dropout_is_drawn_from_its_generator_and_sets_the_stated_share_to_zero() -> None:
    config = LinearHeadConfig(dim=DIM, dropout=0.25, inputs=PLAIN)
    network = config.build([DIM], torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.weight.copy_(torch.eye(DIM))
        network.bias.zero_()
    ones, state = torch.ones(500, DIM), torch.get_rng_state()
    first, again, other = (network(ones, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(torch.get_rng_state(), state)
    assert (network(ones) > 0).all()


def test_a_head_saved_and_loaded_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    head = make_head()
    head.save(tmp_path / "head")
    loaded = Head.load(tmp_path / "head")
    assert loaded(features(seed=2)).tobytes() == head(features(seed=2)).tobytes()
    assert (loaded.config, loaded.identity, loaded.summary, loaded.log) == (
        head.config,
        head.identity,
        head.summary,
        head.log,
    )
    assert loaded.fingerprint == head.fingerprint
    assert (loaded.dim, loaded.features_dim, loaded.features_fingerprint) == (4, DIM, "f" * 64)


def test_the_files_of_a_head_are_plain_and_the_same_at_every_save(tmp_path: Path) -> None:
    head = make_head()
    head.save(tmp_path / "a")
    head.save(tmp_path / "b")
    first, second = (tmp_path / name / "head.safetensors" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(load_file(first)) == ["bias", "inputs.mean", "inputs.root", "inputs.spread", "weight"]
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["epoch"], line["validation_mmp5"]) for line in lines] == [
        ("choose", 1, 0.25),
        ("train", 1, None),
    ]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["head.safetensors", "log.jsonl"]


def test_a_folder_without_a_head_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no head\.safetensors\. Train the head"):
        Head.load(tmp_path)


@pytest.mark.parametrize("length", [0, 9, 200])
def test_a_head_cut_short_is_damaged(tmp_path: Path, length: int) -> None:
    make_head().save(tmp_path)
    path = tmp_path / "head.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        DamagedStoreError, match=r"is not a head as it was saved.*`permafrost train-heads` trains it again"
    ):
        Head.load(tmp_path)


@pytest.mark.parametrize("name", ["head.safetensors", "log.jsonl"])
def test_a_flipped_bit_at_any_byte_of_a_head_is_noticed_or_changes_nothing(tmp_path: Path, name: str) -> None:
    head = make_head()
    head.save(tmp_path)
    path, wanted = tmp_path / name, head(features())
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            read = Head.load(tmp_path)
        except DamagedStoreError:
            continue
        assert (read.identity, read.config, read.summary, read.log) == (
            head.identity,
            head.config,
            head.summary,
            head.log,
        ), place
        np.testing.assert_array_equal(read(features()), wanted)


def test_a_head_goes_through_any_storage(tmp_path: Path) -> None:
    head, seen = make_head(), list[str]()

    class Watched(LocalStorage):
        def put(self, key: str, content: bytes | memoryview) -> None:
            seen.append(f"put {key}")
            super().put(key, content)

        def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
            seen.append(f"read {key}")
            return super().read(key, start, stop)

    head.save(Watched(tmp_path))
    assert Head.load(Watched(tmp_path)).log == head.log
    assert seen == ["put log.jsonl", "put head.safetensors", "read head.safetensors", "read log.jsonl"]


def test_a_file_of_other_weights_is_not_a_head(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros((2, 3), np.float32)}, tmp_path / "head.safetensors")
    with pytest.raises(DamagedStoreError, match="is not a head as it was saved"):
        Head.load(tmp_path)


@pytest.mark.parametrize("shape", [(DIM,), (3, DIM + 1)])
def test_features_of_another_size_are_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"features have shape \({shape[0]}.*this head takes \(n, {DIM}\)"):
        make_head()(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim is the size of an embedding, at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout is the share of a feature set to zero, in \[0, 1\), got 1.0"),
        ({"width": 3}, "width"),
    ],
)
def test_a_bad_setting_of_a_head_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(HeadConfig).validate_python({"kind": "linear", **settings})
