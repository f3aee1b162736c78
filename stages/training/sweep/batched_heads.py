"""Many small linear heads trained at once: a few large matrix products a step instead of many small ones.

::

    S batches (S, B, D) x maps (S, D, R*E) -> (S*R, B, E) x prototypes (S*R, E, C*k) -> cosines (S*R, B, C) -> losses

R recipes, each with the same S seeds, are S*R heads: H. A seed draws the first weights, the order of the rows and the
dropout, so the R heads of a seed see one batch, which is gathered and dropped out once and multiplied once. Each head
is, to rounding, the one that is trained alone with its recipe and seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.training.config import TrainingConfig
from stages.training.heads.dropout import drop
from stages.training.heads.linear import LinearHead, LinearHeadConfig
from stages.training.loop import member_seed
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.recipe import HeadRecipe
from stages.training.rows.sampling import (
    BalancedConfig,
    ByLossConfig,
    ClassesByImagesConfig,
    ShuffledConfig,
    build_sampler,
)
from stages.training.sweep.batched_losses import StackedLoss, can_be_stacked
from stages.training.weights.optimizer import Optimizer, OptimizerConfig

_LOGITS = 2**22  # numbers (B, C*k) of one head: above, the products are large already and memory is what counts
_NUMBERS = 2**26  # logits and weights of all heads together: 256 MiB in float32, a few times over
_PREPARED = 2**28  # numbers of the training rows as the maps take them: 1 GiB
_HEADS = 64
_MEMBER = 1  # a head that is no soup is the first of one
_ROWS = 4096  # embedded at a time
# The settings that the loop here knows: one that is added elsewhere, and set, is trained alone.
_OF_OPTIMIZER = ("kind", "lr", "final_lr", "weight_decay", "warmup_epochs", "momentum")
_SAME_FOR_ALL = ("epochs", "batch_size", "minimum_class_size", "sampling")
_OF_TRAINING = (*_SAME_FOR_ALL, "holdout", "views", "memory")
_SAMPLING = (ByLossConfig, ShuffledConfig, BalancedConfig, ClassesByImagesConfig)


def stack_key(recipe: HeadRecipe, classes: int, views: int = 1) -> Hashable | None:
    """Recipes of one key can be stacked; None where a recipe is trained alone.

    That is where the head is no plain linear map, where the loss learns or draws anything or moves more than the
    target, where a setting of the loop is not one that the stack knows (random ``views`` of an image, for one), and
    where one head is large by itself.
    """
    head: object = recipe.head
    optimizer, training = recipe.optimizer, recipe.training
    if not isinstance(head, LinearHeadConfig) or recipe.start is not None or not can_be_stacked(recipe.loss, classes):
        return None
    if head != LinearHeadConfig(dim=head.dim, dropout=head.dropout, dropouts=head.dropouts, inputs=head.inputs):
        return None
    if optimizer != OptimizerConfig(**_only(optimizer, _OF_OPTIMIZER)):
        return None
    if training != TrainingConfig(**_only(training, _OF_TRAINING)) or not isinstance(training.sampling, _SAMPLING):
        return None
    if views > 1 and training.views != "first":
        return None
    if training.batch_size * classes * _loss(recipe).subcenters > _LOGITS:
        return None
    return (
        head,
        type(recipe.loss),
        _loss(recipe).subcenters,
        optimizer.kind,
        tuple(_only(training, _SAME_FOR_ALL).items()),
    )


def _only(config: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _loss(recipe: HeadRecipe) -> MarginSoftmaxConfig:
    assert isinstance(recipe.loss, MarginSoftmaxConfig)  # those of a stack_key are
    return recipe.loss


def heads_at_once(recipe: HeadRecipe, seeds: int, features: int, classes: int) -> int:
    """How many recipes like ``recipe``, each with ``seeds``, to stack at most."""
    prototypes = classes * _loss(recipe).subcenters
    numbers = 4 * recipe.training.batch_size * prototypes + 4 * recipe.head.dim * (features + prototypes)
    return max(1, int(min(_HEADS, _NUMBERS // numbers)) // seeds)


@dataclass(frozen=True)
class Stacked:
    """H = S*R trained heads: recipe r of seed s. ``finite`` (S, R) is False where a loss became NaN or infinite."""

    heads: tuple[tuple[LinearHead, ...], ...]
    finite: Tensor

    def embed(self, features: Tensor) -> Tensor:
        """Embeddings (S, R, n, E) of unit length of ``features`` (n, D)."""
        flat = [head for of_seed in self.heads for head in of_seed]
        weight, bias = torch.cat([head.weight for head in flat]), torch.cat([head.bias for head in flat])
        with torch.inference_mode():
            blocks = [
                functional.linear(flat[0].inputs(block), weight, bias).view(len(block), len(flat), -1)
                for block in torch.split(features, _ROWS)
            ]
            found = functional.normalize(torch.cat(blocks), dim=2, eps=torch.finfo(torch.float32).tiny)
        return found.transpose(0, 1).reshape(len(self.heads), -1, *found[:, 0].shape)


def train_stack(
    features: Tensor,
    rows: Tensor,
    labels: Tensor,
    recipes: Sequence[HeadRecipe],
    seeds: Sequence[int],
    blocks: Sequence[int] | None = None,
) -> Stacked:
    """Train each of ``recipes``, which share one :func:`stack_key`, with each of ``seeds``.

    Args:
        features: (N, D), of any float dtype.
        rows: integers (n,): which of them are trained on.
        labels: integers (n,) in [0, C), each at least once.
        recipes: R of them.
        seeds: S of them.
        blocks: the sizes of the features that stand side by side; by default one of D.
    """
    stack = _Stack(features, rows, labels, recipes, seeds, blocks or [features.shape[1]])
    training = recipes[0].training
    domains = np.zeros(len(labels), np.int64)  # none of the samplings here looks at them
    sampling = training.sampling
    sampling = sampling.chosen(of_pairs=False) if isinstance(sampling, ByLossConfig) else sampling
    sampler = build_sampler(sampling, labels.numpy(), domains, training.batch_size)
    for epoch in range(training.epochs):
        orders = [sampler.epoch(np.random.default_rng((seed, _MEMBER, epoch))) for seed in seeds]
        for step, batches in enumerate(zip(*orders, strict=True), epoch * sampler.steps):
            stack.step(torch.from_numpy(np.stack(batches)), step, sampler.steps)
    return stack.trained()


class _Stack:
    """Weights of S*R heads in three tensors, what moves them, and where the training stands."""

    def __init__(
        self,
        features: Tensor,
        rows: Tensor,
        labels: Tensor,
        recipes: Sequence[HeadRecipe],
        seeds: Sequence[int],
        blocks: Sequence[int],
    ) -> None:
        self.labels, self.recipes, self.count = labels, tuple(recipes), len(recipes)
        losses = [_loss(recipe) for recipe in recipes]
        first, count = recipes[0], self.count
        sizes = torch.bincount(labels)
        networks, prototypes = list[LinearHead](), list[Tensor]()
        assert isinstance(first.head, LinearHeadConfig)
        for seed in seeds:  # the draws of a head that is trained alone, in their order
            generator = torch.Generator().manual_seed(seed)
            networks.append(first.head.build(blocks, generator))
            prototypes.append(losses[0].build(first.head.dim, sizes, generator).weight.detach())
        self.generators = [torch.Generator().manual_seed(member_seed(seed, _MEMBER)) for seed in seeds]
        self.inputs, self.dropouts = networks[0].inputs, networks[0].dropouts
        self.features, self.rows = features, rows
        with torch.inference_mode():
            self.inputs.observe(features[rows])
        self.is_prepared = len(rows) * self.inputs.dim <= _PREPARED
        if self.is_prepared:  # the steps before the map once, not once an epoch
            self.features, self.rows = self._prepared(), torch.arange(len(rows))
        # (S, R*E, D), (S, R*E) and (S, R, C*k, E); the heads of a seed begin alike
        self.maps = torch.stack([network.weight.detach().repeat(count, 1) for network in networks])
        self.offsets = torch.stack([network.bias.detach().repeat(count) for network in networks])
        self.prototypes = torch.stack([weight.expand(count, -1, -1) for weight in prototypes]).contiguous()
        self.weights = (self.maps, self.offsets, self.prototypes)
        self.slopes = tuple(torch.empty_like(weight) for weight in self.weights)
        self.loss = StackedLoss(losses, sizes, len(seeds))
        self.finite = torch.ones(len(seeds), count, dtype=torch.bool)
        self.optimizer, self.runs = self._optimizer()

    def _optimizer(self) -> tuple[torch.optim.Optimizer, list[OptimizerConfig]]:
        """One optimiser, a group for each run of recipes that are moved alike, on views of the weights."""
        configs = [recipe.optimizer for recipe in self.recipes]
        runs, groups, low = [], [], 0
        for config, members in itertools.groupby(configs):
            high = low + len(list(members))
            groups.append({"params": self._views(low, high), "weight_decay": config.weight_decay})
            if config.kind == "sgd":
                groups[-1]["momentum"] = config.momentum
            runs.append(config)
            low = high
        optimizer = Optimizer(runs[0], groups[0]["params"], []).dense  # type: ignore[arg-type]
        optimizer.param_groups[0].update({name: value for name, value in groups[0].items() if name != "params"})
        for group in groups[1:]:
            optimizer.add_param_group(group)
        return optimizer, runs

    def _views(self, low: int, high: int) -> list[nn.Parameter]:
        """The weights of recipes ``low`` to ``high`` of every seed; their gradients are views of ``slopes``."""
        views = []
        for weight, slope in zip(self.weights, self.slopes, strict=True):
            for of_weight, of_slope in zip(weight, slope, strict=True):
                size = len(of_weight) // len(self.recipes)
                views.append(nn.Parameter(of_weight[low * size : high * size]))
                views[-1].grad = of_slope[low * size : high * size]
        return views

    @torch.no_grad()
    def step(self, batch: Tensor, step: int, steps_per_epoch: int) -> None:
        """Move all weights by one ``batch`` of rows (S, B); ``step`` counts from 0."""
        epochs = self.recipes[0].training.epochs
        taken = self._taken(batch)
        projected = torch.baddbmm(self.offsets[:, None], taken, self.maps.transpose(1, 2))  # (S, B, R*E)
        self.loss.at(step / max(1, steps_per_epoch * epochs - 1))
        losses, slope, slope_of_prototypes = self.loss.slopes(
            self._by_head(projected), self.prototypes.flatten(0, 1), self.labels[batch].repeat_interleave(self.count, 0)
        )
        slope = slope.view(len(batch), self.count, *slope.shape[1:]).transpose(1, 2).flatten(2)
        of_maps, of_offsets, of_prototypes = self.slopes
        torch.bmm(slope.transpose(1, 2), taken, out=of_maps)
        torch.sum(slope, 1, out=of_offsets)
        of_prototypes.copy_(slope_of_prototypes.view_as(of_prototypes))
        self.finite &= losses.view_as(self.finite).isfinite()
        for group, config in zip(self.optimizer.param_groups, self.runs, strict=True):
            group["lr"] = config.learning_rate(step, steps_per_epoch, epochs)
        self.optimizer.step()

    def _by_head(self, projected: Tensor) -> Tensor:
        """What the maps gave (S, B, R*E) as (S*R, B, E)."""
        seeds, size, _ = projected.shape
        return projected.view(seeds, size, self.count, -1).transpose(1, 2).flatten(0, 1)

    def _taken(self, batch: Tensor) -> Tensor:
        """The batches (S, B, D) as the maps take them, each seed with its own dropout."""
        seeds, size = batch.shape
        taken = self.features[self.rows[batch.flatten()]]
        if not self.is_prepared:
            taken = self.inputs(taken)
        of_seeds = zip(taken.view(seeds, size, -1), self.generators, strict=True)
        dropped = [drop(rows, self.dropouts, generator) for rows, generator in of_seeds]
        return torch.stack(dropped) if seeds > 1 else dropped[0][None]

    def _prepared(self) -> Tensor:
        """All rows as the maps take them, float32."""
        with torch.inference_mode():
            return torch.cat([self.inputs(self.features[block]) for block in torch.split(self.rows, _ROWS)])

    def trained(self) -> Stacked:
        """The heads as they are now."""
        dim = self.recipes[0].head.dim
        heads = [
            tuple(
                LinearHead(self.inputs, weight, bias, dropouts=self.dropouts)
                for weight, bias in zip(torch.split(maps, dim), torch.split(offsets, dim), strict=True)
            )
            for maps, offsets in zip(self.maps, self.offsets, strict=True)
        ]
        return Stacked(tuple(heads), self.finite)
