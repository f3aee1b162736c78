"""Margin losses where numbers are hardest: logits hundreds apart, rows on their prototype, opposite to it, and zero."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.training import AdaCosConfig
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import MarginSoftmaxConfig
from stages.training.losses.plain import plain_loss
from stages.training.losses.streamed import Softmax, streamed_loss
from tests.toys.losses import FAMILY

DIM, CLASSES = 64, 10
Precision = Literal["float32", "bfloat16"]


def softmax_of(loss: MarginSoftmax) -> Softmax:
    config = loss.config
    return Softmax(
        loss.rule, loss.scale, config.label_smoothing, loss.subcenters, config.precision, learn=True, observe=False
    )


def float64_autograd(loss: MarginSoftmax, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value and the gradients by embeddings and prototypes of the definition, all logits at once, in float64."""
    z = embeddings.detach().double().requires_grad_()
    w = loss.weight.detach().double().requires_grad_()
    norms, lengths = (torch.linalg.vector_norm(vectors, dim=1) for vectors in (z, w))
    unit = z / torch.where(norms > 0, norms, torch.inf)[:, None]
    cosines = ((w / lengths[:, None]) @ unit.T).view(loss.subcenters, loss.classes, -1).max(0).values.T
    own = cosines.gather(1, labels[:, None])[:, 0]
    moved = loss.rule.target(own, norms, labels)
    others, _ = loss.rule.others(cosines, moved.detach())
    logits = loss.rule.scale(loss.scale) * others.scatter(1, labels[:, None], moved[:, None])
    value = functional.cross_entropy(logits, labels, label_smoothing=loss.config.label_smoothing)
    if (penalty := loss.rule.penalty(norms)) is not None:
        value = value + penalty
    on_rows, on_prototypes = torch.autograd.grad(value, (z, w))
    return value.detach(), on_rows, on_prototypes


def batch_at_the_edges() -> tuple[Tensor, Tensor]:
    """Rows on the prototype of their class 0, opposite to it, zero, and others; see :func:`with_prototypes`."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(12, DIM, generator=generator).to(torch.bfloat16).float()
    along = 2.0 * sign_pattern()
    rows[0], rows[1], rows[2], rows[3] = along, -along, torch.zeros(DIM), 4 * along
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 9])
    rows[4] = -along
    return rows, labels


def sign_pattern() -> Tensor:
    """A vector of +1/8 and -1/8, whose length is 1 in any precision."""
    return torch.where(torch.arange(DIM) % 3 == 0, 0.125, -0.125)


def with_prototypes(config: MarginSoftmaxConfig) -> MarginSoftmax:
    """The loss with the prototypes of classes 0 and 1 opposite to each other, after one step of training."""
    generator = torch.Generator().manual_seed(0)
    loss = config.build(DIM, torch.arange(3, 3 + CLASSES), generator)
    with torch.no_grad():
        loss.weight.copy_(loss.weight.to(torch.bfloat16).float())
        loss.prototypes[0, 0], loss.prototypes[0, 1] = sign_pattern(), -sign_pattern()
    assert loss(*batch_at_the_edges()).isfinite()  # what the rule learns from it is finite too
    return loss.eval()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("config", FAMILY)
def test_values_and_gradients_are_those_of_float64_at_every_scale_and_precision(
    config: MarginSoftmaxConfig, smoothing: float
) -> None:
    rows, labels = batch_at_the_edges()
    scales = [1.0] if isinstance(config, AdaCosConfig) else [1.0, 16.0, 64.0, 256.0]
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for scale, precision in [(scale, precision) for scale in scales for precision in precisions]:
        loss = with_prototypes(replace(config, scale=scale, label_smoothing=smoothing, precision=precision))
        expected = float64_autograd(loss, rows, labels)
        for dtype, function in [
            (torch.float32, streamed_loss),
            (torch.float64, streamed_loss),
            (torch.float32, plain_loss),
            (torch.bfloat16, streamed_loss),
        ]:
            z, w = (tensor.detach().to(dtype).requires_grad_() for tensor in (rows, loss.weight))
            value = function(z, w, labels, softmax_of(loss))
            given = value.detach(), *torch.autograd.grad(value, (z, w))
            step = 2.0**-8 if torch.bfloat16 in (dtype, getattr(torch, precision)) else 2.0**-23
            reach = float(loss.rule.scale(scale))
            for name, tensor, wanted in zip(("value", "on rows", "on prototypes"), given, expected, strict=True):
                assert tensor.isfinite().all(), (name, scale, precision, dtype)
                error = float((tensor.double() - wanted).abs().max())
                allowed = step * max(1.0, reach) * 4 + step * float(wanted.abs().max())
                assert error <= allowed, (name, scale, precision, dtype, function.__name__, error, allowed)


@pytest.mark.parametrize("length", [1e-30, 1e30])
@pytest.mark.parametrize("config", FAMILY)
def test_embeddings_of_any_length_have_the_value_of_float64_and_leave_a_finite_state(
    config: MarginSoftmaxConfig, length: float
) -> None:
    rows, labels = batch_at_the_edges()
    rows[5] *= length
    loss = with_prototypes(config).train()
    assert loss(rows, labels).isfinite()
    assert all(buffer.isfinite().all() for buffer in loss.rule.buffers())
    loss.eval()
    expected, *_ = float64_autograd(loss, rows, labels)
    for function in (streamed_loss, plain_loss):
        z = rows.clone().requires_grad_()
        value = function(z, loss.weight, labels, softmax_of(loss))
        assert value.item() == pytest.approx(float(expected), rel=1e-5)
        assert torch.autograd.grad(value, z)[0].isfinite().all()
