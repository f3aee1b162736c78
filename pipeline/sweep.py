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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from cache import fingerprint
from cache.errors import ConfigError
from cache.storage import absolute, is_url
from pipeline.config import RAW, HeadRun, parse_config, read_config
from pipeline.dataset import FeatureSet, Run, feature_sets, run_of
from pipeline.progress import Display, duration_text
from pipeline.run_files import beside, map_paths, run_file_text, write_toml
from pipeline.trials import Arrays, run_once
from stages.analysis import Difference, paired_difference, t_interval
from stages.ranking import leave_one_out
from stages.ray_cluster import RayCluster
from stages.retrieval.scores import VERSION, QueryScores
from stages.training.recipe import DottedSettings, HeadRecipe, nearest_key
from stages.training.rows.labelled_rows import in_training_order, rows_digest
from stages.training.sweep.search_space import Family, SweepConfig, check_method, families, search
from stages.training.sweep.trials import CrossValidation, Trial, cross_validation, trial_groups


class Place(NamedTuple):
    """A configuration of a head, or the raw feature, with its trial.

    ``value`` is the mean over folds and seeds, between the ends of its 95 % t interval, which are NaN for a single
    training. ``queries`` has the value of each query. ``method`` is the loss or closed form, ``fingerprint`` that of
    the trial; None for the raw feature. ``behind`` is the best less this one, query by query; None for the best itself.
    """

    backbone: str
    head: str
    method: str
    settings: Mapping[str, Any]
    trial: Trial
    queries: QueryScores
    fingerprint: str | None
    value: float
    low: float
    high: float
    behind: Difference | None = None

    @property
    def raw(self) -> bool:
        """True for the feature itself, which nothing was trained on."""
        return self.fingerprint is None


@dataclass(frozen=True)
class Sweep:
    """What is swept: ``families`` of the recipes of a run's heads, on the features ``sets`` that these learn from."""

    run: Run
    config: SweepConfig
    families: Sequence[Family]
    sets: Sequence[FeatureSet]

    @property
    def folder(self) -> str:
        """Where, below the artifacts, trials are that can be compared: of the same data, folds, seeds and metric."""
        sweep = self.config
        identity = fingerprint(
            {
                "features": [part.features.fingerprint for part in self.sets],
                "rows": rows_digest(in_training_order(self.run.records.split("train"))),
                "folds": sweep.folds,
                "seeds": list(sweep.seeds),
                "seed": self.run.config.seed,
                "objective": sweep.objective,
                "version": VERSION,
            }
        )
        return f"sweeps/{self.run.name}-{identity[:8]}"

    def places(self, cluster: RayCluster | None = None) -> list[Place]:
        """The raw features and every configuration, best first; trials that have a file are not run.

        Of equals the first comes first, a raw feature after a head that equals it.
        """
        tried = [place for part in self.sets for place in self._search(part, cluster)]
        best, *others = sorted(tried, key=lambda place: (-place.value, place.raw))
        behind = (paired_difference(best.queries, place.queries)[0] for place in others)
        return [best, *(place._replace(behind=less) for place, less in zip(others, behind, strict=True))]

    def validation(self, part: FeatureSet) -> CrossValidation:
        """The training records in folds, with the features of ``part``."""
        train, judge = self.run.records.split("train"), partial(leave_one_out, metric=self.config.objective)
        how: dict[str, Any] = {"folds": self.config.folds, "seeds": self.config.seeds, "seed": self.run.config.seed}
        return cross_validation(part.features, train, judge, **how)

    def _search(self, part: FeatureSet, cluster: RayCluster | None) -> list[Place]:
        """The places of one set of features: the raw feature, and configurations of the heads that learn from it."""
        run, sweep, validation, backbone = self.run, self.config, self.validation(part), part.name
        keys, classes = validation.query_keys, tuple(validation.records.take(validation.queries).classes)
        work = partial(_trials, validation), partial(_on_worker, absolute(str(run.file)), backbone)
        storage, groups = run.storage.below(f"{self.folder}/trials"), partial(trial_groups, validation)

        def place(head: str, method: str, settings: DottedSettings, trial: Trial, name: str | None) -> Place:
            queries = QueryScores(keys, classes, {sweep.objective: trial.values.astype(np.float64)})
            return Place(backbone, head, method, settings, trial, queries, name, *t_interval(trial.scores.ravel()))

        raw = [place(RAW, RAW, {}, validation.raw(), None)] if part.raw else []
        own = [family for family in self.families if family.head in {head.name for head in part.heads}]
        tried: dict[str, Place] = {}
        timed = False
        total = int(sum(sweep.budget(family.size()) for family in own))
        with run.display.bar(f"sweeping on {backbone}", "trials") as update:

            def score(family: Family, wanted: Sequence[DottedSettings]) -> list[float]:
                """The mean score of each of the ``wanted`` settings; a new trial becomes one of those ``tried``."""
                nonlocal timed
                recipes = [family.recipe(settings) for settings in wanted]
                names = [validation.fingerprint_of(recipe) for recipe in recipes]
                new = {name: names.index(name) for name in names if name not in tried}
                trials = {name: recipes[at] for name, at in new.items()}
                for name, arrays, is_new in run_once(trials, storage, *work, groups, cluster=cluster):
                    trial = Trial(arrays["scores"], arrays["values"], float(arrays["seconds"]), int(arrays["diverged"]))
                    if is_new and not timed:
                        took, left = duration_text(trial.seconds), total - len(tried)
                        all_of_them = f"{left:,} trials take about {duration_text(left * trial.seconds)} at that rate"
                        run.display.say(f"sweeping on {backbone}: the first trial took {took}; {all_of_them}")
                        timed = True
                    tried[name] = place(family.head, trials[name].method, wanted[new[name]], trial, name)
                    best = max(one.value for one in tried.values())
                    update(len(tried), total, f"best {sweep.objective} {best:.4f}")
                return [tried[name].value for name in names]

            for family in own:
                search(family, sweep.method, sweep.trials, run.config.seed, partial(score, family))
        return [*raw, *tried.values()]

    def winner_run_file(self, winner: Place, folder: Path) -> str:
        """The text of the run file without ``[sweep]`` and with one head, the ``winner``, for one in ``folder``."""
        run_file, sweep = str(self.run.file), self.config
        recipe = next(
            family.recipe(winner.settings)
            for family in self.families
            if family.head == winner.head and family.fixed.items() <= dict(winner.settings).items()
        )
        raw: dict[str, Any] = tomllib.loads(run_file_text(run_file))
        raw.pop("sweep")
        raw = map_paths(raw, lambda _, path: _moved(path, run_file, folder))
        parts = asdict(recipe)
        of_run = {field.name for field in fields(HeadRun)} - {"recipe"}
        written = next(head for head in raw["heads"] if head["name"] == winner.head)
        raw["heads"] = [{key: value for key, value in written.items() if key in of_run} | parts.pop("head") | parts]
        settings = ", ".join(f"{key} = {json.dumps(value)}" for key, value in winner.settings.items()) or "as it was"
        name = PurePath(run_file).name
        score = f"{sweep.objective} {winner.value:.4f} ({winner.low:.4f} to {winner.high:.4f})"
        heading = (
            f"Written by `permafrost sweep {name}`: the best configuration of {winner.head} on {winner.backbone}.",
            settings,
            f"{score} on held-out training classes, {sweep.folds} folds x {len(sweep.seeds)} seeds.",
        )
        text = "".join(f"# {line}\n" for line in heading) + "\n" + write_toml(raw)
        parse_config(text, "the winner's run file", folder)  # what is written can be read
        return text


def open_sweep(run_file: str, display: Display) -> Sweep:
    """The sweep of ``run_file``, checked before any image is read. Raises ConfigError naming the key that is wrong."""
    config = read_config(run_file)
    if (sweep := config.sweep) is None:
        raise ConfigError(
            f'{run_file} has no [sweep]. Add one, such as:\n[sweep]\n[sweep.over]\n"loss.scale" = [8.0, 16.0, 32.0]'
        )
    if not config.heads:
        raise ConfigError("sweep: there is nothing to sweep over: the run has no [[heads]]")
    names = tuple(head.name for head in config.heads)
    if sweep.head is not None and sweep.head not in names:
        raise ConfigError(
            f"sweep.head: none of [[heads]] is called {sweep.head!r}{nearest_key(sweep.head, names)}; "
            f"there are {', '.join(names)}"
        )
    swept = [head for head in config.heads if sweep.head in (None, head.name)]
    plan: list[Family] = []
    for head in swept:
        try:
            plan += families(head.recipe, sweep.axes(), head.name)
        except ConfigError as error:
            alone = "" if len(swept) == 1 else '. sweep.head = "NAME" sweeps one head alone'
            raise ConfigError(f"of the head {head.name}: {error}{alone}") from error
    for family in plan if sweep.method == "grid" else ():
        for settings in family.grid():
            family.recipe(settings)
    check_method(sweep.method)
    budgets = {f"{family.base.method} of {family.head}": sweep.budget(family.size()) for family in plan}
    if len(set(budgets.values())) > 1:
        listed = ", ".join(f"{name} {budget:g}" for name, budget in budgets.items())
        display.warn(
            f"note: not every loss is tried as often ({listed}): give each as many values for a fair comparison"
        )
    run = run_of(config, display, run_file)
    return Sweep(run, sweep, plan, feature_sets(run, swept))


def _moved(path: str, run_file: str, new: Path) -> str:
    """The relative ``path`` of ``run_file`` as one in the folder ``new`` has it."""
    old = Path(run_file).parent
    if path.startswith("${") or Path(path).is_absolute() or "://" in path:
        return path
    if is_url(run_file):
        return beside(run_file.rpartition("/")[0], path)
    return path if old.resolve() == new.resolve() else os.path.relpath(old.resolve() / path, new.resolve())


def _trials(validation: CrossValidation, recipes: Sequence[HeadRecipe]) -> list[Arrays]:
    trials = validation.trials(recipes)
    return [{key: np.asarray(value) for key, value in vars(trial).items()} for trial in trials]


def _on_worker(run_file: str, backbone: str, recipes: Sequence[HeadRecipe]) -> list[Arrays]:
    return _trials(_opened(run_file, backbone), recipes)


@lru_cache(maxsize=1)
def _opened(run_file: str, backbone: str) -> CrossValidation:
    """The features of one backbone of ``run_file`` in folds, read once a process."""
    sweep = open_sweep(run_file, Display(quiet=True, warnings=False))
    return sweep.validation(next(part for part in sweep.sets if part.name == backbone))
