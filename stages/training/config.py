"""How a head is trained: how long, on which rows, by which optimizer; which weights are kept. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cache.errors import SettingsError
from cache.settings import Settings, Within
from stages.training.rows.sampling import ByLossConfig, ClassesByImagesConfig, SamplingConfig

if TYPE_CHECKING:
    from torch import nn

    from stages.training.weights.optimizer import Optimizer

Count: TypeAlias = Annotated[int, Within("[1, inf]")]
Factor: TypeAlias = Annotated[float, Within("[0, inf)")]


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """How long, how many rows a step, which classes, and which weights are kept.

    Args:
        epochs: how long; the schedules of learning rate, margin and scale reach their ends there.
        batch_size: rows a step.
        minimum_class_size: classes of fewer rows are left out.
        keep: the weights of the ``best`` epoch by the validation score, or of the ``last``: then nothing is held out,
            and the scores on validation records are only logged.
        holdout: without validation records, the share of the classes that chooses the epoch; 0 trains all epochs and
            keeps the last.
        patience: stop after so many epochs without a better validation score; 0 never does.
        sampling: which rows an epoch visits and which make a batch; by default what suits the loss.
        views: of a store that holds several views of each image, train on a ``random`` one each epoch, or on the
            ``first`` alone. Validation and embeddings take the first.
        memory: ``ram`` gathers the features into memory, ``map`` reads them from the chunk files when they are needed
            (``shuffled`` is a block shuffle then: see ``sampling.block_order``); ``auto`` maps above 8 GiB.
        ema: keep the moving average of the weights, w' <- d w' + (1 - d) w after every step t = 1, 2, ... with
            d = min(ema, (1 + t) / (10 + t)); 0 keeps the weights themselves.
        soup_epochs: keep the mean of the weights after so many epochs, up to the one that is kept.
        soup: train so many heads from one start, each with its own order of the rows and dropout, and keep their mean.
        sam_rho: sharpness-aware minimisation (Foret et al., ICLR 2021): the gradient is taken where the weights have
            moved by this length along it; costs a second pass. 0 is the plain gradient.
        anchor: for a head that starts at a closed form, the shares t to choose from by the validation score: the kept
            weights are (1 - t) start + t trained. 0, the start itself, must be among them. Empty: t = 1.
        experts: where a gate can route images by domain, a head for each domain, trained on it alone
            (:mod:`stages.training.experts`).
    """

    epochs: Count = 10
    batch_size: Count = 128
    minimum_class_size: Count = 2
    keep: Literal["best", "last"] = "best"
    holdout: Annotated[float, Within("[0, 0.5]", "a share of the classes")] = 0.2
    patience: Annotated[int, Within("[0, inf]", "a number of epochs")] = 0
    sampling: SamplingConfig = ByLossConfig()
    views: Literal["random", "first"] = "random"
    memory: Literal["auto", "ram", "map"] = "auto"
    ema: Annotated[float, Within("[0, 1)", "the share of the old average that is kept at a step")] = 0.0
    soup_epochs: Count = 1
    soup: Count = 1
    sam_rho: Annotated[float, Within("[0, inf)", "the length of a step")] = 0.0
    anchor: tuple[float, ...] = ()
    experts: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep == "last" and (self.patience or self.anchor):
            raise SettingsError("patience and anchor choose by a validation score: leave them out, or keep = 'best'")
        if self.anchor and not (min(self.anchor) == 0 and max(self.anchor) <= 1):
            raise SettingsError(f"anchor is shares in [0, 1] with 0, the start, among them, got {list(self.anchor)}")
        if isinstance(self.sampling, ClassesByImagesConfig) and self.batch_size % self.sampling.images:
            raise SettingsError(
                f"batch_size is classes x images: a multiple of sampling.images ({self.sampling.images}), "
                f"got {self.batch_size}"
            )


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """The optimizer and its schedule of the learning rate.

    With W steps of warm-up of T in all, a ``schedule`` gives step t, from 0, the learning rate::

        warmup_then_cosine     lr (t + 1) / W before step W; then a half cosine from lr to final_lr at the last step
        warmup_times_cosine    min(1, (t + 1) / W) times the half cosine from lr at t = 0 to final_lr at t = T

    Args:
        kind: ``adamw`` takes the weight decay apart from the gradient; ``sgd`` has ``momentum``.
        lr: the highest learning rate.
        final_lr: the learning rate that the schedule ends at.
        weight_decay: of every weight, prototypes included.
        warmup_epochs: over which the rate rises; may be a fraction.
        momentum: of sgd; no other kind has one.
        schedule: how warm-up and the half cosine are joined.
    """

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Within("(0, inf)")] = 2e-3
    final_lr: float = 1e-4
    weight_decay: Factor = 1e-4
    warmup_epochs: Factor = 1.0
    momentum: Annotated[float, Within("[0, 1)")] = 0.9
    schedule: Literal["warmup_then_cosine", "warmup_times_cosine"] = "warmup_then_cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final_lr <= self.lr:
            raise SettingsError(f"final_lr is what lr ({self.lr}) falls to, in [0, lr], got {self.final_lr}")

    def learning_rate(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The learning rate of ``step``, counted from 0: see ``schedule``.

        >>> config = OptimizerConfig(lr=1.0, final_lr=0.0, schedule="warmup_times_cosine")
        >>> [round(config.learning_rate(step, steps_per_epoch=2, epochs=2), 3) for step in range(4)]
        [0.5, 0.854, 0.5, 0.146]
        """
        warmup, steps = round(self.warmup_epochs * steps_per_epoch), steps_per_epoch * epochs
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if self.schedule == "warmup_times_cosine":
            return rise * self._cosine(step / steps)
        if step < warmup:
            return rise * self.lr
        left = steps - warmup - 1
        return self._cosine((step - warmup) / left if left > 0 else 1.0)

    def _cosine(self, share: float) -> float:
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * share)) / 2

    def build(self, weights: Iterable[nn.Parameter], loss: nn.Module) -> Optimizer:
        """The optimizer of ``weights`` and those of ``loss``; a sampled loss's prototypes are a table of rows."""
        from stages.training.weights.optimizer import Optimizer

        return Optimizer(self, weights, loss)
