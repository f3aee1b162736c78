"""The loss as whole matrices, which a card takes, against the kernel of the processor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.training import ArcFaceConfig, CosFaceConfig, SampledConfig
from stages.training.losses import kernel as of_losses
from stages.training.losses import streamed
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import MarginSoftmaxConfig
from stages.training.losses.plain import plain_loss
from tests.toys.losses import CLASSES, FAMILY, batch, build

SAMPLED = [
    ArcFaceConfig(sampled=SampledConfig(share=0.2, least=8), subcenters=2),
    CosFaceConfig(sampled=SampledConfig(share=0.2, least=8, kind="hardest")),
]


def steps(loss: MarginSoftmax, classes: int) -> list[Tensor]:
    """Values, gradients and what is learned, of three steps of training and one evaluation."""
    results = []
    for step in range(3):
        loss.at(step / 3)
        embeddings, labels = batch(step, classes=classes)
        embeddings[step] = 0
        embeddings.requires_grad_()
        value = loss(embeddings, labels)
        by_embeddings, by_weight = torch.autograd.grad(value, [embeddings, loss.weight])
        assert by_weight.is_sparse == loss.sparse
        if by_weight.is_sparse:  # as the optimiser takes it
            rows = by_weight._indices()[0]
            assert (rows[1:] > rows[:-1]).all()
        results += [value.detach(), by_embeddings, by_weight.to_dense()]
    loss.eval()
    embeddings, labels = batch(9, classes=classes)
    return [*results, loss(embeddings, labels).detach(), loss(embeddings[:, :4], labels).detach(), *loss.buffers()]


@pytest.mark.parametrize("config", [*FAMILY, *SAMPLED], ids=str)
def test_values_gradients_and_statistics_are_those_of_the_kernel(
    config: MarginSoftmaxConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = 60 if config.sampled else CLASSES
    expected = steps(build(config, classes).double(), classes)
    monkeypatch.setattr(of_losses, "streamed_loss", plain_loss)
    for one, other in zip(steps(build(config, classes).double(), classes), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_products_of_bfloat16_give_the_loss_of_float32_to_their_rounding() -> None:
    loss = build(ArcFaceConfig(), classes=40)
    embeddings, labels = batch(classes=40)
    exact = streamed.Softmax(loss.rule, 30.0, 0.0, 1, "float32", learn=True, observe=False)
    one, other = (
        float(plain_loss(embeddings, loss.weight, labels, settings).detach())
        for settings in (exact, replace(exact, precision="bfloat16"))
    )
    assert one != other
    assert other == pytest.approx(one, rel=0.01)
