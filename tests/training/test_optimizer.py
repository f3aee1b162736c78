"""The step of sparse rows: a dense step where every row is touched, and what resting rows keep."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from stages.training import ArcFaceConfig, CosFaceConfig, OptimizerConfig
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import SampledConfig

DIM, CLASSES = 5, 30

Kind = Literal["adam", "adamw", "sgd"]


def losses() -> tuple[MarginSoftmax, MarginSoftmax]:
    """The same loss, its prototypes moved densely and row by row."""
    dense, sparse = (
        ArcFaceConfig(subcenters=2, scale=8.0, sampled=sampled).build(
            DIM, torch.full((CLASSES,), 3), torch.Generator().manual_seed(0)
        )
        for sampled in (None, SampledConfig(share=1.0))
    )
    return dense, sparse


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(8, DIM, generator=generator), torch.randint(CLASSES, (8,), generator=generator))
        for _ in range(count)
    ]


def sparse_gradient(loss: MarginSoftmax, rows: list[int], values: Tensor) -> None:
    loss.weight.grad = torch.sparse_coo_tensor(torch.tensor([rows]), values, loss.weight.shape, check_invariants=True)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_rows_that_are_touched_in_every_step_move_as_in_a_dense_step(kind: Kind, decay: float) -> None:
    config = OptimizerConfig(kind=kind, weight_decay=decay)
    dense, sparse = losses()
    heads = [nn.Linear(DIM, DIM) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    for loss, head in zip((dense, sparse), heads, strict=True):
        optimizer = config.build(head.parameters(), loss)
        for step, (embeddings, labels) in enumerate(batches(6)):
            optimizer.zero_grad()
            loss(head(embeddings), labels).backward()
            optimizer.step(0.02 * (step + 1))
    torch.testing.assert_close(sparse.weight, dense.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads[1].weight, heads[0].weight, rtol=1e-4, atol=1e-5)


def test_adam_by_hand_for_a_row_that_rests() -> None:
    _, loss = losses()
    optimizer = OptimizerConfig(weight_decay=0.0).build([], loss)
    start = loss.weight.detach().clone()
    weight, first, second, count = start[4].tolist(), [0.0] * DIM, [0.0] * DIM, 0
    for step in range(5):
        rows = [4, 7] if step in (0, 1, 4) else [7]
        values = torch.randn(len(rows), DIM, generator=torch.Generator().manual_seed(step))
        sparse_gradient(loss, rows, values)
        optimizer.step(0.1)
        if 4 in rows:
            count += 1
            for e, gradient in enumerate(values[0].tolist()):
                first[e] = 0.9 * first[e] + 0.1 * gradient
                second[e] = 0.999 * second[e] + 0.001 * gradient**2
                mean, square = first[e] / (1 - 0.9**count), second[e] / (1 - 0.999**count)
                weight[e] -= 0.1 * mean / (math.sqrt(square) + 1e-8)
        torch.testing.assert_close(loss.weight[4].tolist(), weight, rtol=1e-4, atol=1e-5)
    untouched = [row for row in range(len(start)) if row not in (4, 7)]
    assert torch.equal(loss.weight[untouched], start[untouched])


def test_the_first_step_of_a_row_met_late_is_as_long_as_any_first_step() -> None:
    _, loss = losses()
    optimizer = OptimizerConfig(weight_decay=0.0).build([], loss)
    for _ in range(200):
        sparse_gradient(loss, [0], torch.ones(1, DIM))
        optimizer.step(0.01)
    before = loss.weight[1].detach().clone()
    sparse_gradient(loss, [0, 1], torch.ones(2, DIM))
    optimizer.step(0.01)
    torch.testing.assert_close(before - loss.weight[1], torch.full((DIM,), 0.01), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_steps_go_on_from_the_state_to_the_same_bits(kind: Kind) -> None:
    config = OptimizerConfig(kind=kind)

    def start() -> tuple[MarginSoftmax, nn.Linear]:
        torch_generator = torch.Generator().manual_seed(2)
        loss = CosFaceConfig(sampled=SampledConfig(share=0.3, least=1)).build(
            DIM, torch.full((CLASSES,), 3), torch_generator
        )
        head = nn.Linear(DIM, DIM)
        with torch.no_grad():
            for weight in head.parameters():
                weight.normal_(generator=torch_generator)
        return loss, head

    loss, head = start()
    optimizer = config.build(head.parameters(), loss)
    saved = None
    for step, (embeddings, labels) in enumerate(batches(6)):
        if step == 3:
            saved = [
                {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
                for state in (loss.state_dict(), head.state_dict())
            ]
            moments = torch.utils._pytree.tree_map_only(Tensor, Tensor.clone, optimizer.state_dict())
        optimizer.zero_grad()
        loss(head(embeddings), labels).backward()
        optimizer.step(0.05)
    assert saved is not None
    other, other_head = start()
    resumed = config.build(other_head.parameters(), other)
    other.load_state_dict(saved[0])
    other_head.load_state_dict(saved[1])
    resumed.load_state_dict(moments)
    for embeddings, labels in batches(6)[3:]:
        resumed.zero_grad()
        other(other_head(embeddings), labels).backward()
        resumed.step(0.05)
    assert torch.equal(other.weight, loss.weight)
    assert torch.equal(other_head.weight, head.weight)


def test_rows_of_a_size_that_is_no_multiple_of_16_bytes_and_repeated_rows_are_moved_too() -> None:
    _, loss = losses()  # 5 numbers a row
    optimizer = OptimizerConfig(kind="sgd", momentum=0.0, weight_decay=0.0).build([], loss)
    before = loss.weight.detach().clone()
    sparse_gradient(loss, [3, 3, 8], torch.ones(3, DIM))
    optimizer.step(0.5)
    moved = before - loss.weight
    torch.testing.assert_close(moved[3], torch.full((DIM,), 1.0))
    torch.testing.assert_close(moved[8], torch.full((DIM,), 0.5))


def test_the_state_of_a_loss_that_is_not_sampled_is_refused_by_one_that_is() -> None:
    dense, sparse = losses()
    config = OptimizerConfig()
    with pytest.raises(ValueError, match=r"0 table.s. of sparse rows, this optimizer 1"):
        config.build([], sparse).load_state_dict(config.build([], dense).state_dict())
    sparse.eval()(*batches(1)[0]).backward()
    with pytest.raises(ValueError, match="was evaluated, not trained"):
        config.build([nn.Parameter(torch.zeros(1))], sparse).step(0.1)
