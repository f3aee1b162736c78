"""The step of a training, by the gradient here or (SAM) at the worst weights nearby; and averages of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from cache.errors import SettingsError
from stages.training.losses.kernel import MarginSoftmax
from stages.training.pairs.loss import PairLoss
from stages.training.recipe import OptimizerConfig
from stages.training.worker_threads import in_worker_threads, worker_count

_BETAS = (0.9, 0.999)
_EPS = 1e-8


class Optimizer:
    """Moves the weights of a network and its ``loss`` with PyTorch's fused step, and a table by its rows.

    The prototypes of a sampled loss are a table: its gradient is sparse and so is its step. Rows without a gradient are
    not read, so that the time of a step follows from the rows that it touches. Three things differ from a dense step
    for a row that is touched in some steps only:

    * its moments (or its momentum) stay as they are in the other steps, where those of a dense step would decay;
    * it counts its own steps, from which Adam's bias correction follows, so that the first step of a row is as long
      as any first step, however late (``torch.optim.SparseAdam`` counts the steps of the table instead);
    * weight decay acts in the steps that touch it.

    The memory for the moments of a row is used when the row is first touched.
    """

    def __init__(self, config: OptimizerConfig, weights: Iterable[nn.Parameter], loss: nn.Module) -> None:
        tables = [loss.weight] if isinstance(loss, MarginSoftmax) and loss.sparse else []
        fast, factor = loss.fast if isinstance(loss, PairLoss) else ([], 1.0)
        apart = {id(weight) for weight in (*tables, *fast)}
        slow = [*weights, *(weight for weight in loss.parameters() if id(weight) not in apart)]
        self.tables = [_Table(config, table) for table in tables]
        groups: list[dict[str, Any]] = [{"params": slow}]  # which may be empty, where a list of weights may not
        groups += [{"params": fast}] if fast else []
        self._factors = (1.0, factor)
        decay: dict[str, Any] = {"weight_decay": config.weight_decay, "fused": True}
        if config.kind == "sgd":
            self.dense: torch.optim.Optimizer = torch.optim.SGD(groups, config.lr, momentum=config.momentum, **decay)
        else:
            adam = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
            self.dense = adam(groups, config.lr, betas=_BETAS, eps=_EPS, **decay)

    def step(self, lr: float) -> None:
        """Move every weight that has a gradient, with the learning rate ``lr``."""
        for group, factor in zip(self.dense.param_groups, self._factors, strict=False):
            group["lr"] = lr * factor
        self.dense.step()
        for table in self.tables:
            table.step(lr)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.dense.zero_grad()
        for table in self.tables:
            table.weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to make the same steps; tensors are not copied."""
        return {"dense": self.dense.state_dict(), "tables": [dict(table.state) for table in self.tables]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken, with the same weights in the same order."""
        if len(state["tables"]) != len(self.tables):
            raise SettingsError(
                f"the state has {len(state['tables'])} table(s) of sparse rows, this optimizer {len(self.tables)}; "
                "it was taken from a loss with another setting of sampled"
            )
        self.dense.load_state_dict(state["dense"])
        for table, saved in zip(self.tables, state["tables"], strict=True):
            for name, tensor in table.state.items():
                tensor.copy_(saved[name])


class _Table:
    """A table of rows that move one by one: its weight (R, E), its moments, and the number of steps of each row."""

    def __init__(self, config: OptimizerConfig, weight: nn.Parameter) -> None:
        self.config, self.weight = config, weight
        names = ("momentum",) if config.kind == "sgd" else ("first", "second")
        self.state = {name: torch.zeros_like(weight, requires_grad=False) for name in names}
        if config.kind != "sgd":
            self.state["steps"] = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        if self.weight.grad is None:
            return
        if not self.weight.grad.is_sparse:
            raise SettingsError("a sampled loss was evaluated, not trained: its prototypes have a dense gradient")
        sparse, workers = self.weight.grad, worker_count(self.weight.device)
        rows = sparse._indices()[0]
        if not (rows[1:] > rows[:-1]).all():  # several losses, added
            sparse = sparse.coalesce()
        parts = sparse._indices()[0].tensor_split(workers)
        gradients = sparse._values().tensor_split(workers)
        in_worker_threads(lambda worker: self._step(parts[worker], gradients[worker], lr), workers)

    def _step(self, rows: Tensor, gradient: Tensor, lr: float) -> None:
        moved = self.weight.index_select(0, rows)
        if self.config.weight_decay and self.config.kind != "adamw":
            gradient = gradient.add(moved, alpha=self.config.weight_decay)
        if self.config.kind == "sgd":
            update = self.state["momentum"].index_select(0, rows).mul_(self.config.momentum).add_(gradient)
            _put(self.state["momentum"], rows, update)
            moved.add_(update, alpha=-lr)
        else:
            if self.config.kind == "adamw":
                moved.mul_(1 - lr * self.config.weight_decay)
            self._adam(rows, gradient, moved, lr)
        _put(self.weight.detach(), rows, moved)

    def _adam(self, rows: Tensor, gradient: Tensor, moved: Tensor, lr: float) -> None:
        """Kingma and Ba, Adam, ICLR 2015, algorithm 1, with a count of steps t (n,) for each row.

        With gradient g and moments m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2, all (n, E), a row moves by
        -lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps).
        """
        steps = self.state["steps"].index_select(0, rows).add_(1)
        self.state["steps"].index_copy_(0, rows, steps)
        first = self.state["first"].index_select(0, rows).lerp_(gradient, 1 - _BETAS[0])
        _put(self.state["first"], rows, first)
        second = self.state["second"].index_select(0, rows).mul_(_BETAS[1])
        second.addcmul_(gradient, gradient, value=1 - _BETAS[1])
        _put(self.state["second"], rows, second)
        exponents = steps.to(torch.float64)[:, None]
        length = (lr / (1 - _BETAS[0] ** exponents)).to(moved.dtype)
        root = (1 - _BETAS[1] ** exponents).rsqrt_().to(moved.dtype)
        moved.addcdiv_(first.mul_(length), second.sqrt_().mul_(root).add_(_EPS), value=-1)


def _put(table: Tensor, rows: Tensor, values: Tensor) -> None:
    """``table[rows] = values``, copied 16 bytes at a time where they fit: torch copies number by number."""
    if values.element_size() * values.shape[1] % 16 == 0:
        table, values = table.view(torch.complex128), values.view(torch.complex128)
    table.index_copy_(0, rows, values)


def sam_gradient(
    value: Callable[[], Tensor],
    clear: Callable[[], None],
    weights: Sequence[nn.Parameter],
    memory: Sequence[Tensor],
    rho: float,
) -> Tensor:
    """The loss at ``weights`` w; afterwards their gradients are those at w + ``rho`` g / |g|, where g is that at w.

    Sharpness-aware minimization (Foret et al., ICLR 2021). |g| is the norm over all weights together;
    a weight that is not among them, a sampled loss's table, is not moved.
    ``value`` computes the loss and its gradients, with the same random numbers both times, and ``clear`` drops them.
    ``memory``, buffers that the forward pass updates, such as running means, keeps the first update alone.
    """
    loss = value()
    before, updated = [weight.detach().clone() for weight in weights], [tensor.clone() for tensor in memory]
    with torch.no_grad():
        moved: list[Tensor] = [weight for weight in weights if weight.grad is not None]
        gradients = [weight.grad for weight in moved if weight.grad is not None]
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        factor = float(rho / length) if length > 0 else 0.0
        torch._foreach_add_(moved, gradients, alpha=factor)
    clear()
    value()
    with torch.no_grad():
        torch._foreach_copy_(list(weights), before)
        if memory:
            torch._foreach_copy_(list(memory), updated)
    return loss


Weights: TypeAlias = dict[str, Tensor]


class WeightAverage:
    """The average of a network's weights that is validated and kept: ``ema`` and ``epochs`` as in the settings."""

    def __init__(self, network: nn.Module, ema: float, epochs: int) -> None:
        self._network, self._decay, self._epochs = network, ema, epochs
        self._parameters: list[Tensor] = list(network.parameters())
        self._average = [parameter.detach().clone() for parameter in self._parameters] if ema else []
        self._steps = 0
        self._last: list[Weights] = []

    def after_step(self) -> None:
        """Follow the weights after a step."""
        if self._decay:
            self._steps += 1
            decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
            with torch.no_grad():
                torch._foreach_lerp_(self._average, self._parameters, 1 - decay)

    def after_epoch(self) -> Weights:
        """The weights to keep after an epoch."""
        weights = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        names = [name for name, _ in self._network.named_parameters()]
        weights |= {name: tensor.clone() for name, tensor in zip(names, self._average, strict=bool(self._average))}
        if self._epochs == 1:
            return weights
        self._last = [*self._last, weights][-self._epochs :]
        return mean_of(self._last, names)

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return {"average": self._average, "steps": self._steps, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self._average, self._steps, self._last = state["average"], state["steps"], state["last"]


def mean_of(states: Sequence[Weights], parameters: Sequence[str]) -> Weights:
    """The mean of ``parameters`` over ``states`` of one network; the rest, statistics, is that of the last."""
    mean = {name: torch.stack([weights[name] for weights in states]).mean(0) for name in parameters}
    return states[-1] | mean


def between(start: Weights, trained: Weights, share: float, parameters: Sequence[str]) -> Weights:
    """(1 - ``share``) ``start`` + ``share`` ``trained`` of ``parameters``; exactly one of them at 0 and at 1."""
    if share in (0, 1):
        return start if share == 0 else trained
    return trained | {name: torch.lerp(start[name], trained[name], share) for name in parameters}
