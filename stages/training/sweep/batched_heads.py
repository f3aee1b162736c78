"""Many small linear heads trained together: a few large matrix products a step instead of many small ones.

::

    S batches (S, B, D) x maps (S, D, R*E) -> (S*R, B, E) x prototypes (S*R, E, C*k) -> cosines (S*R, B, C) -> losses

R recipes, each with the same S seeds, are H = S*R heads. A seed determines the first weights, the order of the rows and
the dropout, so the R heads of a seed share each batch: it is gathered once, dropped out once, and multiplied once by
all R maps. Each head equals, up to rounding, the one that is trained alone with its recipe and seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.training.config import OptimizerConfig, TrainingConfig
from stages.training.heads.inputs import in_blocks
from stages.training.heads.kinds import LinearHeadConfig
from stages.training.heads.networks import LinearHead, drop
from stages.training.loop import member_seed
from stages.training.losses.settings import MarginSoftmaxConfig
from stages.training.recipe import HeadRecipe
from stages.training.rows.sampling import BalancedConfig, ClassesByImagesConfig, ShuffledConfig, build_sampler
from stages.training.sweep.batched_losses import BatchedLoss, can_be_batched
from stages.training.weights.optimizer import Optimizer

_LOGITS = 2**22  # elements (B, C*k) of one head: above, its products are large enough by themselves
_NUMBERS = 2**26  # elements of logits and weights of all heads together: 256 MiB in float32, a few times over
_HEADS = 64
_MEMBER = 1  # a head alone is the first member of a soup
_TINY = torch.finfo(torch.float32).tiny
# The settings that this loop implements: a recipe with any other setting is trained alone.
_SAME_FOR_ALL = ("epochs", "batch_size", "minimum_class_size", "sampling")
_OF_TRAINING = (*_SAME_FOR_ALL, "holdout", "keep", "views", "memory")
_SAMPLING = (ShuffledConfig, BalancedConfig, ClassesByImagesConfig)


def batch_key(recipe: HeadRecipe, classes: int, views: int = 1) -> Hashable | None:
    """Recipes of one key can be trained together; None for a recipe that is trained alone.

    Trained alone are heads that are no plain linear map, losses with a state, with random numbers or with an effect on
    other cosines than the target's, settings that this loop does not implement (random ``views``), and large heads.
    """
    head: object = recipe.head
    training = recipe.training
    if not isinstance(head, LinearHeadConfig) or recipe.start is not None or not can_be_batched(recipe.loss, classes):
        return None
    if head != LinearHeadConfig(dim=head.dim, dropout=head.dropout, dropouts=head.dropouts, inputs=head.inputs):
        return None
    if training != TrainingConfig(**_only(training, _OF_TRAINING)) or not isinstance(recipe.sampling, _SAMPLING):
        return None
    if views > 1 and training.views != "first":
        return None
    if training.batch_size * classes * _loss(recipe).subcenters > _LOGITS:
        return None
    same = tuple(_only(training, _SAME_FOR_ALL).items())
    return head, type(recipe.loss), _loss(recipe).subcenters, recipe.optimizer.kind, same


def _only(config: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _loss(recipe: HeadRecipe) -> MarginSoftmaxConfig:
    assert isinstance(recipe.loss, MarginSoftmaxConfig)  # as for every recipe with a batch_key
    return recipe.loss


def heads_at_once(recipe: HeadRecipe, seeds: int, features: int, classes: int) -> int:
    """The largest number of recipes like ``recipe``, each with ``seeds``, to train together."""
    prototypes = classes * _loss(recipe).subcenters
    numbers = 4 * recipe.training.batch_size * prototypes + 4 * recipe.head.dim * (features + prototypes)
    return max(1, int(min(_HEADS, _NUMBERS // numbers)) // seeds)


def train_batched_heads(
    features: Tensor,
    rows: Tensor,
    labels: Tensor,
    recipes: Sequence[HeadRecipe],
    seeds: Sequence[int],
    blocks: Sequence[int] | None = None,
) -> BatchedHeads:
    """Train each of ``recipes``, which share one :func:`batch_key`, with each of ``seeds``.

    Args:
        features: (N, D), of any float dtype.
        rows: integers (n,): which of them are trained on.
        labels: integers (n,) in [0, C), each at least once.
        recipes: R of them.
        seeds: S of them.
        blocks: the sizes of the features that stand side by side; by default one of D.
    """
    heads = BatchedHeads(features[rows], labels, recipes, seeds, blocks or [features.shape[1]])
    training = recipes[0].training
    domains = np.zeros(len(labels), np.int64)  # not used by these samplings
    sampler = build_sampler(recipes[0].sampling, labels.numpy(), domains, training.batch_size)
    for epoch in range(training.epochs):
        orders = [sampler.epoch(np.random.default_rng((seed, _MEMBER, epoch))) for seed in seeds]
        for step, batches in enumerate(zip(*orders, strict=True), epoch * sampler.steps):
            heads.step(torch.from_numpy(np.stack(batches)), step, sampler.steps)
    return heads


class BatchedHeads:
    """H = S*R heads, recipe r of seed s: their weights in three tensors, their optimizer, and their loss.

    ``finite`` (S, R) is False where a loss became NaN or infinite.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        recipes: Sequence[HeadRecipe],
        seeds: Sequence[int],
        blocks: Sequence[int],
    ) -> None:
        self.labels, self.recipes = labels, tuple(recipes)
        losses, head, count = [_loss(recipe) for recipe in recipes], recipes[0].head, len(recipes)
        sizes = torch.bincount(labels)
        networks, prototypes = list[LinearHead](), list[Tensor]()
        assert isinstance(head, LinearHeadConfig)
        for seed in seeds:  # the random numbers of a head that is trained alone, in the same order
            generator = torch.Generator().manual_seed(seed)
            networks.append(head.build(blocks, generator))
            prototypes.append(losses[0].build(head.dim, sizes, generator).weight.detach())
        self.generators = [torch.Generator().manual_seed(member_seed(seed, _MEMBER)) for seed in seeds]
        self.inputs, self.dropouts = networks[0].inputs, networks[0].dropouts
        with torch.inference_mode():
            self.inputs.observe(features)
        self.prepared = in_blocks(self.inputs, features)
        # (S, R*E, D), (S, R*E) and (S, R, C*k, E); the heads of a seed have the same start
        self.maps = torch.stack([network.weight.detach().repeat(count, 1) for network in networks])
        self.offsets = torch.stack([network.bias.detach().repeat(count) for network in networks])
        self.prototypes = torch.stack([weight.expand(count, -1, -1) for weight in prototypes]).contiguous()
        self.weights = (self.maps, self.offsets, self.prototypes)
        self.slopes = tuple(torch.empty_like(weight) for weight in self.weights)
        self.loss = BatchedLoss(losses, sizes, len(seeds))
        self.finite = torch.ones(len(seeds), count, dtype=torch.bool)
        self.optimizer, self.runs = self._optimizer()

    def embed(self, features: Tensor) -> Tensor:
        """Embeddings (S, R, n, E) of unit length of ``features`` (n, D)."""
        weight, bias = self.maps.flatten(0, 1), self.offsets.flatten()
        mapped = in_blocks(lambda block: functional.linear(self.inputs(block), weight, bias), features)
        unit = functional.normalize(mapped.view(len(features), self.finite.numel(), -1), dim=2, eps=_TINY)
        return unit.transpose(0, 1).reshape(*self.finite.shape, len(features), -1)

    @torch.no_grad()
    def step(self, batch: Tensor, step: int, steps_per_epoch: int) -> None:
        """Make one step of all heads on a ``batch`` of rows (S, B); ``step`` counts from 0."""
        epochs, count = self.recipes[0].training.epochs, len(self.recipes)
        pairs = zip(batch, self.generators, strict=True)
        dropped = torch.stack([drop(self.prepared[rows], self.dropouts, generator) for rows, generator in pairs])
        projected = torch.baddbmm(self.offsets[:, None], dropped, self.maps.transpose(1, 2))  # (S, B, R*E)
        embeddings = projected.view(*batch.shape, count, -1).transpose(1, 2).flatten(0, 1)  # (S*R, B, E)
        self.loss.at(step / max(1, steps_per_epoch * epochs - 1))
        losses, slope, slope_of_prototypes = self.loss.slopes(
            embeddings, self.prototypes.flatten(0, 1), self.labels[batch].repeat_interleave(count, 0)
        )
        slope = slope.view(len(batch), count, *slope.shape[1:]).transpose(1, 2).flatten(2)
        of_maps, of_offsets, of_prototypes = self.slopes
        torch.bmm(slope.transpose(1, 2), dropped, out=of_maps)
        torch.sum(slope, 1, out=of_offsets)
        of_prototypes.copy_(slope_of_prototypes.view_as(of_prototypes))
        self.finite &= losses.view_as(self.finite).isfinite()
        for group, config in zip(self.optimizer.param_groups, self.runs, strict=True):
            group["lr"] = config.learning_rate(step, steps_per_epoch, epochs)
        self.optimizer.step()

    def _optimizer(self) -> tuple[torch.optim.Optimizer, list[OptimizerConfig]]:
        """One optimizer over views of the weights, with a group for each run of recipes of equal optimizer settings."""
        runs, optimizers, low = list[OptimizerConfig](), list[torch.optim.Optimizer](), 0
        for config, members in itertools.groupby(recipe.optimizer for recipe in self.recipes):
            high = low + len(list(members))
            optimizers.append(Optimizer(config, self._views(low, high), []).dense)
            runs.append(config)
            low = high
        first, *others = optimizers
        for other in others:
            first.param_groups.extend(other.param_groups)
        return first, runs

    def _views(self, low: int, high: int) -> list[nn.Parameter]:
        """The weights of recipes ``low`` to ``high`` of every seed; their gradients are views of ``slopes``."""
        views = []
        for weight, slope in zip(self.weights, self.slopes, strict=True):
            for of_weight, of_slope in zip(weight, slope, strict=True):
                size = len(of_weight) // len(self.recipes)
                views.append(nn.Parameter(of_weight[low * size : high * size]))
                views[-1].grad = of_slope[low * size : high * size]
        return views
