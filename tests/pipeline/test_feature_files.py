"""Features in from a file and out to one, by the command line, without a single image."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.typed import permafrost

RUN = """
artifacts = "artifacts"
[dataset]
kind = "table"
path = "rows.csv"
label = "label"
images = false
[[backbones]]
kind = "precomputed"
name = "api"
path = "f.npy"
[[heads]]
name = "lda8"
kind = "lda"
dim = 8
[retrieval]
metrics = ["hit@1"]
index = { kind = "hnsw" }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 240 features around 40 centres, scored."""
    folder, random = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 6)
    vectors = random.normal(size=(40, 16))[labels] + 0.4 * random.normal(size=(240, 16))
    np.save(folder / "f.npy", vectors.astype(np.float32))
    (folder / "f.keys.txt").write_text("".join(f"k{n}\n" for n in range(240)))
    (folder / "rows.csv").write_text("key,label\n" + "".join(f"k{n},c{c}\n" for n, c in enumerate(labels)))
    (folder / "run.toml").write_text(RUN)
    done = permafrost("run", "run.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "scores.jsonl").write_text(done.stdout)
    return folder


def test_heads_scores_and_indexes_need_no_image(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    values = {line["head"]: line["value"] for line in lines}
    assert set(values) == {"raw", "raw (hnsw)", "lda8", "lda8 (hnsw)"}
    assert values["raw"] > 0.9
    assert not (folder / "artifacts/scores/run.png").exists()


def test_a_report_without_pictures_is_written(folder: Path) -> None:
    assert permafrost("report", "run.toml", cwd=folder).returncode == 0
    assert "lda8" in (folder / "artifacts/reports/run.html").read_text()


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_what_is_written_is_read_again_as_it_was(folder: Path, name: str) -> None:
    assert permafrost("features", "run.toml", "-o", name, cwd=folder).returncode == 0
    if name.endswith(".npy"):
        vectors, keys = np.load(folder / name), (folder / "out.keys.txt").read_text().split()
    else:
        table = pq.read_table(folder / name)
        vectors, keys = np.array(table["vector"].to_pylist()), table["key"].to_pylist()
        assert table.column_names == ["key", "digest", "label", "split", "vector"]
    assert keys == [f"k{n}" for n in range(240)]
    assert np.array_equal(vectors, np.load(folder / "f.npy").astype(np.float16))
    (folder / "again.toml").write_text(RUN.replace('"f.npy"', f'"{name}"').replace('"api"', '"again"'))
    again = permafrost("run", "again.toml", "--json", cwd=folder)
    values = [json.loads(line)["value"] for line in again.stdout.splitlines()]
    assert values == [json.loads(line)["value"] for line in (folder / "scores.jsonl").read_text().splitlines()]


def test_embeddings_are_written_too_and_another_ending_is_refused(folder: Path) -> None:
    done = permafrost("features", "run.toml", "--head", "lda8", "-o", "e.parquet", cwd=folder)
    assert "240 vectors of api lda8, 8 numbers each" in done.stdout
    refused = permafrost("features", "run.toml", "-o", "e.csv", cwd=folder)
    assert (refused.returncode, "written to .parquet or .npy" in refused.stderr) == (2, True)


def test_no_image_of_ones_own_can_be_searched_for(folder: Path) -> None:
    (folder / "photo.png").write_bytes(b"any")
    done = permafrost("search", "run.toml", "photo.png", cwd=folder)
    assert done.returncode != 0
    assert "no network here gives an image such a feature" in done.stderr


def test_a_feature_that_failed_is_read_again_where_that_is_asked_for(folder: Path) -> None:
    vectors = np.load(folder / "f.npy")
    vectors[3, 0] = np.nan
    np.save(folder / "holes.npy", vectors)
    (folder / "holes.keys.txt").write_text("".join(f"k{n}\n" for n in range(240)))
    (folder / "holes.toml").write_text(RUN.replace('"f.npy"', '"holes.npy"').replace('"api"', '"holes"'))
    for options, computed in (((), 240), ((), 0), (("--retry-failed",), 1)):
        done = permafrost("extract", "holes.toml", *options, cwd=folder)
        assert f"{computed:,} images computed" in done.stderr if computed else "none was opened" in done.stderr
        assert "1 of 240 records failed" in done.stderr
