"""A recipe: everything that determines a trained head except the data and the seed, and its settings by dotted key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from cache.errors import ConfigError, SettingsError
from cache.settings import Settings, Within, changed_settings
from stages.training.closed_form.kinds import ClosedFormConfig, LinearMapConfig
from stages.training.heads.kinds import BatchNormHeadConfig, InputsConfig, LinearHeadConfig, MlpHeadConfig
from stages.training.losses.kinds import MarginLosses
from stages.training.multilabel.kinds import MultilabelHeadConfig, PosteriorHeadConfig
from stages.training.pairs.kinds import PairLossConfig, PairLosses
from stages.training.rows.sampling import ByLossConfig, ClassesByImagesConfig, SamplingConfig, ShuffledConfig
from stages.training.text.kinds import TextHeadConfig

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


KINDS = ("kind", "loss.kind", "start.kind")
"""The keys whose values decide which other keys exist."""

_PARTS = ("loss", "start", "optimizer", "training")  # every other key is one of the head itself, as in a run file

DottedSettings: TypeAlias = Mapping[str, Any]
TrainedHeadConfig: TypeAlias = LinearHeadConfig | BatchNormHeadConfig | MlpHeadConfig
HeadConfig: TypeAlias = Annotated[
    TrainedHeadConfig | ClosedFormConfig | MultilabelHeadConfig | PosteriorHeadConfig | TextHeadConfig,
    Field(discriminator="kind"),
]
LossConfig: TypeAlias = Annotated[MarginLosses | PairLosses, Field(discriminator="kind")]
Start: TypeAlias = Annotated[ClosedFormConfig, Field(discriminator="kind")]


@dataclass(frozen=True)
class HeadRecipe(Settings):
    """A head, the loss that trains it, and how.

    Its settings have the dotted keys of ``[[heads]]`` in a run file: ``dim``, ``inputs.root``, ``loss.scale``,
    ``optimizer.lr``, ``training.epochs``.

    Args:
        head: the head; a closed form is fitted, every other kind is trained.
        loss: trains the head. Its prototypes are dropped afterwards.
        start: a closed form whose map a linear head starts at; a closed form with a loss is its own start.
        optimizer: the optimizer and its schedule.
        training: how long, on which rows, and which weights are kept.

    Raises ValueError for settings that do not go together.

    >>> from stages.training import ArcFaceConfig, LinearHeadConfig
    >>> recipe = HeadRecipe(LinearHeadConfig(dim=64), ArcFaceConfig(margin_rad=0.5))
    >>> recipe.with_settings({"loss.scale": 16.0, "training.epochs": 3}).value("loss.scale")
    16.0
    """

    head: HeadConfig
    loss: LossConfig | None = None
    start: Start | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()

    def __post_init__(self) -> None:
        for conflict in self._conflicts():
            raise SettingsError(conflict)

    @property
    def closed_form(self) -> ClosedFormConfig | None:
        """The closed form that is the head, or that training starts at; None where training starts at random."""
        return self.head if isinstance(self.head, LinearMapConfig) else self.start

    @property
    def is_trained(self) -> bool:
        """Whether gradient steps are made. A closed form alone is fitted, and is the same for every seed."""
        return self.loss is not None or isinstance(self.head, MultilabelHeadConfig)

    @property
    def method(self) -> str:
        """The kind of the loss, or of the closed form where there is no loss."""
        return self.loss.kind if self.loss is not None else self.head.kind

    @property
    def sampling(self) -> SamplingConfig:
        """That of ``training``, or what suits the loss where it says ``by_loss``."""
        if not isinstance(self.training.sampling, ByLossConfig):
            return self.training.sampling
        of_pairs = isinstance(self.loss, PairLossConfig) and self.loss.of_pairs
        return ClassesByImagesConfig() if of_pairs else ShuffledConfig()

    def dotted_keys(self) -> tuple[str, ...]:
        """Every dotted key of a recipe with this kind of head and this loss."""
        parts = {part: getattr(self, part) for part in _PARTS}
        inside = (f"{part}.{key}" for part, value in parts.items() if value is not None for key in _keys_of(value))
        return (*_keys_of(self.head), *parts, *inside)

    def value(self, key: str) -> Any:
        """The value of a dotted key. Raises KeyError for an unknown key."""
        if key not in self.dotted_keys():
            raise KeyError(key)
        return reduce(getattr, _path(key), self)

    def with_settings(self, settings: DottedSettings) -> HeadRecipe:
        """This recipe with other ``settings``, by dotted key; a table replaces a whole part, ``inputs`` or ``start``.

        A new ``kind`` takes over what was set for the old one (what differs from its defaults) where it has that key,
        and its own defaults elsewhere. Settings that belong together change together unless both are given:
        ``optimizer.final_lr`` keeps its ratio to ``optimizer.lr``, and ``start.dim`` equals ``dim``.

        Raises ConfigError for an unknown key, with the nearest, and for a value that the key cannot have.
        """
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        kinds = {key: settings[key] for key in KINDS if key in settings}
        unions = {"kind": ("head", HeadConfig), "loss.kind": ("loss", LossConfig), "start.kind": ("start", Start)}
        for key, kind in kinds.items():
            part, union = unions[key]
            parts[part] = _recast(union, parts[part], kind, key)
        recipe: HeadRecipe = _validated(HeadRecipe, parts, kinds)
        known = recipe.dotted_keys()
        for key in settings:
            if key not in known:
                raise ConfigError(f"{key}: unknown key{nearest_key(key, known)}")
        described = asdict(recipe)
        settings = {**settings, **recipe._dependent(settings)}
        for key, value in settings.items():
            *path, last = _path(key)
            reduce(getitem, path, described)[last] = value
        changed: HeadRecipe = _validated(HeadRecipe, described, settings)
        return changed

    def _dependent(self, settings: DottedSettings) -> DottedSettings:
        """The settings that change with ``settings`` and are not among them."""
        dependent: dict[str, Any] = {}
        lr, dim = settings.get("optimizer.lr"), settings.get("dim", self.head.dim)
        if isinstance(lr, (int, float)) and "optimizer.final_lr" not in settings:
            dependent["optimizer.final_lr"] = float(f"{lr * self.optimizer.final_lr / self.optimizer.lr:.4g}")
        if isinstance(start := settings.get("start"), Mapping):
            dependent["start"] = {"dim": dim} | dict(start)
        elif self.start is not None and "start.dim" not in settings:
            dependent["start.dim"] = dim
        return dependent

    def _conflicts(self) -> Iterator[str]:
        """What does not go together."""
        head, loss, start = self.head, self.loss, self.start
        if isinstance(head, (MultilabelHeadConfig, PosteriorHeadConfig, TextHeadConfig)):
            if start is not None or self.training.anchor:
                yield f"a closed form is a linear map: start and anchor are for linear heads, not for {head.kind}"
            if loss is not None and not isinstance(head, MultilabelHeadConfig):
                yield f"a {head.kind} head is a closed form and learns attributes: leave loss out"
            if isinstance(loss, PairLossConfig):
                yield (
                    "a multilabel head combines attributes with a margin loss, not with one on pairs: "
                    f"leave loss.kind = {loss.kind!r} out"
                )
            if self.training.experts:
                yield f"experts are for heads that learn labels alone, not for {head.kind}: leave experts out"
            if getattr(loss, "sampled", None) is not None:
                yield "a loss beside attributes compares with all classes: leave loss.sampled out"
            return
        if start is not None:
            if isinstance(head, LinearMapConfig):
                yield f"{head.kind} is a closed form and its own start: leave start out, or take kind = linear"
            if not isinstance(head, LinearHeadConfig) and not (isinstance(head, MlpHeadConfig) and head.residual):
                yield f"a closed form is a linear map: start is for linear and residual mlp, not for {head.kind}"
            if start.dim != head.dim:
                yield f"start.dim is {start.dim} and dim is {head.dim}: a start has the size of what it starts"
            if head.inputs != InputsConfig():
                yield "the steps before the map are those of the start: set start.inputs, and leave inputs out"
        if loss is None and self.closed_form is None:
            yield f"a {head.kind} head is trained: it needs a loss, or a start that is a closed form"
        if self.training.anchor and (loss is None or self.closed_form is None):
            yield "anchor interpolates between a start and the trained weights: it needs a loss and a start"


def as_recipe(head: HeadRecipe | HeadConfig, loss: LossConfig | None = None) -> HeadRecipe:
    """``head`` itself where it is a recipe, or the recipe of ``head`` and ``loss`` with all other settings at defaults.

    Raises TypeError for a recipe and a loss beside it.
    """
    if not isinstance(head, HeadRecipe):
        return HeadRecipe(head, loss)
    if loss is not None:
        raise TypeError("a HeadRecipe has its loss already: give the loss in the recipe, HeadRecipe(head, loss)")
    return head


def nearest_key(key: str, known: tuple[str, ...]) -> str:
    """The end of a message about an unknown ``key``: the nearest of the ``known`` ones, or nothing."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _keys_of(config: Any) -> tuple[str, ...]:
    keys: list[str] = []
    for field in fields(config):
        keys.append(field.name)
        if is_dataclass(value := getattr(config, field.name)):
            keys += [f"{field.name}.{key}" for key in _keys_of(value)]
    return tuple(keys)


def _path(key: str) -> tuple[str, ...]:
    names = tuple(key.split("."))
    return names if names[0] in _PARTS else ("head", *names)


def _recast(union: Any, config: Any, kind: object, key: str) -> Any:
    """The configuration of ``kind``, one of ``union``, with what ``config`` has set where both have it."""
    if config is not None and config.kind == kind:
        return config
    new = _validated(union, {"kind": kind}, {key: kind})
    if config is None:
        return new
    known = {field.name for field in fields(new)} - {"kind"}
    changed = {name: value for name, value in changed_settings(config).items() if name in known}
    return _validated(union, asdict(new) | changed, {key: kind})


def _validated(kind: Any, described: Mapping[str, Any], settings: DottedSettings) -> Any:
    try:
        return TypeAdapter(kind).validate_python(described)
    except ValidationError as error:
        listed = ", ".join(f"{key} = {value!r}" for key, value in settings.items())
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "union_tag_invalid":
            message = f"kind must be one of {first['ctx']['expected_tags']}, got {first['ctx']['tag']!r}"
        raise ConfigError(f"{listed}: {message}") from error
