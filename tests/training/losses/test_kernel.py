"""The streamed softmax against one that has all logits at once, written with autograd; and what it never allocates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from stages.training.losses import tiles
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import MarginSoftmaxConfig, Ramp
from stages.training.losses.rules import Rule
from tests.oracles import losses as oracle

DIM, CLASSES, ROWS = 6, 23, 17


@dataclass(frozen=True)
class RuleOf(MarginSoftmaxConfig):
    """A loss made of a rule."""

    kind: Literal["test"] = "test"
    made: type[Rule] = Rule

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        return self.made()


class Margin(Rule):
    """The target's cosine less 0.3, and less for long embeddings, with a penalty on their length."""

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        return cosine - 0.3 - 0.05 * norms.tanh() - 0.01 * labels

    def penalty(self, norms: Tensor) -> Tensor:
        return 0.1 * norms.square().mean()


class Moving(Margin):
    """As CurricularFace: what is nearer than the moved target moves nearer still."""

    def others(self, cosine: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        hard = cosine > own[:, None]
        return torch.where(hard, cosine * (0.2 + cosine), cosine), torch.where(hard, 0.2 + 2 * cosine, 1.0)


class Fixed(Moving):
    """What the other classes are compared with stays, whatever the embeddings: to the gradient it is a constant."""

    fixed: Tensor

    def others(self, cosine: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return super().others(cosine, self.fixed)


class Remembering(Rule):
    """Remembers what it was shown."""

    needs_sums = True

    def observe(self, cosine: Tensor, norms: Tensor) -> None:
        self.seen = [cosine.clone(), norms.clone()]

    def observe_sums(self, cosine: Tensor, log_sums: Tensor) -> None:
        self.seen += [cosine.clone(), log_sums.clone()]

    def scale(self, scale: float) -> float:
        return scale / 2


def build(rule: type[Rule] = Margin, classes: int = CLASSES, **settings: Any) -> MarginSoftmax:
    config = RuleOf(made=rule, **settings)
    return config.build(DIM, torch.full((classes,), 5), torch.Generator().manual_seed(1)).double()


def batch(rows: int = ROWS, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(rows, DIM, generator=generator, dtype=torch.float64)
    return embeddings, torch.randint(classes, (rows,), generator=generator)


def dense(loss: MarginSoftmax, embeddings: Tensor, labels: Tensor) -> Tensor:
    """All logits at once, differentiated by autograd."""
    unit, table = functional.normalize(embeddings), functional.normalize(loss.weight)
    cosine = (unit @ table.T).view(len(unit), loss.subcenters, -1).amax(1)
    norms, own = embeddings.norm(dim=1), cosine.gather(1, labels[:, None])[:, 0]
    moved = loss.rule.target(own, norms, labels)
    others = cosine
    if isinstance(loss.rule, Moving):
        others = torch.where(cosine > moved.detach()[:, None], cosine * (0.2 + cosine), cosine)
    logits = loss.scale * others.scatter(1, labels[:, None], moved[:, None])
    value = functional.cross_entropy(logits, labels, label_smoothing=loss.config.label_smoothing)
    penalty = loss.rule.penalty(norms)
    return value if penalty is None else value + penalty


def with_gradients(function: Any, loss: MarginSoftmax, embeddings: Tensor, labels: Tensor) -> list[Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    value = function(embeddings, labels)
    return [value.detach(), *torch.autograd.grad(2.5 * value, [embeddings, loss.weight])]


def assert_as_dense(
    loss: MarginSoftmax, embeddings: Tensor, labels: Tensor, rtol: float | None = None, atol: float | None = None
) -> None:
    results = with_gradients(loss, loss, embeddings, labels)
    expected = with_gradients(lambda *batch: dense(loss, *batch), loss, embeddings, labels)
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.fixture
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of so many rows and numbers, so many of which are kept."""
    rows, numbers, room = request.param
    monkeypatch.setattr(tiles, "_ROWS", rows)
    monkeypatch.setattr(tiles, "_NUMBERS", numbers)
    monkeypatch.setattr(tiles, "_KEPT", room)
    monkeypatch.setattr(tiles, "_CLASSES", 1)


TILES = [(256, 1 << 19, 1 << 22), (4, 40, 0), (17, 17 * 3, 10**6), (5, 5 * 3 * 4, 200), (3, 3 * 23, 100)]


@pytest.mark.parametrize("tile", TILES, indirect=True, ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("subcenters", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", [Margin, Moving])
@pytest.mark.parametrize("scale", [8.0, 64.0])
@pytest.mark.usefixtures("tile")
def test_values_and_gradients_are_those_of_all_logits_at_once(
    rule: type[Rule], subcenters: int, smoothing: float, scale: float
) -> None:
    loss = build(rule, subcenters=subcenters, scale=scale, label_smoothing=smoothing)
    assert_as_dense(loss, *batch())


@pytest.mark.parametrize("subcenters", [1, 3])
def test_the_loss_is_that_of_the_papers_loops(subcenters: int) -> None:
    loss = build(Rule, subcenters=subcenters, scale=16.0)
    embeddings, labels = batch()
    rows = loss.weight.tolist()
    prototypes = [[rows[j * CLASSES + c] for j in range(subcenters)] for c in range(CLASSES)]
    expected = oracle.margin_softmax(embeddings.tolist(), labels.tolist(), prototypes, lambda cos: cos, 16.0)
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("subcenters", [1, 3])
def test_gradients_match_finite_differences(subcenters: int) -> None:
    loss = build(Fixed, classes=4, subcenters=subcenters, scale=5.0, label_smoothing=0.1)
    assert isinstance(loss.rule, Fixed)
    loss.rule.fixed = torch.linspace(-0.5, 0.5, 5, dtype=torch.float64)
    embeddings, labels = batch(rows=5, classes=4)
    inputs = (embeddings.requires_grad_(), loss.weight)
    assert torch.autograd.gradcheck(lambda embeddings, _: loss(embeddings, labels), inputs)


@pytest.mark.parametrize("scale", [30.0, 60.0, 500.0])
def test_logits_far_apart_neither_overflow_nor_vanish(scale: float) -> None:
    loss = build(Rule, scale=scale)
    embeddings, _ = batch(rows=CLASSES)
    with torch.no_grad():
        loss.weight.copy_(embeddings)
    for labels in (torch.arange(CLASSES), (torch.arange(CLASSES) + 1) % CLASSES):  # near 0, and near scale
        assert_as_dense(loss, embeddings, labels)
        assert_as_dense(loss.float(), embeddings.float(), labels, rtol=2e-3, atol=1e-5)
        loss.double()


def test_equal_subcenters_share_one_gradient_rather_than_each_have_it() -> None:
    one, three = build(Rule), build(Rule, subcenters=3)
    with torch.no_grad():
        three.weight.copy_(torch.cat([one.weight] * 3))
    value, on_embeddings, on_weight = with_gradients(one, one, *batch())
    same, as_well, on_three = with_gradients(three, three, *batch())
    torch.testing.assert_close(same, value)
    torch.testing.assert_close(as_well, on_embeddings)
    torch.testing.assert_close(on_three.view(3, CLASSES, DIM).sum(0), on_weight)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize("scale", [16.0, 64.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_everything_is_finite_for_zero_vectors_one_class_one_row_and_every_dtype(
    dtype: torch.dtype, scale: float, subcenters: int, rows: int, precision: Literal["float32", "bfloat16"]
) -> None:
    for classes in (1, 2, 40):
        for zero in (None, "embedding", "prototype"):
            loss = build(Moving, classes=classes, subcenters=subcenters, scale=scale, precision=precision).to(dtype)
            embeddings, labels = batch(rows, classes)
            embeddings = embeddings.to(dtype)
            with torch.no_grad():
                loss.weight[0] = 0 if zero == "prototype" else embeddings[0]  # a cosine of exactly 1
            if zero == "embedding":
                embeddings[0] = 0
            for values in with_gradients(loss, loss, embeddings, labels):
                assert values.isfinite().all()


def test_one_class_gives_no_gradient() -> None:
    loss = build(Rule, classes=1, subcenters=2, label_smoothing=0.1)
    value, *gradients = with_gradients(loss, loss, *batch(classes=1))
    assert value == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_products_of_bfloat16_are_near_and_point_the_same_way() -> None:
    generator = torch.Generator().manual_seed(3)
    embeddings, labels = torch.randn(64, DIM, generator=generator), torch.randint(300, (64,), generator=generator)
    exact, rough = (
        build(Margin, classes=300, subcenters=3, scale=20.0, precision=precision).float()
        for precision in ("float32", "bfloat16")
    )
    for one, other in zip(
        with_gradients(exact, exact, embeddings, labels), with_gradients(rough, rough, embeddings, labels), strict=True
    ):
        assert functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.999
        torch.testing.assert_close(other.norm(), one.norm(), rtol=0.02, atol=0)


def test_a_rule_is_shown_the_targets_the_norms_and_the_sums_of_the_others() -> None:
    loss = build(Remembering, scale=12.0)
    embeddings, labels = batch()
    loss(embeddings, labels)
    rule = loss.rule
    assert isinstance(rule, Remembering)
    order = labels.sort(stable=True).indices
    cosine = functional.normalize(embeddings) @ functional.normalize(loss.weight).T
    own = cosine.gather(1, labels[:, None])[:, 0]
    sums = [
        math.log(sum(math.exp(6.0 * c) for place, c in enumerate(row) if place != label))
        for row, label in zip(cosine.tolist(), labels.tolist(), strict=True)
    ]
    expected = [own, embeddings.norm(dim=1), own, torch.tensor(sums, dtype=torch.float64)]
    for results, right in zip(rule.seen, expected, strict=True):
        torch.testing.assert_close(results, right[order])
    rule.seen = []
    loss.eval()(embeddings, labels)
    assert rule.seen == []


def test_a_ramp_of_the_scale_is_where_the_training_is() -> None:
    loss = build(Rule, scale=Ramp(8.0, 32.0))
    embeddings, labels = batch()
    for share, scale in ((0.0, 8.0), (0.5, 20.0), (1.0, 32.0)):
        loss.at(share)
        torch.testing.assert_close(loss(embeddings, labels), build(Rule, scale=scale)(embeddings, labels))


def test_without_gradients_the_loss_is_the_same_and_a_second_backward_gives_the_same() -> None:
    loss = build()
    embeddings, labels = batch()
    value = loss(embeddings, labels)
    with torch.no_grad():
        assert torch.equal(loss(embeddings, labels), value)
    first = torch.autograd.grad(value, loss.weight, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(value, loss.weight)[0], first)


# Threads


def test_worker_threads_give_the_same_and_the_same_bits_again() -> None:
    embeddings, labels = batch(rows=40, classes=200)
    results = []
    for count in (1, 2, 2, 3):
        torch.set_num_threads(count)
        loss = build(Moving, classes=200, subcenters=2, label_smoothing=0.1)
        results.append(with_gradients(loss, loss, embeddings, labels))
        assert torch.get_num_threads() == count
    one, two, again, three = results
    assert all(torch.equal(a, b) for a, b in zip(two, again, strict=True))
    for other in (two, three):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


# Memory


class Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most numbers in any tensor that an operation gave."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for tensor in given if isinstance(given, (tuple, list)) else (given,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return given


def test_no_tensor_is_of_the_size_of_batch_times_classes() -> None:
    rows, classes, subcenters = 512, 6000, 3
    generator = torch.Generator().manual_seed(0)
    embeddings, labels = (
        torch.randn(rows, DIM, generator=generator),
        torch.randint(classes, (rows,), generator=generator),
    )
    loss = build(Moving, classes=classes, subcenters=subcenters, label_smoothing=0.1).float()
    with Sizes() as sizes:  # type: ignore[no-untyped-call]
        loss(embeddings.requires_grad_(), labels).backward()
    assert 0 < sizes.largest <= max(4 * tiles._NUMBERS // 3, classes * subcenters * DIM)
    assert sizes.largest < rows * classes / 4
