from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, SubCenterArcFaceLoss
from torch import Tensor
from torch.nn import functional

from stages.training import ArcFaceConfig, CosFaceConfig
from stages.training.losses.angle import add_angle, normalize
from stages.training.losses.kernel import MarginSoftmax
from stages.training.recipe import LossConfig
from tests.oracles import losses as oracle

DIM, CLASSES, ROWS = 6, 7, 24


def batch(seed: int = 0, rows: int = ROWS, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(rows, DIM, generator=generator)
    return embeddings, torch.randint(classes, (rows,), generator=generator)


def build(config: ArcFaceConfig | CosFaceConfig, classes: int = CLASSES, seed: int = 1) -> MarginSoftmax:
    return config.build(DIM, torch.full((classes,), 5), torch.Generator().manual_seed(seed))


def by_class(loss: MarginSoftmax) -> list[list[list[float]]]:
    """Prototypes as lists, [class][subcenter][number]."""
    rows = loss.weight.detach().double().tolist()
    return [[rows[j * loss.classes + c] for j in range(loss.subcenters)] for c in range(loss.classes)]


def gradients(loss: MarginSoftmax, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    value = loss(embeddings, labels)
    on_embeddings, on_weight = torch.autograd.grad(value, [embeddings, loss.weight])
    return value.detach(), on_embeddings, on_weight


@pytest.mark.parametrize("subcenters", [1, 2, 3, 5])
@pytest.mark.parametrize("margin_rad", [0.0, 0.3, 0.5, 1.0, 2.5])
def test_arcface_matches_the_paper_written_as_loops(margin_rad: float, subcenters: int) -> None:
    loss = build(ArcFaceConfig(subcenters=subcenters, margin_rad=margin_rad, scale=16.0))
    embeddings, labels = batch()
    target = partial(oracle.arcface_target, margin_rad=margin_rad)
    expected = oracle.margin_softmax(embeddings.tolist(), labels.tolist(), by_class(loss), target, 16.0)
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("subcenters", [1, 2, 3, 5])
@pytest.mark.parametrize("margin_cos", [0.0, 0.35, 1.0])
def test_cosface_matches_the_paper_written_as_loops(margin_cos: float, subcenters: int) -> None:
    loss = build(CosFaceConfig(subcenters=subcenters, margin_cos=margin_cos, scale=16.0))
    embeddings, labels = batch()
    target = partial(oracle.cosface_target, margin_cos=margin_cos)
    expected = oracle.margin_softmax(embeddings.tolist(), labels.tolist(), by_class(loss), target, 16.0)
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("config", [ArcFaceConfig(subcenters=3), CosFaceConfig(subcenters=2), ArcFaceConfig()])
def test_gradients_match_finite_differences(config: ArcFaceConfig | CosFaceConfig) -> None:
    loss = build(config, classes=4).double()
    embeddings, labels = batch(rows=5, classes=4)
    inputs = (embeddings.double().requires_grad_(), loss.weight)
    assert torch.autograd.gradcheck(lambda embeddings, _: loss(embeddings, labels), inputs)


@pytest.mark.parametrize("subcenters", [1, 2, 3, 5])
def test_arcface_and_its_gradients_match_pytorch_metric_learning(subcenters: int) -> None:
    loss = build(ArcFaceConfig(subcenters=subcenters, margin_rad=0.5, scale=30.0))
    degrees = math.degrees(0.5)
    theirs = (
        ArcFaceLoss(CLASSES, DIM, margin=degrees, scale=30)
        if subcenters == 1
        else SubCenterArcFaceLoss(
            num_classes=CLASSES, embedding_size=DIM, margin=degrees, scale=30, sub_centers=subcenters
        )
    )
    assert_same_as_pytorch_metric_learning(loss, theirs)


def test_cosface_and_its_gradients_match_pytorch_metric_learning() -> None:
    loss = build(CosFaceConfig(margin_cos=0.35, scale=30.0))
    assert_same_as_pytorch_metric_learning(loss, CosFaceLoss(CLASSES, DIM, margin=0.35, scale=30))


def assert_same_as_pytorch_metric_learning(ours: MarginSoftmax, theirs: torch.nn.Module) -> None:
    embeddings, labels = batch()
    columns = ours.weight.detach().view(ours.subcenters, ours.classes, DIM).permute(2, 1, 0).reshape(DIM, -1)
    theirs.W = torch.nn.Parameter(columns.clone())
    value, on_embeddings, on_weight = gradients(ours, embeddings, labels)
    leaf = embeddings.clone().requires_grad_()
    expected = theirs(leaf, labels)
    expected_on_embeddings, expected_on_columns = torch.autograd.grad(expected, [leaf, theirs.W])
    torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(on_embeddings, expected_on_embeddings, rtol=1e-3, atol=1e-4)
    by_subcenter = expected_on_columns.view(DIM, ours.classes, ours.subcenters).permute(2, 1, 0)
    torch.testing.assert_close(on_weight, by_subcenter.reshape(-1, DIM), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", [ArcFaceConfig(margin_rad=0.0, scale=8.0), CosFaceConfig(margin_cos=0.0, scale=8.0)])
def test_margin_0_is_the_cosine_softmax(config: ArcFaceConfig | CosFaceConfig) -> None:
    loss = build(config)
    embeddings, labels = batch()
    cosines = functional.cosine_similarity(embeddings[:, None], loss.weight[None], dim=2)
    torch.testing.assert_close(loss(embeddings, labels), functional.cross_entropy(8.0 * cosines, labels))


@pytest.mark.parametrize("config", [ArcFaceConfig(subcenters=2), CosFaceConfig(subcenters=2)])
def test_neither_the_order_of_the_rows_nor_their_length_matters(config: ArcFaceConfig | CosFaceConfig) -> None:
    loss = build(config)
    embeddings, labels = batch()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    lengths = torch.linspace(0.1, 50, ROWS)[:, None]
    torch.testing.assert_close(loss((embeddings * lengths)[order], labels[order]), loss(embeddings, labels))


def test_only_the_nearest_subcenter_of_a_class_learns() -> None:
    loss = build(ArcFaceConfig(subcenters=3), classes=2)
    embeddings, labels = batch(rows=1, classes=2)
    _, _, on_weight = gradients(loss, embeddings, labels)
    moved = on_weight.abs().sum(1).view(3, 2) > 0
    nearest = (normalize(loss.weight.detach()) @ embeddings[0]).view(3, 2).argmax(0)
    assert moved.sum(0).tolist() == [1, 1]
    assert moved[nearest, torch.arange(2)].all()


def test_arcface_margin_past_pi_stays_below_the_plain_cosine_and_grows_with_it() -> None:
    cosines = torch.linspace(-1, -math.cos(1.0) - 1e-3, 50, dtype=torch.float64)
    moved = add_angle(cosines, 1.0)
    assert (moved < cosines).all()
    assert (moved.diff() > 0).all()
    torch.testing.assert_close(moved, cosines - math.sin(1.0), rtol=0, atol=2e-7)


CONFIGS = [
    ArcFaceConfig(),
    ArcFaceConfig(margin_rad=0.0),
    ArcFaceConfig(subcenters=2, margin_rad=3.0, scale=64.0),
    CosFaceConfig(),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_gradients_are_finite_at_cosines_of_exactly_one_and_minus_one(
    config: ArcFaceConfig | CosFaceConfig, dtype: torch.dtype
) -> None:
    loss = build(config, classes=3).to(dtype)
    axes = torch.eye(3, DIM, dtype=dtype)
    with torch.no_grad():
        loss.weight.copy_(torch.cat([axes] * config.subcenters))
    embeddings = torch.cat([axes, -axes, axes])
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0])
    for values in gradients(loss, embeddings, labels):
        assert values.isfinite().all()


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_zero_vectors_give_zero_gradients_and_leave_the_others_theirs(config: ArcFaceConfig | CosFaceConfig) -> None:
    loss = build(config)
    embeddings, labels = batch()
    embeddings[3] = 0
    with torch.no_grad():
        loss.weight[2] = 0
    value, on_embeddings, on_weight = gradients(loss, embeddings, labels)
    assert value.isfinite()
    assert on_embeddings.isfinite().all()
    assert on_weight.isfinite().all()
    assert (on_embeddings[3] == 0).all()
    assert (on_weight[2] == 0).all()
    assert (on_embeddings[4] != 0).any()


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_one_class_has_no_loss_and_one_row_is_enough(config: ArcFaceConfig | CosFaceConfig) -> None:
    embeddings, labels = batch(rows=1, classes=1)
    value, on_embeddings, on_weight = gradients(build(config, classes=1), embeddings, labels)
    assert value == 0
    assert (on_embeddings == 0).all()
    assert (on_weight == 0).all()
    assert all(values.isfinite().all() for values in gradients(build(config), embeddings, labels))


def test_bfloat16_gives_about_the_loss_of_float32() -> None:
    loss = build(ArcFaceConfig(subcenters=3))
    embeddings, labels = batch()
    exact = loss(embeddings, labels)
    rough = loss.bfloat16()(embeddings.bfloat16(), labels)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.03)


def test_prototypes_come_from_the_generator_and_from_nothing_else() -> None:
    state = torch.get_rng_state()
    first, again, other = (build(ArcFaceConfig(subcenters=2), seed=seed).weight for seed in (1, 1, 2))
    assert first.shape == (2 * CLASSES, DIM)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: ArcFaceConfig(margin_rad=28.6),
            r"margin_rad is an angle in radians .degrees \* pi / 180., in \[0, pi\), got 28.6",
        ),
        (lambda: ArcFaceConfig(margin_rad=math.nan), "margin_rad"),
        (lambda: ArcFaceConfig(subcenters=0), "subcenters is a number of prototypes a class, at least 1, got 0"),
        (lambda: ArcFaceConfig(scale=0.0), "scale is a factor on the cosines, above 0 and finite, got 0.0"),
        (lambda: CosFaceConfig(margin_cos=1.5), r"margin_cos is a difference of cosines, in \[0, 1\], got 1.5"),
        (lambda: CosFaceConfig(scale=math.inf), "scale is a factor"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_unit(made: object, message: str) -> None:
    assert callable(made)
    with pytest.raises(ValueError, match=message):
        made()


def test_a_loss_is_parsed_by_its_kind_and_a_misspelt_setting_is_refused() -> None:
    parse = TypeAdapter[Any](LossConfig).validate_python
    assert parse({"kind": "cosface", "margin_cos": 0.2}) == CosFaceConfig(margin_cos=0.2)
    assert parse({"kind": "arcface", "subcenters": 3}) == ArcFaceConfig(subcenters=3)
    with pytest.raises(ValidationError, match="margin"):
        parse({"kind": "arcface", "margin": 0.2})
