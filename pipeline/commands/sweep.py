"""The command ``sweep``: try many configurations of the run's heads on the training classes, and rank them."""

from __future__ import annotations

import json as json_module
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cache import fingerprint
from cache.atomic import replace_text
from cache.errors import ConfigError
from cache.lock import writer_lock
from pipeline.backbones import find_features
from pipeline.commands.options import Json, Quiet, RunFile
from pipeline.config import HeadRun, RunConfig, parse_config, read_config
from pipeline.feature_sets import FeatureSet, feature_sets
from pipeline.progress import Display
from pipeline.run import RAW, read_dataset
from pipeline.toml import write_toml
from pipeline.trials import TrialLog
from pipeline.views import leaderboard
from pipeline.views.leaderboard import Entry, Leaderboard, Place
from stages.ranking import leave_one_out
from stages.records import Records
from stages.training.recipe import Recipe, Settings, nearest_key
from stages.training.rows import rows_digest
from stages.training.search_space import Family, SweepConfig, families
from stages.training.search_strategy import check_method, search
from stages.training.sweep import CrossValidation, Trial, cross_validation, run_trials


@dataclass(frozen=True)
class Swept:
    """One of ``[[heads]]`` and one of the families of recipes that it spans."""

    head: str
    family: Family


def sweep(
    run_file: RunFile,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="OUT.TOML", help="Write a run file with the best configuration.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a run file that exists.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try many configurations of the heads, judged on held-out training classes, and rank them."""
    config, display = read_config(run_file), Display(quiet=quiet)
    if config.sweep is None:
        raise ConfigError(
            f'{run_file} has no [sweep]. Add one, such as:\n[sweep]\n[sweep.over]\n"loss.scale" = [8.0, 16.0, 32.0]'
        )
    if write is not None and write.exists() and not force:
        raise ConfigError(f"{write} exists. Name another file, or add --force to write over it.")
    wanted = planned(config, config.sweep)
    check_method(config.sweep.method)
    for remark in remarks(config.sweep, wanted):
        display.warn(f"note: {remark}")
    records = read_dataset(config, display)
    stores = [found for backbone in config.backbones for found in find_features(backbone, config, records, display)]
    heads = [head for head in config.heads if head.name in {of.head for of in wanted}]
    learned, train = feature_sets(stores, heads), records.split("train")
    folder = _folder(config, config.sweep, run_file.stem, learned, train)
    with writer_lock(folder.with_name(f"{folder.name}.lock")):
        board = _sweep(config, config.sweep, wanted, learned, train, TrialLog(folder), display)
        replace_text(folder / "leaderboard.csv", leaderboard.csv_text(board))
        replace_text(folder / "leaderboard.html", leaderboard.page(board, run_file.stem))
    typer.echo(leaderboard.json_text(board) if json else leaderboard.table_text(board) + "\n", nl=False)
    display.say(f"also in {folder}: leaderboard.csv, leaderboard.html")
    if write is not None:
        replace_text(write, _run_file_of(_winner(board.places), wanted, run_file, config.sweep))
        display.say(f"the best configuration: {write}")


def planned(config: RunConfig, asked: SweepConfig) -> list[Swept]:
    """What is swept, checked before any work. Raises ConfigError naming the key that is wrong."""
    if not config.heads:
        raise ConfigError("sweep: there is nothing to sweep over: the run has no [[heads]]")
    names = tuple(head.name for head in config.heads)
    if asked.head is not None and asked.head not in names:
        raise ConfigError(
            f"sweep.head: none of [[heads]] is called {asked.head!r}{nearest_key(asked.head, names)}; "
            f"there are {', '.join(names)}"
        )
    axes = asked.axes()
    found = []
    for head in config.heads:
        if asked.head in (None, head.name):
            base = Recipe(head.head, head.loss, head.start, head.optimizer, head.training)
            found += [Swept(head.name, family) for family in families(base, axes)]
    if asked.method == "grid":
        for of in found:
            for settings in of.family.grid():
                _recipe(of.family, settings)
    return found


def _recipe(family: Family, settings: Settings) -> Recipe:
    try:
        return family.recipe(settings)
    except ConfigError as error:
        raise ConfigError(f"sweep.over: {error}") from error


def remarks(asked: SweepConfig, wanted: Sequence[Swept]) -> list[str]:
    """What a person should know before comparing losses by this sweep."""
    budgets = {f"{of.family.base.method} of {of.head}": _budget(asked, of.family) for of in wanted}
    if len(set(budgets.values())) > 1:
        listed = ", ".join(f"{name} {budget:g}" for name, budget in budgets.items())
        return [f"not every loss is tried as often ({listed}): give each as many values for a fair comparison"]
    return []


def _folder(config: RunConfig, asked: SweepConfig, name: str, learned: Sequence[FeatureSet], records: Records) -> Path:
    """Where the trials are kept that can be compared with each other: of the same data, folds, seeds and metric."""
    said = fingerprint(
        {
            "features": [of.features.fingerprint for of in learned],
            "rows": rows_digest(records),
            "folds": asked.folds,
            "seeds": list(asked.seeds),
            "seed": config.seed,
            "objective": asked.objective,
        }
    )
    return Path(config.artifacts) / "sweeps" / f"{name}-{said[:8]}"


def _sweep(
    config: RunConfig,
    asked: SweepConfig,
    wanted: Sequence[Swept],
    learned: Sequence[FeatureSet],
    records: Records,
    log: TrialLog,
    display: Display,
) -> Leaderboard:
    entries: list[Entry] = []
    for of in learned:
        judge = partial(leave_one_out, metric=asked.objective)
        ground = cross_validation(of.features, records, judge, folds=asked.folds, seeds=asked.seeds, seed=config.seed)
        if of.raw:
            entries.append(Entry(of.name, RAW, RAW, {}, ground.raw(), ground.query_keys))
        names = {head.name for head in of.heads}
        entries += _trials(config, asked, [one for one in wanted if one.head in names], of.name, ground, log, display)
    return leaderboard.ranked(entries, asked.objective, tuple(asked.axes()), config.seed)


def _trials(
    config: RunConfig,
    asked: SweepConfig,
    wanted: Sequence[Swept],
    backbone: str,
    ground: CrossValidation,
    log: TrialLog,
    display: Display,
) -> list[Entry]:
    """The trials of the heads that learn from one backbone's features, or from several fused."""
    found: dict[str, Entry] = {}
    total = sum(_budget(asked, of.family) for of in wanted)
    with display.bar(f"sweeping on {backbone}", "trials") as update:

        def report() -> None:
            best = max(entry.trial.scores.mean() for entry in found.values())
            update(len(found), int(total), f"best {asked.objective} {best:.4f}")

        for of in wanted:
            score = _scoring(backbone, ground, of, log, found, report)
            search(of.family, asked.method, asked.trials, config.seed, score)
    return list(found.values())


def _budget(asked: SweepConfig, family: Family) -> float:
    return min(family.size(), asked.trials) if asked.method == "optuna" else family.size()


def _scoring(
    backbone: str,
    ground: CrossValidation,
    of: Swept,
    log: TrialLog,
    found: dict[str, Entry],
    report: Callable[[], None],
) -> Callable[[Sequence[Settings]], list[float]]:
    """What scores settings of a family: by the log where it has them, else by running the trials."""

    def evaluate(asked: Sequence[Settings]) -> list[float]:
        recipes = [_recipe(of.family, settings) for settings in asked]
        names = [ground.fingerprint_of(recipe) for recipe in recipes]

        def add(place: int, trial: Trial) -> None:
            entry = Entry(
                backbone, of.head, recipes[place].method, asked[place], trial, ground.query_keys, names[place]
            )
            found.setdefault(names[place], entry)
            report()

        missing: dict[str, int] = {}
        for place, name in enumerate(names):
            if name in found:
                continue
            if (known := log.find(name)) is not None:
                add(place, known)
            else:
                missing.setdefault(name, place)
        places = list(missing.values())
        for at, trial in run_trials(ground, [recipes[place] for place in places]):
            place = places[at]
            log.keep(names[place], backbone, of.head, asked[place], trial)
            add(place, trial)
        return [float(found[name].trial.scores.mean()) for name in names]

    return evaluate


def _table(config: Any) -> dict[str, Any] | None:  # any frozen dataclass of the stage, or None
    return None if config is None else asdict(config)


def _winner(places: Sequence[Place]) -> Place:
    return next(place for place in places if not place.entry.raw)


def _run_file_of(winner: Place, wanted: Sequence[Swept], run_file: Path, asked: SweepConfig) -> str:
    """The text of ``run_file`` without ``[sweep]`` and with one head: the ``winner``."""
    entry = winner.entry
    recipe = next(
        of.family.recipe(entry.settings)
        for of in wanted
        if of.head == entry.head and of.family.fixed.items() <= dict(entry.settings).items()
    )
    raw: dict[str, Any] = tomllib.loads(run_file.read_text(encoding="utf-8"))
    raw.pop("sweep")
    parts = {part: _table(getattr(recipe, part)) for part in ("loss", "start", "optimizer", "training")}
    of_run = {field.name for field in fields(HeadRun)} - {"head", *parts}
    written = next(head for head in raw["heads"] if head["name"] == entry.head)
    kept = {key: value for key, value in written.items() if key in of_run}
    raw["heads"] = [kept | asdict(recipe.head) | parts]
    said = ", ".join(f"{key} = {json_module.dumps(value)}" for key, value in entry.settings.items()) or "as it was"
    score = f"{asked.objective} {winner.value:.4f} ({winner.low:.4f} to {winner.high:.4f})"
    heading = (
        f"Written by `permafrost sweep {run_file.name}`: the best configuration of {entry.head} on {entry.backbone}.",
        said,
        f"{score} on held-out training classes, {asked.folds} folds x {len(asked.seeds)} seeds.",
    )
    text = "".join(f"# {line}\n" for line in heading) + "\n" + write_toml(raw)
    parse_config(text, "the winner's run file")  # what is written can be read
    return text
