"""Each loss on pairs against loops, and against PyTorch Metric Learning, with its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_metric_learning.losses as peer
import torch
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor

from stages.training.pairs import rows as rows_module
from stages.training.pairs.distance_losses import Margin
from stages.training.pairs.kinds import (
    AllConfig,
    ContrastiveConfig,
    DistanceWeightedConfig,
    EasyPositivesConfig,
    HardConfig,
    MarginConfig,
    MinerConfig,
    MultiSimilarityConfig,
    PairLossConfig,
    RangeConfig,
    RecallConfig,
    SemiHardConfig,
    SmoothApConfig,
    SupConConfig,
    TripletConfig,
)
from stages.training.pairs.loss import PairLoss, RowWise
from stages.training.pairs.miners import pick
from tests.oracles import pairs as oracle
from tests.toys.losses import central_differences
from tests.toys.pairs import ALONE, BATCHES, FEW, ONE_CLASS, REMEMBERED, Batch, as_set

Oracle = Callable[[oracle.Compared], float]

WITH_MEMORY: dict[str, tuple[Any, Oracle]] = {
    "contrastive": (
        ContrastiveConfig(margin_dist=1.1, positive_margin_dist=0.3, memory=50),
        lambda compared: oracle.contrastive(compared, 0.3, 1.1),
    ),
    "contrastive in reach of all": (
        ContrastiveConfig(margin_dist=2.0, memory=50),
        lambda compared: oracle.contrastive(compared, 0.0, 2.0),
    ),
    "every triplet": (
        TripletConfig(margin_dist=0.3, memory=50, miner=AllConfig()),
        lambda compared: oracle.triplet(compared, oracle.all_triples(compared), 0.3),
    ),
    "semi-hard triplets": (
        TripletConfig(margin_dist=0.3, memory=50, miner=SemiHardConfig()),
        lambda compared: oracle.triplet(compared, oracle.semi_hard(compared, 0.3), 0.3),
    ),
    "hard triplets": (
        TripletConfig(margin_dist=0.3, memory=50, miner=HardConfig(positives=2, negatives=2)),
        lambda compared: oracle.triplet(compared, oracle.hard(compared, 2, 2), 0.3),
    ),
    "easy positives": (
        TripletConfig(margin_dist=0.3, memory=50, miner=EasyPositivesConfig(negatives="hard")),
        lambda compared: oracle.triplet(compared, oracle.easy_positives(compared, None), 0.3),
    ),
    "margin": (
        MarginConfig(memory=50, miner=HardConfig(), beta_weight=0.1),
        lambda compared: oracle.margin(compared, oracle.hard(compared, 1, 1), 0.2, [1.2], 0.1),
    ),
    "margin by class": (
        MarginConfig(memory=50, miner=HardConfig(), beta="by_class", beta_weight=0.1),
        lambda compared: oracle.margin(compared, oracle.hard(compared, 1, 1), 0.2, [1.2] * 5, 0.1),
    ),
    "multi-similarity": (
        MultiSimilarityConfig(memory=50),
        lambda compared: oracle.multi_similarity(compared, 2.0, 50.0, 0.5, 0.1),
    ),
    "multi-similarity of all pairs": (
        MultiSimilarityConfig(slack_cos=2.0, negative_scale=40.0, threshold_cos=0.3, memory=50),
        lambda compared: oracle.multi_similarity(compared, 2.0, 40.0, 0.3, 2.0),
    ),
    "supcon": (SupConConfig(scale=8.0, memory=50), lambda compared: oracle.supcon(compared, 8.0)),
}
IN_BATCH: dict[str, tuple[Any, Oracle]] = {
    "smooth-ap": (SmoothApConfig(scale=20.0), lambda compared: oracle.smooth_ap(compared, 20.0)),
    "recall": (
        RecallConfig(ks=(1, 3), scale=20.0, rank_scale=0.7),
        lambda compared: oracle.recall(compared, (1, 3), 20.0, 0.7),
    ),
    "range": (
        RangeConfig(margin_dist=1.3, farthest=2, within_weight=0.5, between_weight=2.0),
        lambda compared: oracle.range_loss(compared, 2, 1.3, 0.5, 2.0),
    ),
}
LOSSES = WITH_MEMORY | IN_BATCH
SOME = [name for name in BATCHES if name not in ("no positives", "one class")]


@pytest.fixture(params=[2**22, 10], ids=["one block", "a row a block"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, request.param)


def cut(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """Have blocks of so many numbers."""
    monkeypatch.setattr(rows_module, "_NUMBERS", numbers)
    monkeypatch.setattr(rows_module, "_LEAST", min(numbers, rows_module._LEAST))

    return


def built(config: PairLossConfig, batch: Batch) -> PairLoss:
    loss = config.build(batch.embeddings.shape[1], torch.full((5,), 9), torch.Generator().manual_seed(3)).double()
    if isinstance(loss, RowWise) and loss.memory.size:
        batch.fill(loss.memory)
    return loss


def value_and_gradient(loss: PairLoss, batch: Batch) -> tuple[Tensor, Tensor]:
    embeddings = batch.embeddings.clone().requires_grad_()
    value = loss(embeddings, batch.labels, batch.rows)
    value.backward()
    assert embeddings.grad is not None
    return value.detach(), embeddings.grad


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    ("name", "compared"),
    [
        (name, compared)
        for name in LOSSES
        for compared in SOME
        if not (name in IN_BATCH and len(BATCHES[compared].memory))
    ],
)
def test_a_loss_is_its_definition_written_as_loops(name: str, compared: str) -> None:
    config, wanted = LOSSES[name]
    batch = BATCHES[compared]
    value, _ = value_and_gradient(built(config, batch), batch)
    assert float(value) == pytest.approx(wanted(batch.plain()), rel=1e-6)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_the_loops_by_differences(name: str) -> None:
    config, wanted = LOSSES[name]
    batch = FEW if name in IN_BATCH else REMEMBERED
    _, gradient = value_and_gradient(built(config, batch), batch)

    def moved(vectors: list[list[float]]) -> float:
        return wanted(oracle.Compared([oracle.unit(v) for v in vectors] + plain.vectors[plain.batch :], *rest))

    plain = batch.plain()
    rest = plain.labels, plain.rows, plain.batch
    torch.testing.assert_close(gradient, central_differences(moved, batch.embeddings), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch", [ALONE, ONE_CLASS], ids=["no positives", "no negatives"])
def test_where_nothing_can_be_compared_value_and_gradient_are_finite(name: str, batch: Batch) -> None:
    value, gradient = value_and_gradient(built(LOSSES[name][0], batch), batch)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_equal_and_opposite_embeddings_have_finite_gradients(name: str) -> None:
    vectors = torch.eye(4, dtype=torch.float32)[[0, 0, 0, 1, 1, 1]]
    vectors[2] *= -1
    vectors.requires_grad_()
    loss = LOSSES[name][0].build(4, torch.tensor([3, 3]), torch.Generator())
    loss(vectors, torch.tensor([0, 0, 0, 1, 1, 1])).backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


# Against the library's own way


def enumerated(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The library's arguments: embeddings to differentiate, those compared with and their labels, all pairs."""
    embeddings = batch.embeddings.clone().requires_grad_()
    against = torch.cat([embeddings, batch.memory])
    plain = batch.plain()
    pairs = [
        [(a, r) for a in range(plain.batch) for r in compared(a)] for compared in (plain.positives, plain.negatives)
    ]
    (a1, p), (a2, n) = (torch.tensor(compared).T for compared in pairs)
    return embeddings, against, torch.cat([batch.labels, batch.memory_labels]), *(a1, p), torch.stack([a2, n])


PEERS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "contrastive": (
        ContrastiveConfig(margin_dist=1.1, positive_margin_dist=0.3, memory=50),
        lambda: peer.ContrastiveLoss(0.3, 1.1),
    ),
    "multi-similarity of all pairs": (
        MultiSimilarityConfig(slack_cos=2.0, memory=50),
        peer.MultiSimilarityLoss,
    ),
    "supcon": (SupConConfig(memory=50), peer.SupConLoss),
}


@pytest.mark.parametrize("name", PEERS)
def test_memory_gives_value_and_gradient_of_listing_every_pair_with_the_library(name: str) -> None:
    config, make = PEERS[name]
    value, gradient = value_and_gradient(built(config, REMEMBERED), REMEMBERED)
    embeddings, against, labels, a1, p, negative = enumerated(REMEMBERED)
    wanted = make()(embeddings, REMEMBERED.labels, (a1, p, negative[0], negative[1]), against, labels)
    wanted.backward()
    torch.testing.assert_close(value, wanted.detach())
    torch.testing.assert_close(gradient, embeddings.grad)


def test_multi_similarity_looks_at_the_pairs_of_the_librarys_miner() -> None:
    value, gradient = value_and_gradient(built(MultiSimilarityConfig(), FEW), FEW)
    embeddings = FEW.embeddings.clone().requires_grad_()
    wanted = peer.MultiSimilarityLoss()(embeddings, FEW.labels, MultiSimilarityMiner(0.1)(embeddings, FEW.labels))
    wanted.backward()
    torch.testing.assert_close(value, wanted.detach())
    torch.testing.assert_close(gradient, embeddings.grad)


def test_every_triplet_is_what_the_library_makes_of_all_of_them() -> None:
    value, gradient = value_and_gradient(built(TripletConfig(margin_dist=0.25, miner=AllConfig()), FEW), FEW)
    embeddings = FEW.embeddings.clone().requires_grad_()
    wanted = peer.TripletMarginLoss(0.25)(embeddings, FEW.labels)
    wanted.backward()
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(gradient, embeddings.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("beta", ["one", "by_class", "fixed"])
def test_the_margin_loss_learns_beta_as_the_library_does(beta: Any) -> None:
    weight = 0.0 if beta == "fixed" else 0.3
    miner = HardConfig(positives=2, negatives=2)
    loss = built(MarginConfig(beta=beta, beta_weight=weight, miner=miner), FEW)
    assert isinstance(loss, RowWise)
    assert isinstance(loss.rule, Margin)
    value, gradient = value_and_gradient(loss, FEW)
    embeddings = FEW.embeddings.clone().requires_grad_()
    other = peer.MarginLoss(
        0.2, weight, 1.2, learn_beta=beta != "fixed", num_classes=5 if beta == "by_class" else None
    ).double()
    chosen = pick(miner, FEW.block(), 0.2)
    wanted = other(embeddings, FEW.labels, tuple(chosen))
    wanted.backward()
    torch.testing.assert_close(value, wanted.detach().squeeze())
    torch.testing.assert_close(gradient, embeddings.grad)
    if beta == "fixed":
        assert list(loss.parameters()) == []
    else:
        torch.testing.assert_close(loss.rule.beta.grad, other.beta.grad)


def test_smooth_ap_of_the_library_is_wrong_unless_classes_are_as_many_as_images_a_class() -> None:
    """Why ours is our own. It counts the query among its results too."""

    def with_itself(embeddings: Tensor, labels: Tensor) -> float:
        vectors = [oracle.unit(vector) for vector in embeddings.tolist()]
        compared = oracle.Compared(vectors, labels.tolist(), list(range(len(vectors))), len(vectors))
        losses = []
        for row in range(len(vectors)):
            own, every = [row, *compared.positives(row)], range(len(vectors))
            ranks = [
                oracle.smooth_rank(compared, row, p, own, 100) / oracle.smooth_rank(compared, row, p, every, 100)
                for p in own
            ]
            losses.append(1 - sum(ranks) / len(own))
        return sum(losses) / len(losses)

    embeddings = torch.randn(16, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for classes, right in ((4, True), (2, False), (8, False)):
        labels = torch.arange(classes).repeat_interleave(16 // classes)
        results = float(peer.SmoothAPLoss()(embeddings, labels))
        assert (results == pytest.approx(with_itself(embeddings, labels), rel=1e-4)) == right


# Steps


def test_threads_and_blocks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for count, numbers in ((1, 2**22), (1, 10), (3, 10)):
        torch.set_num_threads(count)
        cut(monkeypatch, numbers)
        config = TripletConfig(miner=HardConfig(), memory=50)
        results.append(value_and_gradient(built(config, REMEMBERED), REMEMBERED))
    for value, gradient in results[1:]:
        torch.testing.assert_close(value, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])


def test_drawn_negatives_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    cut(monkeypatch, 10)
    for count in (1, 3):
        torch.set_num_threads(count)
        config = MarginConfig(miner=DistanceWeightedConfig(farthest_dist=1.9))
        results.append([float(value_and_gradient(built(config, FEW), FEW)[0])])
    assert results[0] == pytest.approx(results[1], rel=1e-12)


def test_margins_move_as_scheduled() -> None:
    from stages.training import Ramp

    every: dict[str, Any] = {"miner": AllConfig()}
    losses: list[tuple[Any, dict[str, Any]]] = [(ContrastiveConfig, every), (TripletConfig, every), (RangeConfig, {})]
    for config, settings in losses:
        ramped = built(config(margin_dist=Ramp(0.2, 1.0), **settings), FEW)
        ramped.at(0.75)
        fixed = built(config(margin_dist=0.8, **settings), FEW)
        torch.testing.assert_close(value_and_gradient(ramped, FEW), value_and_gradient(fixed, FEW))


@pytest.mark.parametrize("miner", [SemiHardConfig(), HardConfig(), EasyPositivesConfig()])
def test_what_the_miner_found_is_counted(miner: MinerConfig) -> None:
    loss = built(TripletConfig(margin_dist=0.2, miner=miner), FEW)
    for _ in range(2):
        value_and_gradient(loss, FEW)
    plain, chosen = FEW.plain(), sorted(as_set(pick(miner, FEW.block(), 0.2)))
    results = loss.take_statistics()
    zero = [plain.d(a, p) - plain.d(a, n) + 0.2 <= 0 for a, p, n in chosen]
    hardness = [plain.c(a, n) - plain.c(a, p) for a, p, n in chosen]
    assert results.chosen == 2 * len(chosen)
    assert results.zero_share == pytest.approx(sum(zero) / len(zero))
    assert results.hardness == pytest.approx(sum(hardness) / len(hardness))
    assert loss.take_statistics().zero_share is None


def test_without_a_miner_all_pairs_are_counted() -> None:
    loss = built(ContrastiveConfig(margin_dist=0.9), FEW)
    value_and_gradient(loss, FEW)
    plain, results = FEW.plain(), loss.take_statistics()
    positives = [(a, p) for a in range(plain.batch) for p in plain.positives(a)]
    negatives = [(a, n) for a in range(plain.batch) for n in plain.negatives(a)]
    zero = sum(plain.d(a, n) >= 0.9 for a, n in negatives)
    assert results.chosen == len(positives) + len(negatives) == 90
    assert results.zero_share == pytest.approx(zero / 90)
    means = [sum(plain.c(*pair) for pair in compared) / len(compared) for compared in (negatives, positives)]
    assert results.hardness == pytest.approx(means[0] - means[1])


BAD: list[tuple[Any, dict[str, object], str]] = [
    (ContrastiveConfig, {"margin_dist": 2.5}, r"margin_dist is a distance of embeddings of unit length, in \[0, 2\]"),
    (ContrastiveConfig, {"positive_margin_dist": -0.1}, r"positive_margin_dist is a distance .* got -0.1"),
    (ContrastiveConfig, {"memory": -1}, "memory is a number of embeddings of earlier batches, at least 0, got -1"),
    (TripletConfig, {"margin_dist": 28.6}, r"margin_dist is a distance of embeddings of unit length, in \[0, 2\]"),
    (TripletConfig, {"margin_dist": 0.0, "miner": SemiHardConfig()}, "above 0 for the miner semi_hard, got 0.0"),
    (MarginConfig, {"beta_dist": 0.0}, r"beta_dist is a distance .* in \(0, 2\), got 0.0"),
    (MarginConfig, {"beta": "both"}, "beta is one, by_class or fixed, got 'both'"),
    (MarginConfig, {"beta_weight": -1.0}, "beta_weight is at least 0 and finite, got -1"),
    (MarginConfig, {"beta": "fixed", "beta_weight": 1.0}, "this one is fixed: leave beta_weight out"),
    (MultiSimilarityConfig, {"negative_scale": 0.0}, "negative_scale is a factor, above 0 and finite"),
    (MultiSimilarityConfig, {"threshold_cos": 2.0}, r"threshold_cos is a cosine, in \[-1, 1\], got 2.0"),
    (MultiSimilarityConfig, {"slack_cos": -0.1}, r"slack_cos is a difference of cosines, in \[0, 2\], got -0.1"),
    (SupConConfig, {"scale": 0.0}, "scale is a factor, above 0 and finite, got 0.0"),
    (SmoothApConfig, {"scale": float("inf")}, "scale is a factor, above 0 and finite, got inf"),
    (RecallConfig, {"ks": ()}, r"ks is one or more ranks, each once, at least 1, got \[\]"),
    (RecallConfig, {"ks": (0, 2)}, r"ks is one or more ranks, .* got \[0, 2\]"),
    (RangeConfig, {"farthest": 0}, "farthest is how many distances of a class count, at least 1, got 0"),
    (RangeConfig, {"within_weight": 0.0, "between_weight": 0.0}, "both 0: nothing is left of the loss"),
    (RangeConfig, {"within_weight": -1.0}, "within_weight is at least 0 and finite, got -1"),
]


@pytest.mark.parametrize(("config", "settings", "message"), BAD)
def test_a_bad_setting_is_refused(config: Any, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)
