"""A sweep: many configurations of the run's heads, judged on held-out training classes and ranked.

::

    [[heads]] x [sweep] --> families of recipes --search--> trials (folds x seeds), each run once --> places

    <artifacts>/sweeps/<run>-<fingerprint of the data, the folds and the seeds>/
        trials/<fingerprint>.npz
        leaderboard.csv, leaderboard.html
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from cache import fingerprint
from cache.errors import ConfigError
from cache.fingerprint import JSON
from cache.storage import absolute, is_url
from pipeline.config import HeadRun, RunConfig, parse_config, read_config
from pipeline.dataset import Run, run_of
from pipeline.features import FeatureSet, feature_sets
from pipeline.progress import Display, duration_text
from pipeline.run_file_paths import beside, map_paths, run_file_text
from pipeline.score_rows import RAW
from pipeline.toml import write_toml
from pipeline.trials import Arrays, run_once
from stages.analysis import Difference, paired_difference, t_interval
from stages.ranking import leave_one_out
from stages.ray_cluster import RayCluster
from stages.ray_spread import places, spread
from stages.retrieval.query_values import QueryScores
from stages.retrieval.scores import VERSION
from stages.training.recipe import DottedSettings, HeadRecipe, nearest_key
from stages.training.rows.labelled_rows import in_training_order, rows_digest
from stages.training.sweep.search_space import Family, SweepConfig, families
from stages.training.sweep.search_strategy import search
from stages.training.sweep.trials import CrossValidation, Trial, cross_validation, run_group, run_trials, trial_groups


class HeadFamily(NamedTuple):
    """One of ``[[heads]]`` and one of the families of recipes that it spans."""

    head: str
    family: Family


@dataclass(frozen=True)
class Entry:
    """A configuration with its trial.

    ``method`` is its loss or closed form; ``keys`` and ``classes`` (Q,) are those of its queries. ``fingerprint`` is
    that of the trial; None for the raw feature.
    """

    backbone: str
    head: str
    method: str
    settings: Mapping[str, Any]
    trial: Trial
    keys: tuple[str, ...]
    classes: tuple[str | None, ...]
    fingerprint: str | None = None

    @property
    def raw(self) -> bool:
        """True for the feature itself, which nothing was trained on."""
        return self.fingerprint is None


@dataclass(frozen=True)
class Place:
    """An entry with its mean score over folds and seeds, between the ends of its 95 % t interval.

    The ends are NaN for a single training. ``behind`` is the best entry less this one, query by query; None for the
    best itself.
    """

    entry: Entry
    value: float
    low: float
    high: float
    behind: Difference | None


def planned(config: RunConfig, sweep: SweepConfig) -> list[HeadFamily]:
    """What is swept, checked before any work. Raises ConfigError naming the key that is wrong."""
    if not config.heads:
        raise ConfigError("sweep: there is nothing to sweep over: the run has no [[heads]]")
    names = tuple(head.name for head in config.heads)
    if sweep.head is not None and sweep.head not in names:
        near = nearest_key(sweep.head, names)
        raise ConfigError(f"sweep.head: none of [[heads]] is called {sweep.head!r}{near}; there are {', '.join(names)}")
    axes, swept = sweep.axes(), [head for head in config.heads if sweep.head in (None, head.name)]
    plan = [HeadFamily(head.name, family) for head in swept for family in families(head.recipe, axes)]
    if sweep.method == "grid":
        for part in plan:
            for settings in part.family.grid():
                _recipe(part.family, settings)
    return plan


def remarks(sweep: SweepConfig, plan: Sequence[HeadFamily]) -> list[str]:
    """What to know before comparing losses by this sweep."""
    budgets = {f"{part.family.base.method} of {part.head}": _budget(sweep, part.family) for part in plan}
    if len(set(budgets.values())) > 1:
        listed = ", ".join(f"{name} {budget:g}" for name, budget in budgets.items())
        return [f"not every loss is tried as often ({listed}): give each as many values for a fair comparison"]
    return []


def sweep_folder(run: Run, sweep: SweepConfig, sets: Sequence[FeatureSet]) -> str:
    """Where, below the artifacts, all trials are that can be compared: of the same data, folds, seeds and metric."""
    rows = rows_digest(in_training_order(run.records.split("train")))
    identity: dict[str, JSON] = {"features": [part.features.fingerprint for part in sets], "rows": rows}
    identity |= {"folds": sweep.folds, "seeds": list(sweep.seeds), "seed": run.config.seed}
    return f"sweeps/{run.name}-{fingerprint(identity | {'objective': sweep.objective, 'version': VERSION})[:8]}"


def swept_sets(run: Run, plan: Sequence[HeadFamily]) -> list[FeatureSet]:
    """The features that the heads of ``plan`` learn from."""
    swept = {part.head for part in plan}
    return feature_sets(run, [head for head in run.config.heads if head.name in swept])


def run_sweep(
    run: Run,
    sweep: SweepConfig,
    plan: Sequence[HeadFamily],
    sets: Sequence[FeatureSet],
    folder: str,
    cluster: RayCluster | None = None,
) -> list[Place]:
    """The raw features and every configuration, best first; trials that have a file in ``folder`` are not run."""
    entries: list[Entry] = []
    for part in sets:
        validation = _validation(run, sweep, part)
        if part.raw:
            entries.append(Entry(part.name, RAW, RAW, {}, validation.raw(), *_of_queries(validation)))
        names = {head.name for head in part.heads}
        own = [one for one in plan if one.head in names]
        entries += _search(run, sweep, own, part.name, validation, folder, cluster)
    return ranked(entries, sweep.objective)


def ranked(entries: Sequence[Entry], metric: str) -> list[Place]:
    """``entries`` best first, the first of equals before the others, a raw feature after a head that equals it."""

    def by_query(entry: Entry) -> QueryScores:
        return QueryScores(entry.keys, entry.classes, {metric: entry.trial.values.astype(np.float64)})

    best, *others = sorted(entries, key=lambda entry: (-entry.trial.scores.mean(), entry.raw))
    behind = [None, *(paired_difference(by_query(best), by_query(other))[0] for other in others)]
    pairs = zip([best, *others], behind, strict=True)
    return [Place(entry, *t_interval(entry.trial.scores.ravel()), less) for entry, less in pairs]


def winner_run_file(winner: Place, plan: Sequence[HeadFamily], run_file: str, sweep: SweepConfig, folder: Path) -> str:
    """The text of ``run_file`` without ``[sweep]`` and with one head, the ``winner``, for a run file in ``folder``."""
    entry = winner.entry
    recipe = next(
        part.family.recipe(entry.settings)
        for part in plan
        if part.head == entry.head and part.family.fixed.items() <= dict(entry.settings).items()
    )
    raw: dict[str, Any] = tomllib.loads(run_file_text(run_file))
    raw.pop("sweep")
    raw = map_paths(raw, lambda _, path: _moved(path, run_file, folder))
    settings_of = {part: getattr(recipe, part) for part in ("loss", "start", "optimizer", "training")}
    parts = {part: settings if settings is None else asdict(settings) for part, settings in settings_of.items()}
    of_run = {field.name for field in fields(HeadRun)} - {"recipe"}
    written = next(head for head in raw["heads"] if head["name"] == entry.head)
    raw["heads"] = [{key: value for key, value in written.items() if key in of_run} | asdict(recipe.head) | parts]
    settings = ", ".join(f"{key} = {json.dumps(value)}" for key, value in entry.settings.items()) or "as it was"
    name = PurePath(run_file).name
    score = f"{sweep.objective} {winner.value:.4f} ({winner.low:.4f} to {winner.high:.4f})"
    written_by = f"Written by `permafrost sweep {name}`: the best configuration of {entry.head} on {entry.backbone}."
    judged = f"{score} on held-out training classes, {sweep.folds} folds x {len(sweep.seeds)} seeds."
    text = f"# {written_by}\n# {settings}\n# {judged}\n\n{write_toml(raw)}"
    parse_config(text, "the winner's run file", folder)  # what is written can be read
    return text


def _moved(path: str, run_file: str, new: Path) -> str:
    """The relative ``path`` of ``run_file`` as one in the folder ``new`` has it."""
    old = Path(run_file).parent
    if path.startswith("${") or Path(path).is_absolute() or "://" in path:
        return path
    if is_url(run_file):
        return beside(run_file.rpartition("/")[0], path)
    return path if old.resolve() == new.resolve() else os.path.relpath(old.resolve() / path, new.resolve())


def _search(
    run: Run,
    sweep: SweepConfig,
    plan: Sequence[HeadFamily],
    backbone: str,
    validation: CrossValidation,
    folder: str,
    cluster: RayCluster | None,
) -> list[Entry]:
    """The entries of the heads that learn from one set of features."""
    entries: dict[str, Entry] = {}
    seconds: list[float] = []  # of each trial that was run now
    total = int(sum(_budget(sweep, part.family) for part in plan))
    with run.display.bar(f"sweeping on {backbone}", "trials") as update:

        def score(part: HeadFamily, wanted: Sequence[DottedSettings]) -> list[float]:
            """The mean score of each of the ``wanted`` settings; a trial that is new becomes one of ``entries``."""
            recipes = [_recipe(part.family, settings) for settings in wanted]
            names = [validation.fingerprint_of(recipe) for recipe in recipes]
            new = {name: names.index(name) for name in names if name not in entries}

            def run_new(unfinished: Mapping[str, int]) -> Iterator[tuple[str, Arrays]]:
                order = list(unfinished)
                wanted_now = [recipes[place] for place in unfinished.values()]
                for at, trial in _run(run, backbone, validation, wanted_now, cluster):
                    if not seconds:
                        took, left = duration_text(trial.seconds), total - len(entries)
                        all_of_them = f"{left:,} trials take about {duration_text(left * trial.seconds)} at that rate"
                        run.display.say(f"sweeping on {backbone}: the first trial took {took}; {all_of_them}")
                    seconds.append(trial.seconds)
                    yield order[at], {key: np.asarray(value) for key, value in vars(trial).items()}

            for name, arrays in run_once(new, run.storage.below(f"{folder}/trials"), run_new):
                trial = Trial(arrays["scores"], arrays["values"], float(arrays["seconds"]), int(arrays["diverged"]))
                settings, method = wanted[new[name]], recipes[new[name]].method
                entries[name] = Entry(backbone, part.head, method, settings, trial, *_of_queries(validation), name)
                best = max(entry.trial.scores.mean() for entry in entries.values())
                update(len(entries), total, f"best {sweep.objective} {best:.4f}")
            return [float(entries[name].trial.scores.mean()) for name in names]

        for part in plan:
            search(part.family, sweep.method, sweep.trials, run.config.seed, partial(score, part))
    return list(entries.values())


def _validation(run: Run, sweep: SweepConfig, part: FeatureSet) -> CrossValidation:
    train, judge = run.records.split("train"), partial(leave_one_out, metric=sweep.objective)
    return cross_validation(part.features, train, judge, folds=sweep.folds, seeds=sweep.seeds, seed=run.config.seed)


def _run(
    run: Run, backbone: str, validation: CrossValidation, recipes: Sequence[HeadRecipe], cluster: RayCluster | None
) -> Iterator[tuple[int, Trial]]:
    """The trial of each of ``recipes`` with its index, as they finish."""
    if cluster is None:
        yield from run_trials(validation, recipes)
        return
    with cluster.joined():
        share = -(-len(recipes) // places(cluster, len(recipes)))
        groups = dict(enumerate(trial_groups(validation, recipes, share)))
        work = partial(_on_worker, absolute(str(run.file)), backbone)
        things = {number: [recipes[place] for place in group] for number, group in groups.items()}
        for number, trials in spread(cluster, work, things):
            yield from zip(groups[number], trials, strict=True)


def _on_worker(run_file: str, backbone: str, recipes: Sequence[HeadRecipe]) -> list[Trial]:
    return run_group(_opened(run_file, backbone), recipes)


@lru_cache(maxsize=1)
def _opened(run_file: str, backbone: str) -> CrossValidation:
    """The features of one backbone of ``run_file`` in folds, read once a process."""
    config = read_config(run_file)
    assert config.sweep is not None
    run = run_of(config, Display(quiet=True, warnings=False), run_file)
    part = next(part for part in swept_sets(run, planned(config, config.sweep)) if part.name == backbone)
    return _validation(run, config.sweep, part)


def _recipe(family: Family, settings: DottedSettings) -> HeadRecipe:
    try:
        return family.recipe(settings)
    except ConfigError as error:
        raise ConfigError(f"sweep.over: {error}") from error


def _budget(sweep: SweepConfig, family: Family) -> float:
    return min(family.size(), sweep.trials) if sweep.method == "optuna" else family.size()


def _of_queries(validation: CrossValidation) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    return validation.query_keys, tuple(validation.records.take(validation.queries).classes)
