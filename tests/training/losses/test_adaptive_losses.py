"""Losses with a state besides their prototypes: AdaCos, CurricularFace, AdaFace, and the draws of ElasticFace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.training import (
    AdaCosConfig,
    AdaFaceConfig,
    CosFaceConfig,
    CurricularFaceConfig,
    ElasticArcFaceConfig,
    ElasticCosFaceConfig,
    MagFaceConfig,
)
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import MarginSoftmaxConfig
from stages.training.losses.rules import SMALLEST_SCALE, Curriculum, FixedScale, Quality
from tests.oracles import losses as oracle
from tests.toys.losses import CLASSES, FAMILY, batch, build, by_class, gradients


def scale_of(loss: MarginSoftmax) -> float:
    assert isinstance(loss.rule, FixedScale)
    return loss.rule.value.item()


@pytest.mark.parametrize("rows", [23, 24])
def test_the_scale_of_adacos_follows_the_paper_step_by_step(rows: int) -> None:
    loss = build(AdaCosConfig())
    scale = oracle.adacos_first_scale(CLASSES)
    assert scale_of(loss) == pytest.approx(scale)
    for seed in range(4):
        embeddings, labels = batch(seed, rows)
        prototypes = by_class(loss.weight.tolist(), CLASSES)
        scale = oracle.adacos_scale(embeddings.tolist(), labels.tolist(), prototypes, scale)
        value = loss(embeddings, labels).item()
        assert scale_of(loss) == pytest.approx(scale, rel=1e-5)
        logits = oracle.moving(lambda cos: cos, scale)
        expected = oracle.softmax_loss(embeddings.tolist(), labels.tolist(), prototypes, logits)
        assert value == pytest.approx(expected, rel=1e-5)


def test_the_median_of_adacos_is_of_the_targets_angles_alone() -> None:
    loss = build(AdaCosConfig())
    with torch.no_grad():
        embeddings = 3 * loss.weight[torch.tensor([0, 1, 2])]  # on their prototypes: the median angle is 0
    loss(embeddings, torch.tensor([0, 1, 2]))
    cosines = functional.cosine_similarity(embeddings[:, None], loss.weight[None], dim=2)
    first = oracle.adacos_first_scale(CLASSES)
    others = (first * cosines).exp().sum(1) - math.exp(first)
    assert scale_of(loss) == pytest.approx(others.mean().log().item(), rel=1e-4)


def test_the_scale_of_adacos_is_never_0_for_one_or_two_or_three_classes() -> None:
    for classes in (1, 2, 3):
        for dynamic in (True, False):
            loss = build(AdaCosConfig(dynamic=dynamic), classes=classes)
            assert scale_of(loss) == pytest.approx(math.sqrt(2) * math.log(2))
            embeddings, labels = batch(classes=classes)
            for _ in range(3):
                _, on_embeddings, _ = gradients(loss, embeddings, labels)
                assert scale_of(loss) >= SMALLEST_SCALE - 1e-6
            assert classes == 1 or (on_embeddings != 0).any()


def test_fixed_adacos_keeps_its_scale() -> None:
    loss = build(AdaCosConfig(dynamic=False))
    for seed in range(3):
        loss(*batch(seed))
    assert scale_of(loss) == pytest.approx(oracle.adacos_first_scale(CLASSES))


def test_the_progress_of_curricularface_is_the_running_mean_of_the_target_cosine() -> None:
    loss = build(CurricularFaceConfig())
    assert isinstance(loss.rule, Curriculum)
    expected = 0.0
    for seed in range(5):
        embeddings, labels = batch(seed)
        own = functional.cosine_similarity(embeddings, loss.weight[labels].detach())
        expected = oracle.curricularface_difficulty(expected, own.tolist())
        loss(embeddings, labels)
        assert loss.rule.progress.item() == pytest.approx(expected, rel=1e-5)


def statistics_of(loss: MarginSoftmax) -> tuple[float, float]:
    assert isinstance(loss.rule, Quality)
    return loss.rule.mean.item(), loss.rule.deviation.item()


def test_the_statistics_of_adaface_begin_with_the_first_batch_and_then_run() -> None:
    loss = build(AdaFaceConfig(statistics_rate=0.25))
    norms = [batch(seed)[0].norm(dim=1) for seed in range(3)]
    loss(*batch(0))
    mean, deviation = norms[0].mean().item(), norms[0].std().item()
    assert statistics_of(loss) == pytest.approx((mean, deviation))
    for seed in (1, 2):
        loss(*batch(seed))
        mean = 0.75 * mean + 0.25 * norms[seed].mean().item()
        deviation = 0.75 * deviation + 0.25 * norms[seed].std().item()
    assert statistics_of(loss) == pytest.approx((mean, deviation))


def test_a_batch_of_one_row_does_not_spoil_the_statistics_of_adaface() -> None:
    loss = build(AdaFaceConfig())
    one, label = batch(5, rows=1)
    first = loss(one, label)
    torch.testing.assert_close(first, build(CosFaceConfig(margin_cos=0.4))(one, label))  # nothing known: z is 0
    loss(*batch(0))
    before = statistics_of(loss)
    assert loss(one, label).isfinite()
    assert statistics_of(loss) == before
    assert all(math.isfinite(value) for value in before)


def test_adaface_asks_more_of_long_embeddings_that_are_far_off() -> None:
    loss = build(AdaFaceConfig()).eval()
    assert isinstance(loss.rule, Quality)
    loss.rule.mean.fill_(2.0)
    loss.rule.deviation.fill_(0.5)
    cosines, labels = torch.tensor([0.0, 0.0, 0.0]), torch.zeros(3, dtype=torch.int64)
    moved = loss.rule.target(cosines, torch.tensor([0.0, 2.0, 9.0]), labels)
    expected = [math.cos(math.pi / 2 + 0.4), -0.4, math.cos(math.pi / 2 - 0.4) - 0.8]
    assert moved.tolist() == pytest.approx(expected, abs=1e-6)


def test_features_of_one_length_make_adaface_cosface_and_magface_arcface_with_one_margin() -> None:
    embeddings, labels = batch()
    embeddings = functional.normalize(embeddings)
    ada = build(AdaFaceConfig())
    for _ in range(3):
        results = ada(embeddings, labels)
    torch.testing.assert_close(results, build(CosFaceConfig(margin_cos=0.4))(embeddings, labels), rtol=1e-4, atol=1e-4)
    rule = build(MagFaceConfig()).rule
    cosines = torch.linspace(-0.8, 0.9, len(labels))
    moved = rule.target(cosines, embeddings.norm(dim=1), labels)
    torch.testing.assert_close(moved, (cosines.acos() + 0.45).cos(), rtol=1e-5, atol=1e-6)


def test_magface_makes_embeddings_longer_and_adaface_leaves_their_length_alone() -> None:
    embeddings, labels = batch()

    def along(config: MarginSoftmaxConfig) -> Tensor:
        _, on_embeddings, _ = gradients(build(config), embeddings, labels)
        return (on_embeddings * functional.normalize(embeddings)).sum(1)

    assert along(AdaFaceConfig()).abs().max() < 1e-5
    same_margin = MagFaceConfig(
        shortest_margin_rad=0.5, longest_margin_rad=0.5, shortest_norm=0.5, longest_norm=50.0, norm_weight=35.0
    )
    assert (along(same_margin) < 0).all()


@pytest.mark.parametrize("config", [ElasticArcFaceConfig(), ElasticCosFaceConfig()], ids=repr)
def test_elastic_margins_are_normal_around_the_mean_and_of_each_row(config: MarginSoftmaxConfig) -> None:
    rule = build(config).rule
    cosines = torch.zeros(20_000)  # a right angle
    moved = rule.target(cosines, cosines, torch.zeros(20_000, dtype=torch.int64))
    margins = -moved.asin() if isinstance(config, ElasticArcFaceConfig) else -moved
    mean = 0.5 if isinstance(config, ElasticArcFaceConfig) else 0.35
    assert margins.mean().item() == pytest.approx(mean, abs=5e-4)
    assert margins.std().item() == pytest.approx(0.0125, rel=0.03)
    assert len(set(margins.tolist())) > 10_000


def test_wide_elastic_margins_are_cut_where_they_would_turn_round() -> None:
    cosines = torch.zeros(5_000)
    labels = torch.zeros(5_000, dtype=torch.int64)
    moved = build(ElasticCosFaceConfig(deviation_cos=1.0)).rule.target(cosines, cosines, labels)
    assert (moved.min().item(), moved.max().item()) == (-1.0, 0.0)
    moved = build(ElasticArcFaceConfig(deviation_rad=3.0)).rule.target(cosines, cosines, labels)
    assert moved.isfinite().all()
    assert moved.max() <= 1e-6


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_a_loss_goes_on_from_its_state_dict_as_if_it_had_not_stopped(config: MarginSoftmaxConfig) -> None:
    loss = build(config)
    loss.at(0.3)
    for seed in range(3):
        loss(*batch(seed))
    again = build(config, seed=9)
    again.load_state_dict({name: value.clone() for name, value in loss.state_dict().items()})
    again.at(0.3)
    for seed in (7, 8):
        assert torch.equal(loss(*batch(seed)), again(*batch(seed)))
    for name, value in loss.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_evaluation_learns_and_draws_nothing(config: MarginSoftmaxConfig) -> None:
    loss = build(config)
    loss(*batch(0))
    loss.eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    first = loss(*batch(1))
    assert torch.equal(first, loss(*batch(1)))
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_running_means_do_not_stall_where_the_weights_are_bfloat16() -> None:
    loss = build(CurricularFaceConfig()).bfloat16()
    assert isinstance(loss.rule, Curriculum)
    with torch.no_grad():
        embeddings = loss.weight[torch.arange(4)].clone()
    for _ in range(300):
        loss(embeddings, torch.arange(4))
    assert loss.rule.progress.item() == pytest.approx(1 - 0.99**300, rel=0.01)


def test_a_loss_draws_its_margins_from_the_generator_it_was_built_with() -> None:
    state = torch.get_rng_state()
    first, again, other = (build(ElasticArcFaceConfig(deviation_rad=0.2), seed=seed) for seed in (1, 1, 2))
    embeddings, labels = batch()
    values = [loss(embeddings, labels) for loss in (first, again, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert torch.equal(torch.get_rng_state(), state)
