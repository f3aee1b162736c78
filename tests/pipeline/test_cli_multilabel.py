"""Heads that learn attributes, and their table, as a person meets them: a small drawn catalogue, typed commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pictures import draw, write_table
from tests.typed import permafrost

COLOURS, KINDS = ("blue", "red"), ("shirt", "shoe", "belt")
RUN = """
artifacts = "artifacts"
[dataset]
kind = "table"
path = "labels.csv"
label = ["kind", "colour"]
attributes = ["kind", "colour"]
tags = "name"
train = "train"
query = "test"
gallery = "test"
[[backbones]]
kind = "timm"
name = "test_resnet"
weights = "random"
preprocess = { size = 64 }
[[heads]]
name = "network"
kind = "multilabel"
task = "both"
dim = 16
optimizer = { lr = 1e-2, final_lr = 1e-2, warmup_epochs = 0 }
training = { epochs = 2, batch_size = 16 }
[[heads]]
name = "posterior"
kind = "posterior"
dim = 5
[repeat]
seeds = [0, 1]
rows = [1, 24]
[retrieval]
metrics = ["map", "graded_map", "graded_ndcg@5:colour", "legacy_map@10"]
[retrieval.similar]
colour = { colour = 1.0 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with its images, all three stages done."""
    folder = tmp_path_factory.mktemp("run")
    rows = []
    for number in range(60):
        colour, kind = COLOURS[number % 2], KINDS[number % 3]
        draw(folder / f"images/{number}.png", 1000 * (number % 6) + number)
        rows.append(
            {
                "path": f"images/{number}.png",
                "key": f"{number}",
                "split": "test" if number >= 36 else "train",
                "kind": kind,
                "colour": colour,
                "name": f"{colour} {kind} for sale",
            }
        )
    write_table(folder / "labels.csv", rows)
    (folder / "run.toml").write_text(RUN)
    done = permafrost("run", "run.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "scores.jsonl").write_text(done.stdout)
    return folder


def test_a_run_scores_by_label_by_attributes_and_by_the_legacy_measure_with_its_bounds(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    metrics = ["map", "graded_map", "graded_ndcg@5:colour"]
    metrics += ["legacy_map@10", "legacy_map@10.ceiling", "legacy_map@10.floor"]
    heads = ["raw", "network", "posterior"]
    assert [(line["head"], line["metric"]) for line in lines] == [
        (head, metric) for head in heads for metric in metrics
    ]
    bounds = {(line["metric"], line["value"]) for line in lines if line["metric"].startswith("legacy_map@10.")}
    assert len(bounds) == 2, "the bounds follow from the labels alone"
    shown = permafrost("score", "run.toml", cwd=folder).stdout
    assert "legacy_map@10: a perfect ranking has 0." in shown
    assert "ceiling" not in shown


def test_a_table_trains_with_every_seed_draws_a_curve_and_goes_on_from_what_is_there(folder: Path) -> None:
    done = permafrost("table", "run.toml", "--json", "--workers", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("network on 1 images with test_resnet is left out of the curve: ") == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    seeds = {(line["head"], line["rows"]): line["seeds"] for line in lines}
    assert seeds == {
        ("raw", 0): 1, ("network", 36): 2, ("network", 24): 2, ("posterior", 36): 1, ("posterior", 24): 2,
    }  # fmt: skip
    of_map = {line["head"]: line for line in lines if line["metric"] == "map" and line["rows"] in (0, 36)}
    gain = of_map["posterior"]["value"] - of_map["raw"]["value"]
    assert of_map["posterior"]["gain"] == pytest.approx(gain)
    scored = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    for head in ("raw", "posterior"):
        (value,) = [line["value"] for line in scored if (line["head"], line["metric"]) == (head, "map")]
        assert of_map[head]["value"] == pytest.approx(value, abs=1e-6)
    page = (folder / "artifacts/tables/run/table.html").read_text()
    assert "<polyline" in page
    assert "How many labelled images it takes" in page
    (picture,) = (folder / "artifacts/tables/run").glob("test_resnet-*.png")
    assert f'src="{picture.name}"' in page
    cells = sorted((folder / "artifacts/tables/run/cells").iterdir())
    written = [path.stat().st_mtime_ns for path in cells]
    again = permafrost("table", "run.toml", "--json", "--workers", "1", cwd=folder)
    assert again.stdout == done.stdout
    assert [path.stat().st_mtime_ns for path in cells] == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('attributes = ["kind", "colour"]', 'attributes = ["kind", "color"]'), "Did you mean 'colour'?"),
        (('label = ["kind", "colour"]\nattributes = ["kind", "colour"]', 'label = "kind"\nattributes = ["split"]'),
         "the attribute 'split' has one value, 'train', in 36 of 36 training records"),
        (('tags = "name"', 'tags = "key"'), "a column that is not text: all of its 36 values"),
        (('gallery = "test"', 'gallery = ["test", "train"]'), "legacy_map@10 searches a set in itself"),
        (('"graded_ndcg@5:colour"', '"graded_ndcg@5:looks"'), "names a definition of similar that is not there"),
        (("seeds = [0, 1]", "seeds = []"), "repeat: seeds is a list of different whole numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_one_clear_message(folder: Path, change: tuple[str, str], message: str) -> None:
    (folder / "wrong.toml").write_text(RUN.replace(*change))
    done = permafrost("run", "wrong.toml", cwd=folder)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_a_table_is_told_what_to_add(folder: Path) -> None:
    (folder / "plain.toml").write_text(RUN.replace("[repeat]\nseeds = [0, 1]\nrows = [1, 24]\n", ""))
    done = permafrost("table", "plain.toml", cwd=folder)
    assert done.returncode == 2
    assert "plain.toml has no [repeat]" in done.stderr
