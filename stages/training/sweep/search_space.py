"""The search of a sweep: the ``[sweep]`` table, the recipes that its keys and values span, and which are tried."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from cache.errors import ConfigError, MissingExtraError, SettingsError
from cache.settings import Choices, Settings, Within
from stages.training.recipe import KINDS, DottedSettings, HeadRecipe, nearest_key

_PROPOSED = 8  # at a time, so that small heads can be trained together


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high`` inclusive, on a logarithmic scale with ``log``; a grid takes ``steps`` values of it."""

    low: float
    high: float
    log: bool = False
    steps: int | None = None

    def number(self, value: float, *, whole: bool) -> float | int:
        """``value`` rounded to four digits and clipped to the range; an integer where the setting is one."""
        inside = min(max(float(f"{value:.4g}"), self.low), self.high)
        return round(inside) if whole else float(inside)

    def points(self, *, whole: bool) -> tuple[float | int, ...]:
        """``steps`` values at equal distances (equal ratios with ``log``), each once."""
        count = self.steps or 1
        shares = [0.5] if count == 1 else [step / (count - 1) for step in range(count)]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        places = [low + (high - low) * share for share in shares]
        return tuple(dict.fromkeys(self.number(math.exp(p) if self.log else p, whole=whole) for p in places))


Evaluate: TypeAlias = Callable[[Sequence[DottedSettings]], Sequence[float]]
Axis: TypeAlias = tuple[Any, ...] | Range
Seeds: TypeAlias = Annotated[tuple[int, ...], Choices("[0, inf]", "a list of different whole numbers, one or more")]


@dataclass(frozen=True)
class SweepConfig(Settings):
    """``[sweep]``: which settings of the heads are tried, and how each is scored.

    A trial is one configuration, trained once for each fold and seed on the classes outside the fold, and scored by a
    leave-one-out search of the classes inside: no configuration is chosen by classes that it learned, or by the test.

    Args:
        method: ``grid`` tries every combination, ``optuna`` searches (TPE) with the extra ``sweep``.
        trials: the budget of ``optuna`` for each head and each kind of loss, the same for all.
        folds: the number of parts that the training classes are split into.
        seeds: every configuration is trained with each.
        objective: the metric that is maximised.
        head: the name of one of ``[[heads]]``; by default each is swept.
        over: dotted keys of a head, each with a list of values or ``{ low, high, log, steps }``.
    """

    method: Literal["grid", "optuna"] = "grid"
    trials: Annotated[int, Within("[1, inf]", "how many configurations are tried")] = 50
    folds: Annotated[int, Within("[2, inf]", "how many parts the classes are cut into")] = 3
    seeds: Seeds = (0, 1, 2)
    objective: Literal["mmp@5", "map@r"] = "mmp@5"
    head: str | None = None
    over: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, axis in self.axes().items():
            if self.method == "grid" and isinstance(axis, Range) and axis.steps is None:
                raise SettingsError(
                    f'over.{key}: a grid takes a number of steps of a range: steps = 5, or method = "optuna"'
                )

    def axes(self) -> dict[str, Axis]:
        """``over`` by dotted key, for ``"loss.scale" = ...`` and for a table ``over.loss`` alike."""
        return dict(_axes(self.over, ""))

    def budget(self, size: float) -> float:
        """How many recipes are tried of a family of ``size``."""
        return min(size, self.trials) if self.method == "optuna" else size


def _axes(table: Mapping[str, Any], above: str) -> Iterator[tuple[str, Axis]]:
    for name, value in table.items():
        key = above + name
        if isinstance(value, Mapping) and {"low", "high"} & value.keys():
            yield key, _range(key, value)
        elif isinstance(value, Mapping):
            yield from _axes(value, f"{key}.")
        elif isinstance(value, (list, tuple)):
            if not value:
                raise SettingsError(f"over.{key}: the list is empty; name the values to try, or drop the key")
            yield key, tuple(v for at, v in enumerate(value) if v not in value[:at])
        else:
            raise SettingsError(f"over.{key}: a list of values or {{ low = ..., high = ... }}, got {value!r}")


def _range(key: str, table: Mapping[str, Any]) -> Range:
    if unknown := sorted(table.keys() - {"low", "high", "log", "steps"}):
        raise SettingsError(f"over.{key}.{unknown[0]}: unknown key; a range has low, high, log and steps")
    low, high, log, steps = (table.get(name) for name in ("low", "high", "log", "steps"))
    for name, end in (("low", low), ("high", high)):
        if isinstance(end, bool) or not isinstance(end, (int, float)) or not math.isfinite(end):
            raise SettingsError(f"over.{key}.{name} is a finite number, got {end!r}")
    if not low < high:  # type: ignore[operator]  # checked above
        raise SettingsError(f"over.{key}: low is below high, got {low} and {high}")
    if not isinstance(log or False, bool) or (log and low <= 0):  # type: ignore[operator]
        raise SettingsError(f"over.{key}: log is true or false, and true only above 0, got log = {log!r}, low = {low}")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise SettingsError(f"over.{key}.steps is a whole number from 1, got {steps!r}")
    return Range(low, high, bool(log), steps)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Family:
    """The recipes of one kind of head, one loss and one start; ``fixed`` are the settings that chose these kinds.

    ``head`` is the name of the head that they are of.
    """

    base: HeadRecipe
    fixed: DottedSettings
    axes: Mapping[str, Axis]
    head: str = ""

    def whole(self, key: str) -> bool:
        """Whether the setting at ``key`` is an integer."""
        value = self.base.value(key)
        return isinstance(value, int) and not isinstance(value, bool)

    def size(self) -> float:
        """The number of recipes; infinite where a range has no steps."""
        axes = self.axes.values()
        return math.prod((axis.steps or math.inf) if isinstance(axis, Range) else len(axis) for axis in axes)

    def grid(self) -> list[DottedSettings]:
        """The settings of every combination, the last key changing fastest."""
        values = [
            axis.points(whole=self.whole(key)) if isinstance(axis, Range) else axis for key, axis in self.axes.items()
        ]
        return [dict(self.fixed) | dict(zip(self.axes, chosen, strict=True)) for chosen in itertools.product(*values)]

    def recipe(self, settings: DottedSettings) -> HeadRecipe:
        """The recipe of ``settings``. Raises ConfigError for a value that its key cannot have."""
        return _checked(self.base, {key: value for key, value in settings.items() if key not in self.fixed})


def families(base: HeadRecipe, axes: Mapping[str, Axis], head: str = "") -> list[Family]:
    """A family for each combination of the kinds (of head, loss and start) in ``axes``, with the keys that it has.

    A key belongs to the families that know it: ``loss.margin_rad`` to those of losses with an angle. Raises ConfigError
    for a key that none knows, and for a value that its key cannot take.
    """
    kinds = {key: axis for key, axis in axes.items() if key in KINDS}
    for key, axis in kinds.items():
        if isinstance(axis, Range):
            raise ConfigError(f"sweep.over.{key}: the kinds to try are a list, not a range")
    others = {key: axis for key, axis in axes.items() if key not in kinds}
    spanned = []
    for values in itertools.product(*(_values(axis) for axis in kinds.values())):
        fixed = dict(zip(kinds, values, strict=True))
        with_kinds = _checked(base, fixed)
        known = with_kinds.dotted_keys()
        spanned.append(Family(with_kinds, fixed, {key: axis for key, axis in others.items() if key in known}, head))
    known = tuple(dict.fromkeys(key for family in spanned for key in family.base.dotted_keys()))
    for key in others:
        if key not in known:
            losses = dict.fromkeys(each.base.loss.kind if each.base.loss else "a head without loss" for each in spanned)
            what = f"{', '.join(losses)} has no such key" if key.startswith("loss.") else "unknown key"
            raise ConfigError(f"sweep.over.{key}: {what}{nearest_key(key, known)}")
    for family in spanned:
        for key, axis in family.axes.items():
            for value in _values(axis):
                _checked(family.base, {key: round(value) if family.whole(key) and isinstance(axis, Range) else value})
    return spanned


def _values(axis: Axis) -> Sequence[Any]:
    return (axis.low, axis.high) if isinstance(axis, Range) else axis


def _checked(base: HeadRecipe, settings: DottedSettings) -> HeadRecipe:
    try:
        return base.with_settings(settings)
    except ConfigError as error:
        raise ConfigError(f"sweep.over: {error}") from error


def search(
    family: Family, method: Literal["grid", "optuna"], trials: int, seed: int, evaluate: Evaluate
) -> list[DottedSettings]:
    """Score the settings that ``method`` chooses with ``evaluate`` (higher is better), and return them in their order.

    Either method tries a family of at most ``trials`` recipes completely. The same seed and scores give the same
    proposals: an interrupted search continues where ``evaluate`` returns the stored scores.

    Raises MissingExtraError where ``optuna`` is needed and not installed.
    """
    if method == "grid" or family.size() <= trials:
        settings = family.grid()
        evaluate(settings)
        return settings
    check_method(method)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # constant_liar: several proposals at a time keep a distance from each other before they have a score
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried: list[DottedSettings] = []
    while len(tried) < trials:
        proposed = [study.ask() for _ in range(min(_PROPOSED, trials - len(tried)))]
        settings = [proposal(family, trial) for trial in proposed]
        for trial, score in zip(proposed, evaluate(settings), strict=True):
            study.tell(trial, score)
        tried += settings
    return tried


def proposal(family: Family, trial: Any) -> DottedSettings:
    """The settings of ``family`` that an Optuna ``trial`` suggests."""
    settings = dict(family.fixed)
    for key, axis in family.axes.items():
        if isinstance(axis, Range):
            value = trial.suggest_float(key, axis.low, axis.high, log=axis.log)
            settings[key] = axis.number(value, whole=family.whole(key))
        else:  # by index: a choice may be a list or a table
            settings[key] = axis[trial.suggest_categorical(key, list(range(len(axis))))]
    return settings


def check_method(method: Literal["grid", "optuna"]) -> None:
    """Raise MissingExtraError where ``method`` needs a library that is not installed: before any work."""
    if method == "optuna":
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("Optuna", "sweep") from error
