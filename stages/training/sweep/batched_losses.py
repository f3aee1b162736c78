"""The margin losses of many heads at once, with their gradients written out: one or two passes over each array.

For one head, with embedding z, prototype w, u = z / |z|, v = w / |w|, cosine c = u v, target y, moved target m(c_y)::

    loss = log sum_j exp(s l_j) - s l_y,  l_j = c_j for j != y, l_y = m(c_y)
    dloss/dc_j = s p_j,  dloss/dc_y = s (p_y - 1) m'(c_y),  p = softmax(s l)
    dloss/du = dloss/dc v,  dloss/dz = (dloss/du - u (u dloss/du)) / |z|,  and the same for w
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from stages.training.losses.rule import Rule
from stages.training.losses.settings import MarginSoftmaxConfig, Ramp, value_at

_OF_MODULES = vars(nn.Module()).keys()
_MOVES_TARGETS_ONLY = ("observe", "observe_sums", "scale", "others", "penalty")


def can_be_batched(loss: object, classes: int) -> bool:
    """Whether ``loss`` changes the target's cosine alone, by plain numbers: no state and no random numbers."""
    if not isinstance(loss, MarginSoftmaxConfig):
        return False
    plain = MarginSoftmaxConfig(subcenters=loss.subcenters, scale=loss.scale)
    if any(getattr(loss, field.name) != getattr(plain, field.name) for field in fields(MarginSoftmaxConfig)):
        return False
    rule = _rule(loss, torch.full((classes,), 2))
    inherits = all(getattr(type(rule), name) is getattr(Rule, name) for name in _MOVES_TARGETS_ONLY)
    own = [value for module in rule.modules() for name, value in vars(module).items() if name not in _OF_MODULES]
    numbers = all(value is None or isinstance(value, (int, float, str)) or is_dataclass(value) for value in own)
    return inherits and numbers and not [*rule.buffers(), *rule.parameters()]


class BatchedLoss:
    """The losses of H = S*R heads: R configurations of one kind, repeated for S seeds; head s*R + r has the r-th."""

    def __init__(self, losses: Sequence[MarginSoftmaxConfig], class_sizes: Tensor, seeds: int) -> None:
        self.losses, self.seeds, self.classes = tuple(losses), seeds, len(class_sizes)
        self.subcenters = losses[0].subcenters
        self._rules = [_rule(loss, class_sizes) for loss in losses]
        settings = [getattr(loss, field.name) for loss in losses for field in fields(loss)]
        self._scheduled = any(isinstance(setting, Ramp) for setting in settings)
        self._set(0.0)

    def at(self, share: float) -> None:
        """Set the schedules to their values after ``share`` of the training, in [0, 1]."""
        if self._scheduled:
            self._set(share)

    def _set(self, share: float) -> None:
        for rule in self._rules:
            rule.at(share)
        self._rule = _as_one(self._rules, self.seeds)
        scales = torch.tensor([value_at(loss.scale, share) for loss in self.losses])
        self._scales = scales.repeat(self.seeds)[:, None]  # (H, 1)

    @torch.no_grad()
    def slopes(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean loss (H,) of each head, and its gradients by both arguments, in their shapes.

        Args:
            embeddings: (H, B, E), of any length.
            prototypes: (H, C*k, E); subcenter j of class c is row j*C + c.
            labels: integers (H, B) in [0, C).
        """
        unit, inverse = _unit(embeddings)
        near, inverse_of_near = _unit(prototypes)
        cosine, which = self._nearest(torch.bmm(unit, near.transpose(1, 2)))
        target = labels[..., None]
        own, by_own, by_norm = self._moved(cosine.gather(2, target)[..., 0], embeddings, labels)
        logits = cosine.mul_(self._scales[..., None]).scatter_(2, target, (own * self._scales)[..., None])
        most = logits.amax(2, keepdim=True)
        shares = logits.sub_(most).exp_()  # of the softmax, times their sum
        total = shares.sum(2, keepdim=True)
        losses = (most + total.log())[..., 0].sub_(own * self._scales).mean(1)
        factor = self._scales / labels.shape[1]
        own_slope = (shares.gather(2, target) / total)[..., 0].sub_(1).mul_(factor)
        by_cosine = shares.mul_(factor[..., None] / total).scatter_(2, target, (own_slope * by_own)[..., None])
        by_cosine = self._spread(by_cosine, which)
        slope = _through_unit(torch.bmm(by_cosine, near), unit, inverse)
        if by_norm is not None:
            slope += unit * (own_slope * by_norm)[..., None]
        return losses, slope, _through_unit(torch.bmm(by_cosine.transpose(1, 2), unit), near, inverse_of_near)

    def _nearest(self, cosine: Tensor) -> tuple[Tensor, Tensor | None]:
        """The cosine (H, B, C) with each class, and which subcenter that is; None where there is one."""
        if self.subcenters == 1:
            return cosine, None
        values, which = cosine.unflatten(2, (self.subcenters, self.classes)).max(2)  # type: ignore[no-untyped-call]
        return values, which

    def _spread(self, by_cosine: Tensor, which: Tensor | None) -> Tensor:
        """The gradient (H, B, C) by the nearest subcenter of each class as one by all, (H, B, C*k)."""
        if which is None:
            return by_cosine
        heads, size, classes = by_cosine.shape
        spread = by_cosine.new_zeros(heads, size, self.subcenters, classes)
        return spread.scatter_(2, which[:, :, None], by_cosine[:, :, None]).flatten(2)

    def _moved(self, own: Tensor, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The moved target (H, B), and its derivatives by the cosine and, where it reads it, by the norm."""
        own = own.detach().requires_grad_()
        norms = torch.linalg.vector_norm(embeddings, dim=2).requires_grad_()
        with torch.enable_grad():
            moved = self._rule.target(own, norms, labels)
            by_own, by_norm = torch.autograd.grad(moved.sum(), [own, norms], allow_unused=True)
        assert by_own is not None
        return moved.detach(), by_own, by_norm


def _rule(loss: MarginSoftmaxConfig, class_sizes: Tensor) -> Rule:
    return loss.rule(class_sizes, torch.Generator())


def _as_one(rules: Sequence[Rule], seeds: int) -> Rule:
    """One rule for all heads: a number that differs between ``rules`` (R,) is a tensor (S*R, 1) in it."""
    one = copy.deepcopy(rules[0])
    for modules in zip(one.modules(), *(rule.modules() for rule in rules), strict=True):
        for name in [*vars(modules[0])]:
            values = [vars(module)[name] for module in modules[1:]]
            numbers = all(type(value) in (int, float) for value in values)  # not settings, some of them ramps
            if numbers and any(value != values[0] for value in values):
                setattr(modules[0], name, torch.tensor(values, dtype=torch.float32).repeat(seeds)[:, None])
    return one


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """``vectors`` (H, n, E) divided by their lengths, and the inverse lengths; a zero vector stays zero."""
    norms = torch.linalg.vector_norm(vectors, dim=2, keepdim=True)
    inverse = torch.where(norms > 0, norms, torch.inf).reciprocal()
    return vectors * inverse, inverse


def _through_unit(slope: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """The gradient by vectors (H, n, E), from that by their unit vectors u: (g - u (u g)) / |v|. In place."""
    along = torch.einsum("hne,hne->hn", slope, unit)[..., None]
    return slope.addcmul_(unit, along, value=-1).mul_(inverse)
