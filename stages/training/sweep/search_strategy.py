"""Which recipes of a family are tried: all of them, or those that a search proposes from what the last ones scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from cache.errors import MissingExtraError
from stages.training.recipe import Settings
from stages.training.sweep.search_space import Choices, Family

Evaluate = Callable[[Sequence[Settings]], Sequence[float]]

_ASKED = 8  # proposed at a time, so that small heads can be trained in one stack


def search(
    family: Family, method: Literal["grid", "optuna"], trials: int, seed: int, evaluate: Evaluate
) -> list[Settings]:
    """Have ``evaluate`` score (higher is better) the settings that ``method`` chooses; all of them, in their order.

    A family of no more than ``trials`` recipes is tried whole by either method. The same seed and scores propose the
    same settings: a search that was cut off goes on where ``evaluate`` knows the scores already.

    Raises MissingExtraError where ``optuna`` is needed and not installed.
    """
    if method == "grid" or family.size() <= trials:
        settings = family.grid()
        evaluate(settings)
        return settings
    study = _study(seed)
    tried: list[Settings] = []
    while len(tried) < trials:
        asked = [study.ask() for _ in range(min(_ASKED, trials - len(tried)))]
        settings = [proposal(family, trial) for trial in asked]
        for trial, score in zip(asked, evaluate(settings), strict=True):
            study.tell(trial, score)
        tried += settings
    return tried


def proposal(family: Family, trial: Any) -> Settings:
    """The settings of ``family`` that an Optuna ``trial`` suggests."""
    found = dict(family.fixed)
    for key, axis in family.axes.items():
        if isinstance(axis, Choices):  # by place: a choice may be a list or a table
            found[key] = axis.values[trial.suggest_categorical(key, list(range(len(axis.values))))]
        else:
            value = trial.suggest_float(key, axis.low, axis.high, log=axis.log)
            found[key] = axis.number(value, whole=family.whole(key))
    return found


def check_method(method: Literal["grid", "optuna"]) -> None:
    """Raise MissingExtraError where ``method`` needs what is not installed: before any work, not in the middle."""
    if method == "optuna":
        _optuna()


def _study(seed: int) -> Any:
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # constant_liar: of several proposals at a time, each keeps away from those that have no score yet
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("Optuna", "sweep") from error
    return optuna
