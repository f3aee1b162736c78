"""Small linear heads trained together: a batch is prepared and dropped out once, and mapped by all of them at once.

::

    batch (B, D) x maps (D, R*E) -> (R, B, E) x prototypes (R, E, C*k) -> cosines (R, B, C) -> losses (R,)

R recipes with one seed have the same first weights, order of the rows and dropout. Each head equals, up to rounding,
the one that is trained alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from cache import Features
from stages.records import Records
from stages.training.heads.kinds import LinearHeadConfig
from stages.training.heads.networks import HeadNetwork, LinearHead, drop
from stages.training.loop import Training
from stages.training.losses.angle import normalize
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import MarginSoftmaxConfig, value_at
from stages.training.losses.rules import RandomState, Rule
from stages.training.recipe import HeadRecipe, TrainingConfig
from stages.training.rows.labelled_rows import LabelledRows
from stages.training.rows.sampling import BalancedConfig, ClassesByImagesConfig, ShuffledConfig
from stages.training.training_inputs import prepare

_LOGITS = 2**22  # elements (B, C*k) of one head: above, its products are large enough by themselves
_NUMBERS = 2**26  # elements of logits and weights of all heads together: 256 MiB in float32, a few times over
_HEADS = 64
_SAME_FOR_ALL = ("epochs", "batch_size", "minimum_class_size", "sampling", "views", "memory")
_SAMPLING = (ShuffledConfig, BalancedConfig, ClassesByImagesConfig)
_MOVES_TARGETS_ONLY = ("observe", "observe_sums", "scale", "others", "penalty")


def batch_key(recipe: HeadRecipe, classes: int) -> Hashable | None:
    """Recipes of one key can be trained together; None for a recipe that is trained alone.

    Trained alone are heads that are no linear map from random weights, losses with a state, with random numbers or with
    an effect on other cosines than the target's, settings that change more than a step, and large heads.
    """
    head, loss, training = recipe.head, recipe.loss, recipe.training
    if not isinstance(head, LinearHeadConfig) or head.nested or recipe.start:
        return None
    if not isinstance(loss, MarginSoftmaxConfig) or not _moves_targets_only(loss, classes):
        return None
    same = {name: getattr(training, name) for name in _SAME_FOR_ALL}
    if training != TrainingConfig(**same, holdout=training.holdout, keep=training.keep):
        return None
    if not isinstance(recipe.sampling, _SAMPLING) or training.batch_size * classes * loss.subcenters > _LOGITS:
        return None
    return head, loss.subcenters, recipe.optimizer.kind, *same.values()


def _moves_targets_only(loss: MarginSoftmaxConfig, classes: int) -> bool:
    rule = loss.rule(torch.full((classes,), 2), torch.Generator())
    inherits = all(getattr(type(rule), name) is getattr(Rule, name) for name in _MOVES_TARGETS_ONLY)
    draws = any(isinstance(module, RandomState) for module in rule.modules())
    plain = not loss.label_smoothing and loss.sampled is None and loss.precision == "float32"
    return inherits and plain and not draws and not [*rule.buffers(), *rule.parameters()]


def heads_at_once(recipe: HeadRecipe, features: int, classes: int) -> int:
    """The largest number of recipes like ``recipe``, which has a :func:`batch_key`, to train together."""
    prototypes = classes * _loss(recipe).subcenters
    numbers = 4 * recipe.training.batch_size * prototypes + 4 * recipe.head.dim * (features + prototypes)
    return max(1, min(_HEADS, _NUMBERS // numbers))


def train_batched_heads(
    features: Features, records: Records, recipes: Sequence[HeadRecipe], seeds: Sequence[int]
) -> Iterator[list[HeadNetwork | None]]:
    """For each of ``seeds`` the heads of ``recipes``, which share one :func:`batch_key`; None where one diverged.

    Nothing of ``records`` is held out.
    """
    inputs = prepare(features, records, recipes[0])
    rows = LabelledRows.of(features, inputs.records, mapped=inputs.mapped)
    for seed in seeds:
        yield _train(Training(replace(inputs, seed=seed), rows, None, inputs.training.epochs), recipes)


def _train(first: Training, recipes: Sequence[HeadRecipe]) -> list[HeadNetwork | None]:
    """The heads of ``recipes``, with the start and the batches of the ``first``."""
    head, loss = first.network, first.loss
    assert isinstance(head, LinearHead)
    assert isinstance(loss, MarginSoftmax)
    # (R, E, D), (R, E) and (R, k*C, E): the heads of a seed have the same start; each moves views of its own
    stacked = [
        each.detach().repeat(len(recipes), *[1] * each.dim()).requires_grad_()
        for each in (head.weight, head.bias, loss.weight)
    ]
    weights = [[nn.Parameter(each.detach()[place]) for each in stacked] for place in range(len(recipes))]
    optimizer, *others = (
        recipe.optimizer.build(own, nn.Module()).dense for recipe, own in zip(recipes, weights, strict=True)
    )
    for other in others:
        optimizer.param_groups.extend(other.param_groups)
    sizes = torch.bincount(torch.from_numpy(first.rows.labels))
    rules = [_loss(recipe).rule(sizes, torch.Generator()) for recipe in recipes]
    finite = torch.ones(len(recipes), dtype=torch.bool)
    epochs, steps = first.epochs, first.steps
    for number in range(epochs):
        for step, batch in first.batches(number):
            share = step / max(1, steps * epochs - 1)
            for rule in rules:
                rule.at(share)
            maps, offsets, prototypes = stacked
            dropped = drop(batch.features, head.dropouts, first.dropout)
            mapped = functional.linear(dropped, maps.flatten(0, 1), offsets.flatten())
            embeddings = mapped.view(len(dropped), len(recipes), -1).transpose(0, 1)
            scales = torch.tensor([value_at(_loss(recipe).scale, share) for recipe in recipes])
            losses = _losses(embeddings, prototypes, batch.labels, rules, scales, loss.subcenters)
            finite &= losses.isfinite()
            slopes = torch.autograd.grad(losses.sum(), stacked)
            for place, own in enumerate(weights):
                optimizer.param_groups[place]["lr"] = recipes[place].optimizer.learning_rate(step, steps, epochs)
                for weight, slope in zip(own, slopes, strict=True):
                    weight.grad = slope[place].contiguous()  # as the fused step reads it
            optimizer.step()
    heads = [LinearHead(head.inputs, weight, bias) for weight, bias, _ in weights]
    return [each if good else None for each, good in zip(heads, finite.tolist(), strict=True)]


def _losses(
    embeddings: Tensor, prototypes: Tensor, labels: Tensor, rules: Sequence[Rule], scales: Tensor, subcenters: int
) -> Tensor:
    """The mean loss (R,) of each head, of ``embeddings`` (R, B, E) and ``prototypes`` (R, k*C, E), as the kernel's.

    ``labels`` (B,) are those of all heads; subcenter j of class c is row j*C + c.
    """
    norms = torch.linalg.vector_norm(embeddings, dim=2)
    unit, near = (normalize(vectors.flatten(0, 1)).view_as(vectors) for vectors in (embeddings, prototypes))
    cosine = torch.bmm(unit, near.transpose(1, 2))
    cosine = cosine.view(*norms.shape, subcenters, -1).max(2).values
    target = labels.expand(len(rules), -1)[..., None]
    own = cosine.gather(2, target)[..., 0]
    targets = zip(rules, own, norms, strict=True)
    moved = torch.stack([rule.target(cosines, lengths, labels) for rule, cosines, lengths in targets])
    logits = cosine.scatter(2, target, moved[..., None]) * scales[:, None, None]
    losses = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return losses.view_as(own).mean(1)


def _loss(recipe: HeadRecipe) -> MarginSoftmaxConfig:
    assert isinstance(recipe.loss, MarginSoftmaxConfig)  # as of every recipe with a batch_key
    return recipe.loss
