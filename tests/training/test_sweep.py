"""Trials by the library on toy features, and the command on drawn images."""

from __future__ import annotations

import csv
import html.parser
import json
import signal
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cache import Features, LocalStorage
from cache.errors import ConfigError, PermafrostError, RecordsError
from stages.ranking import leave_one_out
from stages.training import (
    CosFaceConfig,
    LinearHeadConfig,
    OptimizerConfig,
    TrainingConfig,
    train_head,
)
from stages.training.recipe import HeadRecipe
from stages.training.sweep import trials
from stages.training.sweep.trials import CrossValidation, cross_validation, run_trials
from tests.pictures import draw_folder
from tests.toys.training import classes_of, make_records, toy
from tests.typed import RUN, permafrost

SHORT = TrainingConfig(epochs=2, batch_size=32)
ALONE = replace(SHORT, soup_epochs=2)  # a setting that is not for heads trained together
BASE = HeadRecipe(LinearHeadConfig(dim=4), CosFaceConfig(scale=16.0), training=SHORT)
JUDGE = partial(leave_one_out, metric="mmp@5")


def ground_of(folder: Path, *, failed: tuple[str, ...] = (), seeds: tuple[int, ...] = (0, 1)) -> CrossValidation:
    features, records = toy(folder, classes_of(12, 6) | {"single": "class of one"}, failed=failed)
    return cross_validation(features, records, JUDGE, folds=3, seeds=seeds)


def by_hand(ground: CrossValidation, features: Features, recipe: HeadRecipe) -> npt.NDArray[np.float64]:
    """The scores (F, S): each head trained alone on the rows outside the fold, which then search each other."""
    scores = np.empty((len(ground.folds), len(ground.seeds)))
    for number, fold in enumerate(ground.folds):
        inside, outside = ground.records.take(np.flatnonzero(fold)), ground.records.take(np.flatnonzero(~fold))
        for place, seed in enumerate(ground.seeds):
            head = train_head(
                features,
                outside,
                replace(recipe, training=replace(recipe.training, holdout=0.0)),
                seed=seed,
            )
            vectors = head(np.asarray(features.read(inside.digests)))
            hits = []
            for row, label in enumerate(inside.classes):
                others = [r for r in range(len(inside)) if r != row]
                ranked = sorted(others, key=lambda r: -float(vectors[row] @ vectors[r]))
                hits.append(np.mean([inside.classes[r] == label for r in ranked[:5]]))  # each has 5 to find
            scores[number, place] = np.mean(hits)
    return scores


@pytest.mark.parametrize("training", [SHORT, ALONE], ids=["stacked", "alone"])
def test_a_trial_is_every_fold_held_out_once_for_each_seed_whether_stacked_or_alone(
    tmp_path: Path, training: TrainingConfig
) -> None:
    ground = ground_of(tmp_path, failed=("3-0",))
    recipe = replace(BASE, training=training)
    ((place, trial),) = run_trials(ground, [recipe])
    assert place == 0
    assert trial.scores.shape == (3, 2)
    assert trial.diverged == 0
    # a fold with the class whose image failed has queries with 4 to find; by hand only the other folds are compared
    whole = [
        n for n, fold in enumerate(ground.folds) if "class 3" not in ground.records.take(np.flatnonzero(fold)).classes
    ]
    np.testing.assert_allclose(trial.scores[whole], by_hand(ground, ground.features, recipe)[whole], rtol=0, atol=0.02)


def test_the_values_by_query_are_the_mean_over_the_seeds(tmp_path: Path) -> None:
    ground = ground_of(tmp_path)
    (_, trial), = run_trials(ground, [BASE])  # fmt: skip
    assert {*ground.query_keys} == {f"{c}-{i}" for c in range(12) for i in range(6)}  # not the class of one
    fold_of = {key: n for n, fold in enumerate(ground.folds) for key in ground.records.take(np.flatnonzero(fold)).keys}
    for number in range(3):
        inside = [value for key, value in zip(ground.query_keys, trial.values, strict=True) if fold_of[key] == number]
        assert np.mean(inside) == pytest.approx(trial.scores[number].mean(), abs=1e-6)


def test_recipes_come_back_with_their_places_whatever_they_are_trained_with(tmp_path: Path) -> None:
    ground = ground_of(tmp_path)
    recipes = [
        BASE,
        replace(BASE, training=ALONE),
        BASE.with_settings({"dim": 8}),
        BASE.with_settings({"loss.scale": 8.0}),
    ]
    together = dict(run_trials(ground, recipes))
    assert sorted(together) == [0, 1, 2, 3]
    for place, recipe in enumerate(recipes):
        (alone,) = dict(run_trials(ground, [recipe])).values()
        np.testing.assert_allclose(alone.scores, together[place].scores, rtol=0, atol=0.02)


def test_the_raw_feature_is_judged_in_the_same_folds(tmp_path: Path) -> None:
    ground = ground_of(tmp_path)
    trial = ground.raw()
    assert trial.scores.shape == (3, 1)
    fold = np.flatnonzero(ground.folds[1])
    expected = JUDGE(np.asarray(ground.features.read(ground.records.take(fold).digests)), ground.labels[fold])
    assert trial.scores[1, 0] == pytest.approx(np.mean(expected))


def test_a_closed_form_is_fitted_with_one_seed(tmp_path: Path) -> None:
    ground = ground_of(tmp_path)
    recipe = BASE.with_settings({"start": {"kind": "lda"}})
    closed = HeadRecipe(recipe.start)  # type: ignore[arg-type]
    trials = dict(run_trials(ground, [closed, recipe]))
    assert (trials[0].scores.shape, trials[1].scores.shape) == ((3, 1), (3, 2))
    assert closed.method == "lda"
    assert trials[0].scores.mean() > ground.raw().scores.mean()  # the toy's noise is in directions that lda leaves out


@pytest.mark.parametrize("kind", ["stacked", "alone"])
def test_a_training_that_diverges_scores_nothing_and_is_counted(tmp_path: Path, kind: str) -> None:
    ground = ground_of(tmp_path)
    wild = OptimizerConfig(kind="sgd", lr=1e30, final_lr=1e30, weight_decay=1e10, warmup_epochs=0.0)
    training = SHORT if kind == "stacked" else ALONE
    ((_, trial),) = run_trials(ground, [replace(BASE, optimizer=wild, training=training)])
    assert trial.diverged == 6
    assert trial.scores.tolist() == [[0.0, 0.0]] * 3


def test_another_error_than_divergence_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise PermafrostError("something else is wrong")

    monkeypatch.setattr(trials, "train_head", broken)
    recipe = replace(BASE, training=ALONE)
    with pytest.raises(PermafrostError, match="something else"):
        list(run_trials(ground_of(tmp_path), [recipe]))


def test_a_trial_is_named_by_all_that_it_follows_from(tmp_path: Path) -> None:
    ground = ground_of(tmp_path)
    names = {
        ground.fingerprint_of(BASE),
        ground.fingerprint_of(BASE.with_settings({"loss.scale": 8.0})),
        ground_of(tmp_path, seeds=(0, 2)).fingerprint_of(BASE),
        cross_validation(ground.features, ground.records, JUDGE, folds=3, seeds=(0, 1), seed=1).fingerprint_of(BASE),
    }
    assert len(names) == 4
    assert ground_of(tmp_path).fingerprint_of(BASE) in names


def test_training_rows_need_labels_and_folds_need_classes(tmp_path: Path) -> None:
    features, records = toy(tmp_path, classes_of(4, 3))
    with pytest.raises(ConfigError, match=r"sweep\.folds = 3 needs at least 6 .* there are 4"):
        cross_validation(features, records, JUDGE, folds=3, seeds=(0,))
    with pytest.raises(RecordsError, match="'0-0' has no label"):
        cross_validation(features, make_records({"0-0": None}), JUDGE, folds=3, seeds=(0,))


# The command

SWEEP = """
[sweep]
folds = 2
seeds = [0, 1]
[sweep.over]
"loss.kind" = ["arcface", "cosface"]
"loss.margin_rad" = [0.2]
"loss.margin_cos" = [0.1]
"loss.scale" = { low = 8, high = 32, log = true, steps = 2 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with its images, extracted, and swept once."""
    folder = tmp_path_factory.mktemp("sweep")
    draw_folder(folder / "images", {f"class {number}": 6 for number in range(12)})
    (folder / "run.toml").write_text(RUN + SWEEP)
    assert permafrost("extract", "run.toml", "--quiet", cwd=folder).returncode == 0
    done = permafrost("sweep", "run.toml", "--json", "--write", "best.toml", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "first.jsonl").write_text(done.stdout)
    return folder


def home(folder: Path) -> Path:
    (swept,) = (path for path in (folder / "artifacts/sweeps").glob("run-????????") if path.is_dir())
    return swept


def written(home: Path) -> dict[str, int]:
    """The files of finished trials, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (home / "trials").glob("*.npz")}


@pytest.mark.slow
def test_sweep_prints_one_flat_object_a_place_best_first(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "first.jsonl").read_text().splitlines()]
    assert [line["rank"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["value"] for line in lines] == sorted((line["value"] for line in lines), reverse=True)
    tried = {
        (line["loss.kind"], line["loss.margin_rad"], line["loss.margin_cos"], line["loss.scale"]) for line in lines
    }
    assert tried == {
        ("arcface", 0.2, None, 8.0),
        ("arcface", 0.2, None, 32.0),
        ("cosface", None, 0.1, 8.0),
        ("cosface", None, 0.1, 32.0),
        (None, None, None, None),
    }
    raw = next(line for line in lines if line["head"] == "raw")
    assert (raw["method"], raw["trainings"], raw["trial"]) == ("raw", 2, None)
    best = lines[0]
    assert (best["metric"], best["trainings"], best["queries"], best["behind"]) == ("mmp@5", 4, 36, 0.0)
    for line in lines:
        assert not any(isinstance(value, (list, dict)) for value in line.values())
        assert line["low"] <= line["value"] <= line["high"]
        assert line["behind"] == pytest.approx(best["value"] - line["value"], abs=1e-6)
        assert line["behind_low"] <= line["behind"] <= line["behind_high"]


@pytest.mark.slow
def test_a_second_sweep_trains_nothing_and_more_values_train_only_what_is_new(folder: Path) -> None:
    before = written(home(folder))
    assert len(before) == 4
    again = permafrost("sweep", "run.toml", "--json", cwd=folder)
    assert again.stdout == (folder / "first.jsonl").read_text()
    assert written(home(folder)) == before
    text = (RUN + SWEEP).replace('"loss.margin_rad" = [0.2]', '"loss.margin_rad" = [0.2, 0.5]')
    (folder / "run.toml").write_text(text)
    more = permafrost("sweep", "run.toml", cwd=folder)
    (folder / "run.toml").write_text(RUN + SWEEP)
    assert more.returncode == 0, more.stderr
    assert "not every loss is tried as often (arcface of small 4, cosface of small 2)" in more.stderr
    assert written(home(folder)).items() >= before.items()
    assert len(written(home(folder))) == 6
    table = more.stdout.splitlines()
    assert table[0].split()[:5] == ["head", "loss.kind", "loss.margin_rad", "loss.margin_cos", "loss.scale"]
    assert [line.split()[0] for line in table[1:8]] == [str(rank) for rank in range(1, 8)]
    assert "2 folds x 2 seeds" in table[-1]


@pytest.mark.slow
def test_csv_and_page_hold_every_place_and_the_page_loads_nothing(folder: Path) -> None:
    with (home(folder) / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    assert {row["loss.kind"] for row in rows} == {"arcface", "cosface", ""}
    page = (home(folder) / "leaderboard.html").read_text(encoding="utf-8")
    links: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(tag for name, _ in attrs if name in ("src", "href"))
            links.extend([tag] if tag in ("script", "link", "img", "iframe") else [])

    Reader().feed(page)
    assert links == []
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page
    assert page.count('<div class="interval ') == len(rows)
    assert "The best of each method" in page


@pytest.mark.slow
def test_the_winner_is_a_run_file_that_trains_and_scores(folder: Path) -> None:
    best = json.loads((folder / "first.jsonl").read_text().splitlines()[0])
    written = tomllib.loads((folder / "best.toml").read_text())
    (head,) = written["heads"]
    assert "sweep" not in written
    assert (head["name"], head["dim"], head["training"]["epochs"]) == ("small", 8, 2)
    assert (head["loss"]["kind"], head["loss"]["scale"]) == (best["loss.kind"], best["loss.scale"])
    assert written["dataset"] == tomllib.loads(RUN)["dataset"]
    again = permafrost("sweep", "run.toml", "--write", "best.toml", cwd=folder)
    assert again.returncode == 2
    assert "best.toml exists. Name another file, or add --force" in again.stderr
    done = permafrost("run", "best.toml", "--json", "--quiet", cwd=folder)
    assert done.returncode == 0, done.stderr
    heads = [json.loads(line)["head"] for line in done.stdout.splitlines()]
    assert list(dict.fromkeys(heads)) == ["raw", "small"]


@pytest.mark.slow
def test_a_search_has_the_same_budget_for_each_loss(folder: Path) -> None:
    sweep = SWEEP.replace("[sweep]\n", '[sweep]\nmethod = "optuna"\ntrials = 3\n').replace(", steps = 2", "")
    (folder / "search.toml").write_text(RUN + sweep)
    done = permafrost("sweep", "search.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    kinds = [json.loads(line)["loss.kind"] for line in done.stdout.splitlines()]
    assert (kinds.count("arcface"), kinds.count("cosface"), kinds.count(None)) == (3, 3, 1)
    assert permafrost("sweep", "search.toml", "--json", cwd=folder).stdout == done.stdout


def test_ctrl_c_keeps_the_finished_trials_and_the_next_sweep_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = RUN.replace("epochs = 2", "epochs = 2\nema = 0.5")  # trained one by one
    (folder / "long.toml").write_text(
        text + '[sweep]\nfolds = 2\nseeds = [0, 1]\nover = { "loss.scale" = [4.0, 5.0, 6.0] }\n'
    )

    put = LocalStorage.put

    def put_and_stop(storage: LocalStorage, key: str, content: bytes | memoryview) -> None:
        put(storage, key, content)
        if key.endswith(".npz"):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patches:
        patches.setattr(LocalStorage, "put", put_and_stop)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        stopped = permafrost("sweep", "long.toml", cwd=folder)
        signal.signal(signal.SIGINT, before)
    assert stopped.returncode == 130
    (swept,) = (path for path in (folder / "artifacts/sweeps").glob("long-????????") if path.is_dir())
    finished = written(swept)
    assert len(finished) == 1
    done = permafrost("sweep", "long.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert written(swept).items() > finished.items()
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((SWEEP, ""), "has no [sweep]"),
        (("folds = 2", "trials = 0"), "sweep: trials is how many configurations are tried, at least 1, got 0"),
        (("folds = 2", "fold = 2"), "sweep.fold: unknown key; did you mean folds?"),
        (("folds = 2", 'head = "smal"'), "none of [[heads]] is called 'smal'; did you mean small?"),
        (("folds = 2", 'method = "random"'), "sweep.method: must be 'grid' or 'optuna'"),
        (("[0.2]", "[]"), "over.loss.margin_rad: the list is empty"),
        (("margin_rad", "margin_rda"), "sweep.over.loss.margin_rda: arcface, cosface has no such key; did you mean"),
        (("[0.2]", "[4.0]"), "sweep.over: loss.margin_rad = 4.0: margin_rad is an angle"),
        (("folds = 2", "folds = 9"), "sweep.folds = 9 needs at least 18 training classes"),
    ],
)
@pytest.mark.slow
def test_a_sweep_that_cannot_be_ends_with_status_2_and_says_why(
    folder: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in RUN + SWEEP
    (folder / "wrong.toml").write_text((RUN + SWEEP).replace(*change))
    done = permafrost("sweep", "wrong.toml", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
