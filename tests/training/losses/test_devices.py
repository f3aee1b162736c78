"""Losses make every tensor on the device of what they are given: a default device of another kind breaks none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.training.losses import kernel
from stages.training.losses.kinds import MarginSoftmaxConfig
from stages.training.losses.plain import plain_loss
from stages.training.pairs.kinds import (
    AllConfig,
    ContrastiveConfig,
    EasyPositivesConfig,
    HardConfig,
    MarginConfig,
    MultiSimilarityConfig,
    PairLossConfig,
    ProxyAnchorConfig,
    ProxyNcaConfig,
    RangeConfig,
    RecallConfig,
    SemiHardConfig,
    SmoothApConfig,
    SoftTripleConfig,
    SupConConfig,
    TripletConfig,
)
from stages.training.pairs.loss import PairLoss
from tests.toys.losses import FAMILY, batch, build

PAIRS: list[PairLossConfig] = [
    ContrastiveConfig(memory=10),
    MarginConfig(memory=10),
    MarginConfig(miner=EasyPositivesConfig(), beta="by_class", beta_weight=0.1),
    MultiSimilarityConfig(memory=10),
    ProxyAnchorConfig(),
    ProxyNcaConfig(),
    RangeConfig(),
    RecallConfig(),
    SmoothApConfig(),
    SoftTripleConfig(),
    SupConConfig(memory=10),
    TripletConfig(miner=AllConfig(), memory=10),
    TripletConfig(miner=HardConfig(positives=2, negatives=2)),
    TripletConfig(miner=SemiHardConfig()),
]


def trained(loss: torch.nn.Module, embeddings: Tensor, labels: Tensor) -> list[Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    results = []
    with torch.device("meta"):  # has no numbers: anything made there cannot be computed with
        for _ in range(2):
            value = loss(embeddings, labels)
            (gradient,) = torch.autograd.grad(value, embeddings)
            results += [value.detach(), gradient]
            if isinstance(loss, PairLoss):
                loss.after_step()
    return results


@pytest.mark.parametrize("config", FAMILY, ids=str)
def test_a_margin_loss_works_on_the_device_of_its_weight(
    config: MarginSoftmaxConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "streamed_loss", plain_loss)
    assert all(part.isfinite().all() for part in trained(build(config), *batch()))


@pytest.mark.parametrize("config", PAIRS, ids=str)
def test_a_loss_on_pairs_works_on_the_device_of_the_embeddings(
    config: PairLossConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "streamed_loss", plain_loss)
    loss = config.build(6, torch.full((7,), 5), torch.Generator().manual_seed(0))
    assert all(part.isfinite().all() for part in trained(loss, *batch()))
