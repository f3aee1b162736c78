"""compare, gallery-sizes, threshold, search with a threshold, and health, as a person meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cache import LocalStorage
from stages.datasets import FolderConfig
from stages.records import Records, read_records
from stages.retrieval.query_values import read_query_values
from tests.pictures import draw_folder
from tests.typed import permafrost
from tests.typed import permafrost as in_a_process

RUN = """
artifacts = "artifacts"
[dataset]
kind = "folder"
path = "images"
queries_per_class = 3
[[backbones]]
kind = "timm"
name = "test_resnet"
weights = "random"
[backbones.preprocess]
size = 64
[[heads]]
name = "small"
dim = 8
[heads.loss]
kind = "cosface"
[heads.training]
epochs = 1
[[heads]]
name = "pca"
kind = "pca"
dim = 4
[retrieval]
metrics = ["mmp@5", "hit@1", "mrr"]
"""


def records_in(folder: Path) -> Records:
    """The records of a folder of images as RUN has them."""
    return read_records(FolderConfig(path=str(folder), queries_per_class=3))


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with its images, all three stages done; one training image is a copy of one that is searched."""
    folder = tmp_path_factory.mktemp("run")
    draw_folder(folder / "images", {f"class {number:02}": 6 for number in range(30)})
    records = records_in(folder / "images")
    train, gallery = (records.split(role) for role in ("train", "gallery"))
    original = folder / "images" / gallery.keys[0]
    shutil.copy(original, folder / "images" / str(train.labels[0]) / f"copy{original.suffix}")
    (folder / "run.toml").write_text(RUN)
    done = in_a_process("run", "run.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "first.jsonl").write_text(done.stdout)
    return folder


def test_the_value_of_every_query_is_kept_and_scores_are_their_means_between_bounds(folder: Path) -> None:
    path = folder / "artifacts/scores/run.parquet"
    names = ["backbone", "head", "domain", "class", "metric", "query", "value", "embeddings"]
    assert pq.read_schema(path).names == names
    values = read_query_values(LocalStorage(path.parent), path.name)
    assert [head for _, head in values.heads()] == ["raw", "small", "pca"]
    rows = {(row["head"], row["metric"]): row for row in lines_of((folder / "first.jsonl").read_text())}
    for backbone, head in values.heads():
        for stored in values.of(backbone, head):
            (metric,) = stored.per_query
            row = rows[head, metric]
            assert stored.per_query[metric].mean() == pytest.approx(row["value"])
            assert len(stored.query_keys) == row["queries"]
            assert row["embeddings"] == values.embeddings(backbone, head)
            assert 0 < row["floor"] < row["ceiling"] == 1
    text = permafrost("score", "run.toml", "-q", cwd=folder).stdout
    assert "hit@1: a perfect ranking has 1.000, one by chance 0." in text


def test_compare_says_how_two_heads_of_a_run_differ_query_by_query(folder: Path) -> None:
    done = permafrost("compare", "run.toml:raw", "run.toml:small", "--json", "--top", "3", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stdout)
    rows = {(row["head"], row["metric"]): row["value"] for row in lines_of((folder / "first.jsonl").read_text())}
    changed = [line for line in lines if line["kind"] == "change"]
    assert [line["metric"] for line in changed] == ["mmp@5", "hit@1", "mrr"]
    for line in changed:
        metric = line["metric"]
        assert line["value"] == pytest.approx(rows["small", metric] - rows["raw", metric])
        assert line["better"] + line["worse"] + line["same"] == line["queries"] == 36
        assert line["low"] <= line["value"] <= line["high"]
    moved = [line for line in lines if line["kind"] == "moved"]
    assert 0 < len(moved) <= 3
    stored = read_query_values(LocalStorage(folder / "artifacts"), "scores/run.parquet")
    raw, small = (stored.of("test_resnet", head)[0] for head in ("raw", "small"))  # the first metric
    for line in moved:
        for side, item in (("first", raw), ("second", small)):
            assert line[side] == item.per_query["mmp@5"][item.query_keys.index(line["key"])]
        assert line["uri"].endswith(line["key"])
        assert line["label"] == Path(line["key"]).parent.name
    text = permafrost("compare", "run.toml:raw", "run.toml:small", "--metric", "mrr", "-q", cwd=folder).stdout
    assert "A: run.toml raw on test_resnet\nB: run.toml small on test_resnet\n" in text
    assert "the queries that changed most by mrr" in text


def test_compare_refuses_what_would_mislead(folder: Path, tmp_path: Path) -> None:
    for sides, status, message in (
        (("run.toml", "run.toml"), 2, "A and B are the same scores"),
        (("run.toml:raw", "run.toml:smal"), 2, "has no scores of smal on any backbone; it has raw on test_resnet"),
        (("run.toml:raw", "other.toml"), 2, "other.toml does not exist"),
        (("run.toml:raw", "run.toml:small", "--metric", "map"), 2, "'map' is not a metric of both"),
    ):
        done = permafrost("compare", *sides, cwd=folder)
        assert (done.returncode, message in done.stderr) == (status, True), done.stderr
    shutil.copytree(folder, tmp_path / "run")
    # One gallery image less in B: refused, unless asked for.
    smaller = RUN.replace('path = "images"', 'path = "fewer"')
    (tmp_path / "run/smaller.toml").write_text(smaller)
    shutil.copytree(tmp_path / "run/images", tmp_path / "run/fewer")
    gone = records_in(tmp_path / "run/fewer").split("gallery").keys[-1]
    (tmp_path / "run/fewer" / gone).unlink()
    unscored = permafrost("compare", "run.toml:raw", "smaller.toml:raw", cwd=tmp_path / "run")
    assert "There is no artifacts/scores/smaller.parquet. `permafrost score`" in unscored.stderr
    assert permafrost("run", "smaller.toml", "-q", cwd=tmp_path / "run").returncode == 0
    sides = ("run.toml:raw", "smaller.toml:raw")
    done = permafrost("compare", *sides, cwd=tmp_path / "run")
    assert done.returncode == 2
    assert "A and B searched different galleries" in done.stderr
    allowed = permafrost("compare", *sides, "--other-gallery", cwd=tmp_path / "run")
    assert allowed.returncode == 0
    assert "searched different galleries" in allowed.stderr
    # The data change after they were scored.
    moved = records_in(tmp_path / "run/images").split("gallery").keys[-1]
    (tmp_path / "run/images" / moved).unlink()
    stale = permafrost("compare", "run.toml:raw", "run.toml:small", cwd=tmp_path / "run")
    assert stale.returncode == 1
    assert "was made from something else" in stale.stderr
    assert "Score again: `permafrost score run.toml`" in stale.stderr


def test_gallery_sizes_end_at_the_score_of_the_whole_gallery(folder: Path) -> None:
    done = permafrost("gallery-sizes", "run.toml", "--head", "raw", "--size", "6", "--size", "1", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stdout)
    rows = {(row["head"], row["metric"]): row["value"] for row in lines_of((folder / "first.jsonl").read_text())}
    whole = {line["metric"]: line["value"] for line in lines if line["size"] == 1}
    assert whole == pytest.approx({metric: rows["raw", metric] for metric in ("mmp@5", "hit@1", "mrr")})
    assert [line["sampled"] for line in lines] == [6, 6, 6, 36, 36, 36]
    assert (folder / "artifacts/scores/run.gallery_sizes.jsonl").read_text() == done.stdout
    further = permafrost("gallery-sizes", "run.toml", "--head", "raw", "--distractors", "train", "-q", cwd=folder)
    assert further.stdout.splitlines()[0].split()[:5] == ["backbone", "head", "domain", "distractors", "searched"]
    assert int(further.stdout.splitlines()[-3].split()[3]) > 36
    for flags, status, message in (
        (("--size", "1000"), 1, "a whole number of distractors up to 36; got 1000"),
        (("--distractors", "trian"), 2, "no record has the split 'trian'; there are gallery, query, train"),
        (("--head", "smal"), 2, "run.toml has no head 'smal'; it has raw, small, pca"),
    ):
        done = permafrost("gallery-sizes", "run.toml", *flags, cwd=folder)
        assert (done.returncode, message in done.stderr) == (status, True), done.stderr


def test_scores_are_told_by_class_size(folder: Path) -> None:
    done = permafrost("score", "run.toml", "--by", "class_size", "--by", "training_class_size", "--json", cwd=folder)
    groups = [line for line in lines_of(done.stdout) if "group" in line]
    assert {(line["by"], line["group"], line["queries"]) for line in groups} == {
        ("class_size", "2-4", 36),
        ("training_class_size", "0", 36),
    }
    assert lines_of((folder / "artifacts/scores/run.groups.jsonl").read_text()) == groups
    text = permafrost("score", "run.toml", "--by", "class_size", "-q", cwd=folder).stdout
    assert "by the number of images of the query's class in the gallery" in text
    one = groups[0]
    assert f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" in text
    wrong = permafrost("score", "run.toml", "--by", "size", cwd=folder)
    assert (wrong.returncode, "--by is one of class_size, training_class_size" in wrong.stderr) == (2, True)


def test_a_threshold_is_chosen_on_other_classes_than_it_is_reported_on_and_search_uses_it(folder: Path) -> None:
    gallery = records_in(folder / "images").split("gallery").keys
    image = f"images/{gallery[0]}"
    early = permafrost("search", "run.toml", image, "--fmr", "0.1", "--head", "raw", cwd=folder)
    assert early.returncode == 1
    assert "Run `permafrost threshold run.toml --fmr 0.1 --head raw`" in early.stderr
    wanted = ("--fmr", "0.1", "--fpir", "0.6", "--head", "raw")
    done = permafrost("threshold", "run.toml", *wanted, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stdout)
    assert [(line["on"], line["kind"], line["wanted"]) for line in lines] == [
        ("calibration", "fmr", 0.1), ("test", "fmr", 0.1), ("calibration", "fpir", 0.6), ("test", "fpir", 0.6),
    ]  # fmt: skip
    for line in lines:
        if line["on"] == "calibration":
            assert line[line["kind"]] <= line["wanted"]
        assert (line["queries"], line["classes"]) == (18, 6)
        assert line["fmr_low"] <= line["fmr"] <= line["fmr_high"]
    result = permafrost("search", "run.toml", image, "--fmr", "0.1", "--head", "raw", "--json", cwd=folder)
    first = lines_of(result.stdout)[0]
    assert (first["match"], first["rank"], first["threshold"]) == (True, 1, lines[0]["threshold"])
    assert all(line["similarity"] >= line["threshold"] - 1e-6 for line in lines_of(result.stdout))
    assert first["rate"]["value"] == lines[1]["fmr"]
    none = permafrost("search", "run.toml", image, "--threshold", "1.5", "--head", "raw", cwd=folder)
    assert "no match: the nearest has 1.0000" in none.stdout
    one = permafrost("search", "run.toml", image, "--threshold", "1.5", "--head", "raw", "--json", cwd=folder)
    assert [(line["match"], line["key"]) for line in lines_of(one.stdout)] == [(False, None)]
    text = permafrost("threshold", "run.toml", *wanted, "-q", cwd=folder).stdout
    for word in ("FMR", "FNMR", "FPIR", "FNIR", "verification", "identification", "sampled, calibrate"):
        assert word in text
    for flags, message in (
        (("--fmr", "0.2"), "no threshold is kept for fmr 0.2, only for fmr 0.1, fpir 0.6"),
        (("--fmr", "0.1", "--threshold", "0.5"), "one of --fmr, --fpir and --threshold: each decides what a match is"),
        (("--fpir", "0.6", "--all"), "--fpir holds for the gallery that it was chosen for"),
    ):
        done = permafrost("search", "run.toml", image, "--head", "raw", *flags, cwd=folder)
        assert (done.returncode != 0, message in done.stderr) == (True, True), done.stderr
    for flags, message in (
        (("--fpir", "0.01"), "fpir = 0.01 cannot be calibrated on 18 non-mated searches"),
        (("--fmr", "7"), "--fmr is a rate between 0 and 1, such as 0.01, got 7"),
    ):
        done = permafrost("threshold", "run.toml", *flags, cwd=folder)
        assert (done.returncode != 0, message in done.stderr) == (True, True), done.stderr


def test_without_a_rate_the_threshold_is_that_of_the_smallest_usual_one_that_can_be_had(folder: Path) -> None:
    done = permafrost("threshold", "run.toml", "--head", "pca", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    ((kind, rate),) = {(line["kind"], line["wanted"]) for line in lines_of(done.stdout)}
    assert kind == "fmr"  # 18 searches are too few for ten errors at any usual FPIR
    assert f"fmr {rate:g} is the smallest usual rate that the images are enough for" in done.stderr
    assert "note: fpir = 0.1 cannot be calibrated on 18 non-mated searches" in done.stderr
    usual = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    lower = usual[: usual.index(rate)]
    refused = permafrost("threshold", "run.toml", "--head", "pca", *(f"--fmr={each}" for each in lower), cwd=folder)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert all(f"fmr = {each:g} cannot be calibrated" in refused.stderr for each in lower)
    image = f"images/{records_in(folder / 'images').split('gallery').keys[0]}"
    result = permafrost("search", "run.toml", image, "--fmr", str(rate), "--head", "pca", "--json", cwd=folder)
    assert lines_of(result.stdout)[0]["rate"]["wanted"] == rate


def test_health_finds_the_copy_across_splits_and_counts_the_rest(folder: Path) -> None:
    done = permafrost("health", "run.toml", "--head", "small", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stdout)
    kinds = {line["kind"] for line in lines}
    assert {"counts", "not_finite", "copy", "repeat", "conflict", "spread", "hubs", "hub", "bounds"} <= kinds
    (copy,) = (line for line in lines if line["kind"] == "copy" and line["same_bytes"])
    assert {copy["role"], copy["other_role"]} == {"train", "test"}
    assert "copy" in copy["key"] + copy["other"]
    assert [line["head"] for line in lines if line["kind"] == "spread"] == ["raw", "small"]
    for line in lines:
        if line["kind"] == "spread":
            assert 1 <= line["participation"] <= line["dim"]
    text = permafrost("health", "run.toml", "--top", "2", "-q", cwd=folder).stdout
    assert "1 images are byte-identical to one on another side of the splits" in text
    assert "0 images failed, 0 stored rows are not finite" in text
    assert "labels are doubtful" in text
