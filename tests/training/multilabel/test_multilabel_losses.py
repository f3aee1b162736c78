"""The losses of attributes, words and overlap against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.training.multilabel.kinds import AsymmetricConfig, AttributeContrastConfig
from stages.training.multilabel.tasks import (
    AttributeClassifiers,
    Objective,
    TagGenerator,
    WordClassifier,
    balanced_weights,
    binary,
    contrast,
    overlap,
)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


COLOUR = torch.tensor([0, 2, -1, 1, 2])
MADE_OF = torch.tensor([[1.0, 0], [1, 1], [0, 1], [torch.nan, torch.nan], [1, 0]])


def softplus(value: float) -> float:
    return math.log1p(math.exp(-abs(value))) + max(value, 0.0)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_each_attribute_loses_by_its_known_rows_and_the_mean_is_over_attributes(beta: float) -> None:
    task = AttributeClassifiers(4, [COLOUR, MADE_OF], [3, 2], beta, None, drawn())
    hidden, rows = torch.randn(4, 4, generator=drawn(1)), torch.tensor([4, 0, 2, 3])
    with torch.no_grad():
        logits = (hidden @ task.weight.T + task.bias).tolist()
        given = float(task(hidden, rows))
    counts = [[1, 1, 2], [3, 2]]
    weights = [[(1 - beta) / (1 - beta**n) if beta else 1.0 for n in targets_of] for targets_of in counts]
    weights = [[w * len(targets_of) / sum(targets_of) for w in targets_of] for targets_of in weights]
    lost, weighed = 0.0, 0.0
    for row, targets_of in zip(rows.tolist(), logits, strict=True):
        if (value := int(COLOUR[row])) >= 0:
            lost += weights[0][value] * (math.log(sum(math.exp(x) for x in targets_of[:3])) - targets_of[value])
            weighed += weights[0][value]
    first = lost / weighed
    known = [(row, targets_of[3:]) for row, targets_of in zip(rows.tolist(), logits, strict=True) if row != 3]
    second = sum(
        weights[1][at] * softplus(-x if MADE_OF[row, at] else x)
        for row, targets_of in known
        for at, x in enumerate(targets_of)
    )
    assert given == pytest.approx((first + second / len(known)) / 2, rel=1e-5)


def test_a_batch_without_any_known_value_loses_nothing_and_has_gradients() -> None:
    task = AttributeClassifiers(4, [COLOUR], [3], 0.0, None, drawn())
    lost = task(torch.randn(1, 4, generator=drawn(1)), torch.tensor([2]))
    lost.backward()
    assert float(lost.detach()) == 0
    assert task.weight.grad is not None
    assert not task.weight.grad.any()


def test_rare_values_weigh_more_and_weights_have_the_mean_1() -> None:
    weights = balanced_weights(torch.tensor([1, 10, 100]), 0.99).tolist()
    plain = [(1 - 0.99) / (1 - 0.99**n) for n in (1, 10, 100)]
    assert weights == pytest.approx([w * 3 / sum(plain) for w in plain])
    assert weights[0] > weights[1] > weights[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_the_asymmetric_loss_is_finite_for_every_logit(exponent: float, clip: float, dtype: torch.dtype) -> None:
    logits = torch.tensor([-300.0, -20.0, -3.0, 0.0, 3.0, 20.0, 300.0]).to(dtype).repeat(2, 1).requires_grad_()
    there = torch.tensor([0.0, 1.0])[:, None].expand(2, 7).to(dtype)
    losses = binary(logits, there, AsymmetricConfig(negative=exponent, positive=exponent, clip=clip))
    assert losses.isfinite().all()
    assert torch.autograd.grad(losses.sum(), logits)[0].isfinite().all()


def test_the_asymmetric_loss_is_its_formula_and_with_zeros_the_cross_entropy() -> None:
    logits, there = torch.randn(6, 5, generator=drawn()) * 3, (torch.rand(6, 5, generator=drawn(1)) < 0.4).float()
    config = AsymmetricConfig(negative=4.0, positive=1.0, clip=0.05)
    given = binary(logits, there, config)
    for row, column in np.ndindex(6, 5):
        p = 1 / (1 + math.exp(-float(logits[row, column])))
        q = max(p - 0.05, 0.0)
        expected = -(1 - p) * math.log(p) if there[row, column] else -(q**4) * math.log(1 - q)
        assert float(given[row, column]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    zeros = AsymmetricConfig(negative=0.0, positive=0.0, clip=0.0)
    torch.testing.assert_close(binary(logits, there, zeros), binary(logits, there, None), atol=1e-4, rtol=1e-4)


def test_records_overlap_by_the_share_of_the_first_ones_attributes() -> None:
    kind = torch.tensor([0, 0, 1, 0, -1])
    given = overlap([COLOUR, MADE_OF, kind])
    for i in range(5):
        for j in range(5):
            shared, known = 0.0, 0
            for target in (COLOUR, kind):
                if target[i] >= 0:
                    known += 1
                    shared += float(target[i] == target[j])
            if i != 3:
                known += 1
                if j != 3:
                    one, other = ({at for at in range(2) if MADE_OF[k, at] == 1} for k in (i, j))
                    shared += len(one & other) / len(one | other)
            assert float(given[i, j]) == pytest.approx(shared / known)


def test_the_contrastive_loss_weighs_every_other_record_by_what_it_shares() -> None:
    hidden, config = torch.randn(5, 3, generator=drawn()), AttributeContrastConfig(temperature=0.2, power=2.0)
    shared = torch.rand(5, 5, generator=drawn(1))
    shared[4] = 0  # has nothing in common with any
    given = float(contrast(hidden, shared, config))
    unit = hidden / hidden.norm(dim=1, keepdim=True)
    values = []
    for i in range(4):
        others = [j for j in range(5) if j != i]
        total = math.log(sum(math.exp(float(unit[i] @ unit[j]) / 0.2) for j in others))
        weights = [float(shared[i, j]) ** 2 for j in others]
        lost = [total - float(unit[i] @ unit[j]) / 0.2 for j in others]
        values.append(sum(w * x for w, x in zip(weights, lost, strict=True)) / sum(weights))
    assert given == pytest.approx(sum(values) / 4, rel=1e-5)
    assert float(contrast(hidden, torch.zeros(5, 5), config)) == 0


def test_a_bag_of_words_loses_the_sum_over_words_of_the_rows_that_have_tags() -> None:
    bags = torch.tensor([[1.0, 0, 1], [torch.nan] * 3, [0, 0, 0]])
    task = WordClassifier(4, bags, None, drawn())
    hidden = torch.randn(3, 4, generator=drawn(1))
    with torch.no_grad():
        logits = (hidden @ task.weight.T + task.bias).tolist()
        given = float(task(hidden, torch.arange(3)))
    expected = sum(softplus(-x if bags[row, at] else x) for row in (0, 2) for at, x in enumerate(logits[row])) / 2
    assert given == pytest.approx(expected, rel=1e-5)


def test_words_are_said_one_after_another_from_the_hidden_layer_as_a_cell_at_a_time_says_them() -> None:
    sentences = torch.tensor([[1, 0, -1], [2, -1, -1], [-1, -1, -1], [0, 2, 1]])
    counts = torch.tensor([2, 1, -1, 3])
    task = TagGenerator(4, sentences, counts, 3, drawn())
    hidden, rows = torch.randn(4, 4, generator=drawn(1)), torch.tensor([1, 3, 2, 0])
    cell = nn.GRUCell(task.gru.input_size, task.gru.hidden_size)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in task.gru.state_dict().items()})
    lost: list[Tensor] = []
    with torch.no_grad():
        for at, row in enumerate(rows.tolist()):
            if counts[row] < 0:
                continue
            state = task.start @ hidden[at] + task.start_bias
            words = sentences[row, : counts[row]].tolist()
            for read, word in zip([3, *words], [*words, 3], strict=True):
                state = cell(task.reading[read].relu(), state)
                logits = task.say @ state + task.say_bias
                lost.append(logits.logsumexp(0) - logits[word])
        torch.testing.assert_close(task(hidden, rows), torch.stack(lost).mean())


class Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, _hidden: Tensor, _rows: Tensor) -> Tensor:
        return self.value


@pytest.mark.parametrize("learned", [True, False])
def test_equal_weights_add_the_losses_up_and_learned_ones_weigh_them_by_their_noise(*, learned: bool) -> None:
    objective = Objective({"one": Constant(2.0), "other": Constant(5.0)}, learned=learned)
    nothing = torch.zeros(0)
    assert float(objective(nothing, nothing).detach()) == 7
    if learned:
        assert objective.noise is not None
        with torch.no_grad():
            objective.noise.copy_(torch.tensor([0.5, -1.0]))
        expected = 2 * math.exp(-0.5) + 0.25 + 5 * math.exp(1.0) - 0.5
        assert float(objective(nothing, nothing).detach()) == pytest.approx(expected)
