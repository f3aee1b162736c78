"""The search strategy: every recipe of a family, or those that Optuna proposes from the scores so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from cache.errors import MissingExtraError
from stages.training.recipe import DottedSettings
from stages.training.sweep.search_space import Family, Range

Evaluate = Callable[[Sequence[DottedSettings]], Sequence[float]]

_PROPOSED = 8  # at a time, so that small heads can be trained together


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
    study = _study(seed)
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
        _optuna()


def _study(seed: int) -> Any:
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # constant_liar: several proposals at a time keep a distance from each other before they have a score
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("Optuna", "sweep") from error
    return optuna
