"""Curating as a person meets it: the table that is written, its report, what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from stages.curation import REASONS
from stages.datasets import FolderConfig, TableConfig
from stages.records import read_records
from tests.pictures import draw, draw_folder
from tests.typed import RUN, permafrost


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with two datasets, not extracted yet. A test image of one trains in the other."""
    folder = tmp_path_factory.mktemp("curate")
    splits = {f"{split}/c{number}": 5 for split in ("train", "test") for number in range(6)}
    draw_folder(folder / "shoes", splits)
    draw_folder(folder / "hats", splits, seed=50_000)
    tested = folder / "shoes/test/c1/0.png"
    (folder / "hats/train/c0/0.png").write_bytes(tested.read_bytes())
    draw(folder / "hats/train/c1/1.png", 51_000)  # as 0.png, which is its class's first
    roles = 'kind = "folder"\nsplit = "folder"\ntrain = "train"\nquery = "test"\ngallery = "test"\n'
    datasets = "".join(f'[[dataset]]\nname = "{name}"\npath = "{name}"\n{roles}' for name in ("shoes", "hats"))
    head, rest = RUN[: RUN.index("[dataset]")], RUN[RUN.index("[[backbones]]") :]
    (folder / "run.toml").write_text(f"{head}{datasets}{rest}\n[curate]\nmax_images = 4\n")
    (folder / "near.toml").write_text(f"{head}{datasets}{rest}\n[curate]\nnear_duplicate = 0.9999\n")
    return folder


def test_the_command_writes_a_table_a_report_and_every_dropped_image(folder: Path) -> None:
    done = permafrost("curate", "run.toml", "-o", "out/table.csv", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert json.loads((folder / "out/table.report.json").read_text()) == report
    assert report["features"] is None
    assert report["config"]["max_images"] == 4
    assert report["all"] == {
        "images": 60,
        "images_kept": 48,
        "classes": 12,
        "classes_kept": 12,
        "dropped": {"bytes of a test image": 1, "byte-identical copy": 1, "image not drawn": 10},
    }
    by_domain = {counts["domain"]: counts for counts in report["domains"]}
    assert list(by_domain) == ["hats", "shoes"]
    assert by_domain["shoes"]["dropped"] == {"image not drawn": 6}
    with (folder / "out/table.dropped.csv").open(newline="") as file:
        dropped = list(csv.DictReader(file))
    assert [row["key"] for row in dropped] == sorted(row["key"] for row in dropped)
    assert {row["reason"] for row in dropped} <= set(REASONS)
    collided = {row["key"]: row["collided_with"] for row in dropped if row["collided_with"]}
    assert collided == {
        "hats/train/c0/0.png": "shoes/test/c1/0.png",
        "hats/train/c1/1.png": "hats/train/c1/0.png",
    }


def test_the_written_table_trains_beside_a_dataset_that_is_searched(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    done = permafrost("curate", "run.toml", "-o", str(table), cwd=folder)
    assert done.returncode == 0, done.stderr
    records = read_records(
        [
            TableConfig(path=str(table), name="curated", label="label"),
            FolderConfig(path=str(folder / "shoes"), name="shoes", split="folder", query="test", gallery="test"),
        ]
    )
    assert len(records.split("train")) == 48
    assert {key.split("/")[0] for key in records.split("train").keys} == {"curated"}
    assert records.counts()["queries whose bytes are trained on"] == 0
    assert len(records.unreadable()) == 0
    assert set(records.split("train").domains) == {"hats", "shoes"}


def test_the_report_for_people_has_a_column_a_domain(folder: Path, tmp_path: Path) -> None:
    done = permafrost("curate", "run.toml", "-o", str(tmp_path / "t.jsonl"), cwd=folder)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["hats", "shoes", "all"]
    assert ["training", "images", "30", "30", "60"] in lines
    assert ["image", "not", "drawn", "-4", "-6", "-10"] in lines
    assert ["images", "kept", "24", "24", "48"] in lines


def test_near_duplicates_want_features_and_find_copies_that_are_not_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    early = permafrost("curate", "near.toml", "-o", str(tmp_path / "t.csv"), cwd=folder)
    assert early.returncode == 1
    assert "permafrost extract" in early.stderr
    assert not list(tmp_path.iterdir())
    # another file of the same pixels
    (folder / "shoes/train/c5/4.png").write_bytes((folder / "shoes/train/c5/0.png").read_bytes() + b"\n")
    assert permafrost("extract", "near.toml", cwd=folder).returncode == 0
    done = permafrost("curate", "near.toml", "-o", str(tmp_path / "t.csv"), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["all"]["dropped"]["near-duplicate in its class"] == 1
    with (tmp_path / "t.dropped.csv").open(newline="") as file:
        (near,) = [row for row in csv.DictReader(file) if row["similarity"]]
    assert near["key"] == "shoes/train/c5/4.png"
    assert near["collided_with"] == "shoes/train/c5/0.png"
    assert near["similarity"] == "1.0000"


def test_a_table_that_exists_is_written_over_only_when_told(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("mine")
    refused = permafrost("curate", "run.toml", "-o", str(table), cwd=folder)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert table.read_text() == "mine"
    assert permafrost("curate", "run.toml", "-o", str(table), "--force", cwd=folder).returncode == 0
    assert table.read_text().startswith("key,path,label,domain,split\n")
    wrong = permafrost("curate", "run.toml", "-o", "table.xls", cwd=folder)
    assert wrong.returncode == 2
    assert "--output must end in .csv, .tsv, .parquet, .jsonl" in wrong.stderr
