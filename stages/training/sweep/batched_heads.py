"""Small linear heads trained side by side: each batch is gathered, prepared and dropped out once for all of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

from cache import Features
from cache.errors import DivergedError
from stages.records import Records
from stages.training.config import TrainingConfig
from stages.training.heads.kinds import LinearHeadConfig
from stages.training.heads.networks import HeadNetwork, LinearHead, drop
from stages.training.loop import Training
from stages.training.losses.settings import MarginSoftmaxConfig
from stages.training.recipe import HeadRecipe
from stages.training.rows.labelled_rows import LabelledRows
from stages.training.rows.sampling import BalancedConfig, ClassesByImagesConfig, ShuffledConfig
from stages.training.training_inputs import prepare
from stages.training.worker_threads import one_thread_each

_LOGITS = 2**22  # elements (B, C*k) of one head: above, its products take longer than what is shared
_NUMBERS = 2**26  # elements of logits and weights of all heads together: 256 MiB in float32, a few times over
_HEADS = 64
_SAME_FOR_ALL = ("epochs", "batch_size", "minimum_class_size", "sampling", "views", "memory")
_SAMPLING = (ShuffledConfig, BalancedConfig, ClassesByImagesConfig)


def batch_key(recipe: HeadRecipe, classes: int) -> Hashable | None:
    """Recipes of one key can be trained together; None for a recipe that is trained alone.

    Trained alone are heads that are no linear map from random weights, losses that are no margin loss, settings that
    change more than a step, and large heads.
    """
    head, loss, training = recipe.head, recipe.loss, recipe.training
    if not isinstance(head, LinearHeadConfig) or recipe.start or not isinstance(loss, MarginSoftmaxConfig):
        return None
    same = {name: getattr(training, name) for name in _SAME_FOR_ALL}
    if training != TrainingConfig(**same, holdout=training.holdout, keep=training.keep):
        return None
    if not isinstance(recipe.sampling, _SAMPLING) or training.batch_size * classes * loss.subcenters > _LOGITS:
        return None
    return head, loss.subcenters, *same.values()


def heads_at_once(recipe: HeadRecipe, features: int, classes: int) -> int:
    """The largest number of recipes like ``recipe``, which has a :func:`batch_key`, to train together."""
    assert isinstance(recipe.loss, MarginSoftmaxConfig)
    prototypes = classes * recipe.loss.subcenters
    numbers = 4 * recipe.training.batch_size * prototypes + 4 * recipe.head.dim * (features + prototypes)
    return max(1, min(_HEADS, _NUMBERS // numbers))


def train_batched_heads(
    features: Features, records: Records, recipes: Sequence[HeadRecipe], seeds: Sequence[int]
) -> Iterator[list[HeadNetwork | None]]:
    """For each of ``seeds`` the heads of ``recipes``, which share one :func:`batch_key`; None where one diverged.

    With one seed all have the same order of the rows and the same dropout. Each head is the one that is trained alone
    on ``records`` with nothing held out.
    """
    inputs = prepare(features, records, recipes[0])
    rows, training = LabelledRows.of(features, inputs.records, mapped=inputs.mapped), inputs.training
    for seed in seeds:
        settings = [replace(inputs, recipe=replace(recipe, training=training), seed=seed) for recipe in recipes]
        runs = [Training(each, rows, None, training.epochs) for each in settings]
        networks = [run.network for run in runs if isinstance(run.network, LinearHead)]
        shares, alive = networks[0].dropouts, dict(enumerate(runs))
        for network in networks:
            network.dropouts = ()
        with one_thread_each():
            for number in range(training.epochs):
                for step, batch in runs[0].batches(number):
                    dropped = batch._replace(features=drop(batch.features, shares, runs[0].dropout))
                    for place, run in list(alive.items()):
                        try:
                            run.learn(dropped, step)
                        except DivergedError:
                            del alive[place]
        yield [run.network if place in alive else None for place, run in enumerate(runs)]
