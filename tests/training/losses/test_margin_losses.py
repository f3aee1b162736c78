from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss, SphereFaceLoss
from torch.nn import functional

from stages.training import (
    AdaCosConfig,
    AdaFaceConfig,
    ArcFaceConfig,
    CosFaceConfig,
    CurricularFaceConfig,
    ElasticArcFaceConfig,
    ElasticCosFaceConfig,
    LiArcFaceConfig,
    MagFaceConfig,
    NormFaceConfig,
    SampledConfig,
    SphereFaceConfig,
)
from stages.training.losses.angle import add_angle
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import MarginSoftmaxConfig
from stages.training.losses.rules import Curriculum, Quality, multiply_angle
from tests.oracles import losses as oracle
from tests.toys.losses import CLASSES, DIM, FAMILY, batch, build, by_class, central_differences, gradients

Value = Callable[[Any, list[int], oracle.Prototypes], float]

SCALE = 16.0


def plain(logits: oracle.Logits, smoothing: float = 0.0) -> Value:
    return lambda embeddings, labels, prototypes: oracle.softmax_loss(embeddings, labels, prototypes, logits, smoothing)


def paper_of(config: MarginSoftmaxConfig, loss: MarginSoftmax, norms: list[float]) -> Value:
    """The loss as its paper has it; what the rule has learned is a constant of it, and so is AdaFace's norm."""
    match config:
        case NormFaceConfig():
            return plain(oracle.moving(lambda cos: cos, SCALE), config.label_smoothing)
        case ArcFaceConfig(margin_rad=float(margin)) | ElasticArcFaceConfig(margin_rad=float(margin)):
            return plain(oracle.moving(lambda cos: oracle.arcface_target(cos, margin), SCALE), config.label_smoothing)
        case CosFaceConfig(margin_cos=float(margin)) | ElasticCosFaceConfig(margin_cos=float(margin)):
            return plain(oracle.moving(lambda cos: oracle.cosface_target(cos, margin), SCALE), config.label_smoothing)
        case SphereFaceConfig(margin_factor=float(factor)):
            return plain(oracle.moving(lambda cos: oracle.sphereface_target(cos, factor), SCALE))
        case LiArcFaceConfig(margin_rad=float(margin)):
            return plain(oracle.li_arcface(margin, SCALE), config.label_smoothing)
        case CurricularFaceConfig(margin_rad=float(margin)):
            assert isinstance(loss.rule, Curriculum)
            return plain(oracle.curricularface(margin, loss.rule.progress.item(), SCALE), config.label_smoothing)
        case AdaFaceConfig(margin=float(margin)):
            assert isinstance(loss.rule, Quality)
            mean, deviation = loss.rule.mean.item(), loss.rule.deviation.item()
            quality = [oracle.adaface_quality(norm, mean, deviation, config.concentration) for norm in norms]
            return plain(oracle.adaface(margin, quality, SCALE))
        case MagFaceConfig():
            margins = config.shortest_margin_rad, config.longest_margin_rad
            bounds = config.shortest_norm, config.longest_norm
            return lambda embeddings, labels, prototypes: oracle.magface(
                embeddings, labels, prototypes, margins, bounds, config.norm_weight, SCALE
            )
        case AdaCosConfig():
            return plain(oracle.moving(lambda cos: cos, oracle.adacos_first_scale(loss.classes)))
    raise AssertionError(config)


PAPERS: list[MarginSoftmaxConfig] = [
    NormFaceConfig(scale=SCALE),
    NormFaceConfig(scale=SCALE, label_smoothing=0.2, subcenters=3),
    ArcFaceConfig(scale=SCALE),
    ArcFaceConfig(scale=SCALE, margin_rad=2.5, subcenters=2, label_smoothing=0.1),
    CosFaceConfig(scale=SCALE, subcenters=4, label_smoothing=0.1),
    SphereFaceConfig(scale=SCALE),
    SphereFaceConfig(scale=SCALE, margin_factor=4.0, subcenters=2),
    LiArcFaceConfig(scale=SCALE),
    LiArcFaceConfig(scale=SCALE, margin_rad=1.0, subcenters=2, label_smoothing=0.1),
    CurricularFaceConfig(scale=SCALE),
    CurricularFaceConfig(scale=SCALE, margin_rad=0.2, subcenters=3, label_smoothing=0.1),
    AdaFaceConfig(scale=SCALE),
    AdaFaceConfig(scale=SCALE, margin=0.8, concentration=1.5, subcenters=2),
    MagFaceConfig(scale=SCALE),
    MagFaceConfig(scale=SCALE, shortest_norm=1.5, longest_norm=2.5, norm_weight=2.0, subcenters=2),
    ElasticArcFaceConfig(scale=SCALE),
    ElasticCosFaceConfig(scale=SCALE, subcenters=2),
    AdaCosConfig(),
    AdaCosConfig(dynamic=False, subcenters=2),
]


def learned(loss: MarginSoftmax) -> MarginSoftmax:
    """``loss`` with statistics as they are in the middle of a training, and no longer moving."""
    if isinstance(loss.rule, Curriculum):
        loss.rule.progress.fill_(0.3)
    if isinstance(loss.rule, Quality):
        loss.rule.mean.fill_(2.2)
        loss.rule.deviation.fill_(0.5)
    return loss.eval()


@pytest.mark.parametrize("config", PAPERS, ids=repr)
def test_a_loss_matches_its_paper_written_as_loops(config: MarginSoftmaxConfig) -> None:
    loss = learned(build(config))
    embeddings, labels = batch()
    paper = paper_of(config, loss, [oracle.norm(row) for row in embeddings.tolist()])
    expected = paper(embeddings.tolist(), labels.tolist(), by_class(loss.weight.tolist(), CLASSES))
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("config", PAPERS, ids=repr)
def test_its_gradients_match_the_differences_of_those_loops(config: MarginSoftmaxConfig) -> None:
    loss = learned(build(config, classes=4)).double()
    embeddings, labels = batch(rows=5, classes=4)
    embeddings = embeddings.double()
    paper = paper_of(config, loss, [oracle.norm(row) for row in embeddings.tolist()])
    rows, weight, places = embeddings.tolist(), loss.weight.detach(), labels.tolist()
    _, on_embeddings, on_weight = gradients(loss, embeddings, labels)
    nudged = central_differences(lambda rows: paper(rows, places, by_class(weight.tolist(), 4)), embeddings)
    torch.testing.assert_close(on_embeddings, nudged, rtol=1e-5, atol=1e-7)
    nudged = central_differences(lambda weights: paper(rows, places, by_class(weights, 4)), weight)
    torch.testing.assert_close(on_weight, nudged, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of theirs
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_sphereface_and_its_gradients_match_pytorch_metric_learning(factor: int) -> None:
    theirs = SphereFaceLoss(CLASSES, DIM, margin=factor, scale=30)
    assert_same_as_pytorch_metric_learning(SphereFaceConfig(margin_factor=float(factor)), theirs)


def test_normface_and_its_gradients_match_pytorch_metric_learning() -> None:
    assert_same_as_pytorch_metric_learning(NormFaceConfig(), NormalizedSoftmaxLoss(CLASSES, DIM, temperature=1 / 30))


def assert_same_as_pytorch_metric_learning(config: MarginSoftmaxConfig, theirs: torch.nn.Module) -> None:
    ours = build(config)
    embeddings, labels = batch()
    theirs.W = torch.nn.Parameter(ours.weight.detach().T.clone())
    value, on_embeddings, on_weight = gradients(ours, embeddings, labels)
    leaf = embeddings.clone().requires_grad_()
    expected = theirs(functional.normalize(leaf), labels)  # SphereFace there multiplies by the norm
    expected_on_embeddings, expected_on_weight = torch.autograd.grad(expected, [leaf, theirs.W])
    torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(on_embeddings, expected_on_embeddings, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(on_weight, expected_on_weight.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        NormFaceConfig(),
        ArcFaceConfig(margin_rad=0.0),
        CosFaceConfig(margin_cos=0.0),
        SphereFaceConfig(margin_factor=1.0),
        AdaFaceConfig(margin=0.0),
        MagFaceConfig(shortest_margin_rad=0.0, longest_margin_rad=0.0, norm_weight=0.0),
        ElasticArcFaceConfig(margin_rad=0.0, deviation_rad=0.0),
        ElasticCosFaceConfig(margin_cos=0.0, deviation_cos=0.0),
    ],
    ids=repr,
)
def test_margin_0_is_the_cosine_softmax(config: MarginSoftmaxConfig) -> None:
    loss = build(config)
    embeddings, labels = batch()
    cosines = functional.cosine_similarity(embeddings[:, None], loss.weight[None], dim=2)
    torch.testing.assert_close(loss(embeddings, labels), functional.cross_entropy(30.0 * cosines, labels))


def test_li_arcface_with_margin_0_is_the_softmax_of_straight_angles() -> None:
    loss = build(LiArcFaceConfig(margin_rad=0.0))
    embeddings, labels = batch()
    angles = functional.cosine_similarity(embeddings[:, None], loss.weight[None], dim=2).acos()
    expected = functional.cross_entropy(30.0 * (1 - 2 * angles / math.pi), labels)
    torch.testing.assert_close(loss(embeddings, labels), expected)


# The published straight line past pi begins above -1 where the margin is over 2.33.
@pytest.mark.parametrize("config", [config for config in FAMILY if getattr(config, "margin_rad", 0) != 3.0], ids=repr)
def test_a_target_grows_with_its_cosine_and_is_never_above_it(config: MarginSoftmaxConfig) -> None:
    rule = learned(build(config)).rule
    cosines = torch.linspace(-1, 1, 500, dtype=torch.float64)
    moved = rule.target(cosines, torch.full_like(cosines, 2.0), torch.zeros(500, dtype=torch.int64))
    assert (moved.diff() >= 0).all()
    straight = isinstance(config, LiArcFaceConfig)  # of the angle, it crosses the cosine
    assert straight or (moved <= cosines + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_gradients_are_finite_where_embeddings_lie_on_prototypes_and_opposite(
    config: MarginSoftmaxConfig, dtype: torch.dtype
) -> None:
    loss = build(config, classes=3).to(dtype)
    axes = torch.eye(3, DIM, dtype=dtype)
    with torch.no_grad():
        loss.weight.copy_(torch.cat([axes] * config.subcenters))
    embeddings = torch.cat([axes, -axes, axes])  # of the own class, against it, of another class
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0])
    for share in (0.0, 0.5, 1.0):
        loss.at(share)
        for values in gradients(loss, embeddings, labels):
            assert values.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in loss.state_dict().values())


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_gradients_are_finite_there_for_sampled_classes_and_bfloat16_products(config: MarginSoftmaxConfig) -> None:
    for other in (replace(config, precision="bfloat16"), replace(config, sampled=SampledConfig(share=0.7, least=1))):
        loss = build(other, classes=3)
        axes = torch.eye(3, DIM)
        with torch.no_grad():
            loss.weight.copy_(torch.cat([axes] * config.subcenters))
        labels = torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0])
        for values in gradients(loss, torch.cat([axes, -axes, axes]), labels):
            assert values.to_dense().isfinite().all()
        assert all(tensor.isfinite().all() for tensor in loss.state_dict().values())


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_zero_vectors_give_zero_gradients_and_leave_the_others_theirs(config: MarginSoftmaxConfig) -> None:
    loss = build(config)
    embeddings, labels = batch()
    embeddings[3] = 0
    with torch.no_grad():
        loss.weight.view(config.subcenters, CLASSES, DIM)[:, 2] = 0
    value, on_embeddings, on_weight = gradients(loss, embeddings, labels)
    assert value.isfinite()
    assert on_embeddings.isfinite().all()
    assert on_weight.isfinite().all()
    assert (on_embeddings[3] == 0).all()
    assert (on_weight.view(config.subcenters, CLASSES, DIM)[:, 2] == 0).all()
    assert (on_embeddings[4] != 0).any()


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_a_batch_of_zero_vectors_leaves_the_loss_and_its_state_finite(config: MarginSoftmaxConfig) -> None:
    loss = build(config)
    assert loss(torch.zeros(4, DIM), torch.tensor([0, 1, 2, 3])).isfinite()
    embeddings, labels = batch()
    assert all(values.isfinite().all() for values in gradients(loss, embeddings, labels))


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_one_class_one_row_and_two_classes_are_enough(config: MarginSoftmaxConfig) -> None:
    for classes in (1, 2, CLASSES):
        loss = build(config, classes=classes)
        embeddings, labels = batch(rows=1, classes=classes)
        for _ in range(3):
            value, on_embeddings, on_weight = gradients(loss, embeddings, labels)
            assert value.isfinite()
            assert on_embeddings.isfinite().all()
            assert on_weight.isfinite().all()
        assert classes > 1 or (on_weight == 0).all()
        embeddings, labels = batch(classes=classes)
        assert all(values.isfinite().all() for values in gradients(loss, embeddings, labels))


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_equal_class_sizes_give_a_finite_loss(config: MarginSoftmaxConfig) -> None:
    loss = config.build(DIM, torch.full((CLASSES,), 4), torch.Generator().manual_seed(1))
    assert all(values.isfinite().all() for values in gradients(loss, *batch()))


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_bfloat16_embeddings_give_about_the_loss_of_float32(config: MarginSoftmaxConfig) -> None:
    embeddings, labels = batch()
    exact = build(config)(embeddings, labels)
    loss = build(config)
    rough = loss(embeddings.bfloat16(), labels)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.03)
    assert all(values.isfinite().all() for values in gradients(loss, embeddings.bfloat16(), labels))


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_the_order_of_the_rows_does_not_matter(config: MarginSoftmaxConfig) -> None:
    loss = build(config).eval()
    embeddings, labels = batch()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss(embeddings[order], labels[order]), loss(embeddings, labels))


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_targets_of_several_heads_are_moved_at_once(config: MarginSoftmaxConfig) -> None:
    rule = build(config).eval().rule
    cosines = torch.linspace(-0.99, 0.99, 15).view(3, 5)
    norms = torch.linspace(0.5, 5, 15).view(3, 5)
    labels = torch.tensor([0, 6, 2, 3, 1])
    together = rule.target(cosines, norms, labels)
    each = [rule.target(cosine, norm, labels) for cosine, norm in zip(cosines, norms, strict=True)]
    torch.testing.assert_close(together, torch.stack(each))


def test_margins_of_several_heads_broadcast() -> None:
    cosines = torch.linspace(-0.99, 0.99, 15).view(3, 5)
    margins = torch.tensor([[0.0], [0.3], [1.0]])
    each = [add_angle(cosine, margin.item()) for cosine, margin in zip(cosines, margins, strict=True)]
    torch.testing.assert_close(add_angle(cosines, margins), torch.stack(each))
    each = [multiply_angle(cosine, 1 + margin.item()) for cosine, margin in zip(cosines, margins, strict=True)]
    torch.testing.assert_close(multiply_angle(cosines, 1 + margins), torch.stack(each), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_what_becomes_of_other_cosines_has_the_slope_that_is_said(config: MarginSoftmaxConfig) -> None:
    rule = learned(build(config)).rule.double()
    cosines = torch.linspace(-0.95, 0.95, 40, dtype=torch.float64).view(4, 10)
    own = torch.tensor([-0.9, -0.2, 0.31, 0.9], dtype=torch.float64)
    _, slope = rule.others(cosines, own)
    nudged = (rule.others(cosines + 1e-7, own)[0] - rule.others(cosines - 1e-7, own)[0]) / 2e-7
    torch.testing.assert_close(torch.ones_like(cosines) if slope is None else slope, nudged, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("config", FAMILY, ids=repr)
def test_every_loss_teaches_a_linear_map_to_tell_classes_apart(config: MarginSoftmaxConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 12, generator=generator)
    labels = torch.arange(8).repeat(20)
    features = centres[labels] + 0.5 * torch.randn(160, 12, generator=generator)
    head = torch.nn.Linear(12, DIM, bias=False)
    torch.nn.init.xavier_uniform_(head.weight, generator=generator)
    loss = build(config, classes=8)
    optimizer = torch.optim.Adam([*head.parameters(), *loss.parameters()], lr=0.02)

    def nearest_is_own() -> float:
        unit = functional.normalize(head(features).detach())
        return float((labels[(unit @ unit.T).fill_diagonal_(-2).argmax(1)] == labels).float().mean())

    before = nearest_is_own()
    for step in range(60):
        loss.at(step / 59)
        optimizer.zero_grad()
        loss(head(features), labels).backward()
        optimizer.step()
    assert nearest_is_own() > max(before, 0.9)


def refused(made: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()


def test_a_setting_out_of_range_is_refused_with_what_must_hold() -> None:
    refused(lambda: LiArcFaceConfig(margin_rad=26.0), r"margin_rad is an angle in radians .*, in \[0, pi\), got 26.0")
    refused(lambda: CurricularFaceConfig(margin_rad=-0.1), "margin_rad is an angle")
    refused(
        lambda: SphereFaceConfig(margin_factor=0.9),
        "margin_factor is what the angle is multiplied by, at least 1 and finite, got 0.9",
    )
    refused(lambda: AdaFaceConfig(margin=1.5), r"margin is both radians and a difference of cosines, in \[0, 1\]")
    refused(lambda: AdaFaceConfig(concentration=-1.0), "concentration is at least 0")
    refused(lambda: AdaFaceConfig(statistics_rate=0.0), "statistics_rate is the share of a new batch")
    refused(lambda: MagFaceConfig(shortest_margin_rad=0.9), "shortest_margin_rad and longest_margin_rad are angles")
    refused(lambda: MagFaceConfig(shortest_norm=0.0), "shortest_norm and longest_norm are lengths")
    refused(lambda: MagFaceConfig(norm_weight=math.inf), "norm_weight is at least 0")
    refused(lambda: ElasticArcFaceConfig(deviation_rad=-0.1), "deviation_rad is an angle")
    refused(lambda: ElasticCosFaceConfig(deviation_cos=1.1), "deviation_cos is a difference of cosines")
    refused(lambda: ElasticCosFaceConfig(margin_cos=1.1), "margin_cos is a difference of cosines")
    refused(lambda: AdaCosConfig(scale=30.0), "adacos chooses its scale, got 30.0; leave scale out")
    refused(lambda: NormFaceConfig(label_smoothing=1.0), "label_smoothing is the share")
