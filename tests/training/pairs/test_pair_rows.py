"""Gradients through the pairs of a block: one by one where they are few, as matrix products where they are many."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from stages.training.pairs import rows
from stages.training.pairs.kinds import HardConfig, SemiHardConfig, TripletConfig
from stages.training.pairs.loss import RowWise


@pytest.mark.parametrize("remembered", [0, 40])
@pytest.mark.parametrize("miner", [HardConfig(), HardConfig(positives=0, negatives=3), SemiHardConfig()])
def test_the_gradient_is_the_same_through_few_pairs_and_through_products_of_all(
    miner: HardConfig | SemiHardConfig, remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 24
    memory = functional.normalize(torch.randn(40, 6, generator=drawn))
    embeddings = torch.randn(96, 6, generator=drawn, requires_grad=True)
    gradients = []
    for sparse in (0, 10**9):  # always one by one; never
        monkeypatch.setattr(rows, "_SPARSE", sparse)
        loss = TripletConfig(margin_dist=0.5, miner=miner, memory=remembered).build(6, torch.full((24,), 4), drawn)
        assert isinstance(loss, RowWise)
        if remembered:
            loss.memory.store(memory, torch.arange(40) % 24, torch.arange(40) + 1000)
        value = loss(embeddings, labels, torch.arange(96))
        gradients.append(torch.autograd.grad(value, embeddings)[0])
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0
