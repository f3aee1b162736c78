"""Worker threads ask one rule at once: it may write into no memory that another call has or had."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from stages.training.losses.kinds import MarginSoftmaxConfig
from tests.toys.losses import FAMILY, batch, build, gradients


@pytest.mark.parametrize("config", FAMILY, ids=str)
def test_two_threads_get_from_one_rule_what_it_gives_one_after_the_other(config: MarginSoftmaxConfig) -> None:
    rule = build(config).rule
    generator = torch.Generator().manual_seed(0)
    blocks = [(torch.rand(24, 50, generator=generator) * 2 - 1, torch.rand(24, generator=generator)) for _ in range(40)]

    def moved(block: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            return rule.others(*block)

    alone = [[None if part is None else part.clone() for part in moved(block)] for block in blocks]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(moved, blocks))  # all results are alive: reused memory would show
    for one, other in zip(alone, together, strict=True):
        for expected, given in zip(one, other, strict=True):
            assert (expected is None) == (given is None)
            assert expected is None or given is None or torch.equal(expected, given)


@pytest.mark.parametrize("config", FAMILY, ids=str)
def test_two_threads_evaluate_one_loss_as_one_thread_does(config: MarginSoftmaxConfig) -> None:
    loss = build(config).eval()
    batches = [batch(seed) for seed in range(8)]
    alone = [gradients(loss, *one) for one in batches]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda one: gradients(loss, *one), batches))
    for expected, given in zip(alone, together, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(expected, given, strict=True))
