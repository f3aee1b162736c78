"""Class-sampled softmax: which classes a step looks at, and that it touches nothing else."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.training import ArcFaceConfig, NormFaceConfig, OptimizerConfig
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import SampledConfig
from stages.training.losses.plain import plain_loss
from stages.training.losses.streamed import Softmax, streamed_loss

DIM, CLASSES, ROWS, SUBCENTERS = 8, 120, 16, 3


def build(sampled: SampledConfig | None, classes: int = CLASSES) -> MarginSoftmax:
    config = ArcFaceConfig(subcenters=SUBCENTERS, scale=16.0, sampled=sampled)
    return config.build(DIM, torch.full((classes,), 5), torch.Generator().manual_seed(1))


def batch(seed: int = 0, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(ROWS, DIM, generator=generator)
    return embeddings, torch.randint(classes, (ROWS,), generator=generator)


def classes_of(gradient: Tensor, classes: int = CLASSES) -> list[int]:
    """The classes of a sparse gradient, each of which must have all its subcenters there, each row once."""
    rows = gradient._indices()[0]
    assert rows.tolist() == sorted(set(rows.tolist()))
    by_subcenter = [sorted(row % classes for row in rows.tolist() if row // classes == j) for j in range(SUBCENTERS)]
    assert all(one == by_subcenter[0] for one in by_subcenter)
    return by_subcenter[0]


@pytest.mark.parametrize("kind", ["random", "hardest"])
def test_a_share_of_1_is_the_exact_softmax(kind: Literal["random", "hardest"]) -> None:
    exact, sampled = build(None), build(SampledConfig(share=1.0, kind=kind))
    assert torch.equal(exact.weight, sampled.weight)
    embeddings, labels = batch()
    values = []
    for loss in (exact, sampled):
        leaf = embeddings.clone().requires_grad_()
        value = loss(leaf, labels)
        value.backward()
        assert loss.weight.grad is not None
        values.append((value.detach(), leaf.grad, loss.weight.grad.to_dense()))
    for one, other in zip(*values, strict=True):
        assert torch.equal(one, other)


def test_the_loss_and_its_gradients_are_those_of_a_softmax_over_the_hardest_classes() -> None:
    loss = build(SampledConfig(least=1, share=0.2, kind="hardest"))
    embeddings, labels = batch()
    leaf = embeddings.clone().requires_grad_()
    value = loss(leaf, labels)
    value.backward()
    assert loss.weight.grad is not None
    classes = torch.tensor(classes_of(loss.weight.grad))
    small = build(None, len(classes))
    with torch.no_grad():
        small.weight.copy_(loss.weight.view(SUBCENTERS, CLASSES, DIM)[:, classes].flatten(0, 1))
    own = torch.tensor([classes.tolist().index(label) for label in labels.tolist()])
    other = embeddings.clone().requires_grad_()
    expected = small(other, own)
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(leaf.grad, other.grad)
    torch.testing.assert_close(loss.weight.grad.coalesce().values(), small.weight.grad)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("scale", [16.0, 64.0])  # summed as they are, and less the largest
def test_random_classes_count_for_one_over_the_rate_at_which_they_are_looked_at(
    scale: float, smoothing: float, precision: Literal["float32", "bfloat16"]
) -> None:
    config = NormFaceConfig(scale=scale, label_smoothing=smoothing, precision=precision, subcenters=SUBCENTERS)
    loss = replace(config, sampled=SampledConfig(least=1, share=0.2)).build(DIM, torch.ones(CLASSES), torch.Generator())
    assert loss.sampler is not None
    embeddings, labels = batch()
    classes = copy.deepcopy(loss.sampler)(labels, embeddings, loss.weight)
    values = []
    for function in (streamed_loss, plain_loss):
        z = embeddings.clone().requires_grad_()
        softmax = Softmax(loss.rule, scale, smoothing, SUBCENTERS, precision, learn=True, observe=False, rate=0.25)
        value = function(z, loss.weight, labels, softmax, classes)
        values.append((value.detach(), *torch.autograd.grad(value, z)))
    z = embeddings.clone().requires_grad_()
    vectors = functional.normalize(loss.weight.detach()).view(SUBCENTERS, CLASSES, DIM)[:, classes]
    logits = scale * (functional.normalize(z) @ vectors.transpose(1, 2)).amax(0)
    own = torch.searchsorted(classes, labels)
    others = torch.ones(len(classes)).index_fill(0, own, 0.0)
    expected = functional.cross_entropy(logits + others * math.log(1 / 0.25), own, reduction="none")
    chosen = logits.gather(1, own[:, None])[:, 0]
    expected = (expected + smoothing * (chosen - logits.mean(1))).mean()
    wanted = expected.detach(), *torch.autograd.grad(expected, z)
    tolerance = 1e-4 if precision == "float32" else scale * 2.0**-7
    for given in values:
        for one, other in zip(given, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=1e-4)


def test_over_many_draws_the_gradient_of_a_sampled_loss_is_that_of_all_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    exact, sampled = (
        NormFaceConfig(scale=16.0, sampled=sampled).build(64, torch.ones(2000), torch.Generator().manual_seed(1))
        for sampled in (None, SampledConfig(least=1, share=0.1))
    )
    labels = torch.randint(2000, (32,), generator=generator)
    own = functional.normalize(exact.weight.detach()[labels])
    rows = own + 0.15 * torch.randn(32, 64, generator=generator)  # half trained

    def gradient(loss: MarginSoftmax) -> tuple[Tensor, Tensor]:
        z = rows.clone().requires_grad_()
        value = loss(z, labels)
        return value.detach(), torch.autograd.grad(value, z)[0]

    value, whole = gradient(exact)
    values, gradients = (torch.stack(part) for part in zip(*(gradient(sampled) for _ in range(200)), strict=True))
    mean = gradients.mean(0)
    assert values.mean().item() == pytest.approx(value.item(), rel=0.02)
    assert mean.norm().item() == pytest.approx(whole.norm().item(), rel=0.02)
    assert functional.cosine_similarity(mean.flatten(), whole.flatten(), 0) > 0.998


@pytest.mark.parametrize("kind", ["random", "hardest"])
def test_every_label_is_among_the_classes_and_about_the_share_of_the_others(
    kind: Literal["random", "hardest"],
) -> None:
    loss = build(SampledConfig(least=1, share=0.25, kind=kind), classes=2000)
    assert loss.sampler is not None
    counts = []
    for seed in range(20):
        embeddings, labels = batch(seed, classes=2000)
        classes = loss.sampler(labels, embeddings, loss.weight)
        assert classes.tolist() == sorted(set(classes.tolist()))
        assert {*labels.tolist()} <= {*classes.tolist()}
        counts.append(len({*classes.tolist()} - {*labels.tolist()}))
    assert sum(counts) / len(counts) == pytest.approx(0.25 * 2000, rel=0.05)


def test_in_the_long_run_every_class_is_looked_at() -> None:
    loss = build(SampledConfig(least=1, share=0.1))
    assert loss.sampler is not None
    embeddings, labels = batch()
    seen = torch.zeros(CLASSES)
    for _ in range(400):
        seen[loss.sampler(labels[:1], embeddings[:1], loss.weight)] += 1
    others = [int(count) for c, count in enumerate(seen.tolist()) if c != labels[0]]
    assert min(others) > 15
    assert max(others) < 75  # 40 are expected of each


def test_the_hardest_are_those_nearest_to_any_embedding_of_the_batch() -> None:
    loss = build(SampledConfig(least=1, share=0.1, kind="hardest"))
    assert loss.sampler is not None
    embeddings, labels = batch()
    lengths = torch.linspace(0.1, 9, len(loss.weight))[:, None]
    with torch.no_grad():
        loss.weight.mul_(lengths)  # which must not matter
    cosine = functional.normalize(embeddings) @ functional.normalize(loss.weight.detach()).T
    nearest = cosine.view(ROWS, SUBCENTERS, CLASSES).amax((0, 1))
    hardest = sorted(range(CLASSES), key=lambda c: -float(nearest[c]))[:12]
    results = loss.sampler(labels, embeddings, loss.weight)
    assert results.tolist() == sorted({*hardest, *labels.tolist()})


def test_in_evaluation_all_classes_are_there() -> None:
    loss, exact = build(SampledConfig(least=1, share=0.1)), build(None)
    embeddings, labels = batch()
    with torch.no_grad():
        assert torch.equal(loss.eval()(embeddings, labels), exact.eval()(embeddings, labels))


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_a_step_moves_the_rows_it_looked_at_and_no_others(kind: Literal["adam", "adamw", "sgd"]) -> None:
    loss = build(SampledConfig(least=1, share=0.1))
    optimizer = OptimizerConfig(kind=kind, weight_decay=0.1).build([], loss)
    before = loss.weight.detach().clone()
    embeddings, labels = batch()
    loss(embeddings, labels).backward()
    assert loss.weight.grad is not None
    assert loss.weight.grad.is_sparse
    classes = classes_of(loss.weight.grad)
    assert len(classes) < CLASSES / 2
    optimizer.step(0.1)
    moved = (loss.weight != before).any(1).view(SUBCENTERS, CLASSES)
    assert moved.any(0).nonzero()[:, 0].tolist() == classes
    for state in optimizer.state_dict()["tables"]:
        for tensor in state.values():
            touched = (tensor.view(SUBCENTERS, CLASSES, -1) != 0).any(2).any(0).nonzero()[:, 0].tolist()
            assert {*touched} <= {*classes}


def test_what_a_loss_draws_goes_on_from_its_state() -> None:
    embeddings, labels = batch()
    loss, again = (build(SampledConfig(least=1, share=0.1)) for _ in range(2))
    assert loss.sampler is not None
    assert again.sampler is not None
    loss(embeddings, labels)
    again.load_state_dict(loss.state_dict())
    for _ in range(3):
        drawn = loss.sampler(labels, embeddings, loss.weight)
        assert torch.equal(drawn, again.sampler(labels, embeddings, again.weight))


def test_one_class_and_one_row_are_enough() -> None:
    for kind in ("random", "hardest"):
        loss = build(SampledConfig(least=1, share=0.01, kind=kind), classes=1)
        value = loss(torch.randn(1, DIM, generator=torch.Generator().manual_seed(0)), torch.tensor([0]))
        value.backward()
        assert value == 0


def test_no_fewer_classes_than_the_least_are_looked_at_and_all_where_there_are_no_more() -> None:
    embeddings, labels = batch()
    counts = []
    for least in (1, 60, CLASSES, 1000):
        loss = build(SampledConfig(share=0.01, least=least))
        assert loss.sampler is not None
        counts.append(len({*loss.sampler(labels, embeddings, loss.weight).tolist()} - {*labels.tolist()}))
    few, some, *every = counts
    assert few <= 3
    assert 40 < some < 75
    assert every == [CLASSES - len({*labels.tolist()})] * 2


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="least is a number of classes, at least 1, got 0"):
        SampledConfig(least=0)
    with pytest.raises(ValueError, match=r"share is the part of the classes that a step looks at, in \(0, 1\], got"):
        SampledConfig(share=share)
