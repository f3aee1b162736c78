"""The command line: scores through an index and after post-processing, and an index chosen by budgets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cache.errors import ConfigError
from pipeline.config import parse_config
from stages.retrieval import KReciprocalConfig, QueryExpansionConfig, ScalarIndexConfig
from tests.pictures import draw_folder
from tests.typed import RUN, permafrost

OTHERS = """index = { kind = "ivf_flat", lists = 3, probes = 3 }
[[retrieval.rerank]]
kind = "query_expansion"
n = 2
[[retrieval.rerank]]
kind = "database_augmentation"
n = 2
[[retrieval.rerank]]
kind = "k_reciprocal"
k1 = 4
k2 = 2
candidates = 10
[[retrieval.rerank]]
kind = "whitening"
dim = 4
"""
LABELS = ["", " (ivf_flat)", " + alpha_qe", " + dba", " + k_reciprocal", " + whitening"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with its images, all three stages done."""
    folder = tmp_path_factory.mktemp("indexes")
    draw_folder(folder / "images", {f"class {number}": 6 for number in range(12)})
    (folder / "run.toml").write_text(RUN)
    (folder / "others.toml").write_text(RUN + OTHERS)
    metrics = RUN.replace('"mmp@5", "hit@1"', '"map", "hit@1"')
    (folder / "auto.toml").write_text(metrics + 'index = { kind = "auto", ms = 1e9 }\n')
    done = permafrost("run", "run.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "first.jsonl").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_scores_through_an_index_and_after_post_processing_are_rows_of_their_own(folder: Path) -> None:
    done = permafrost("score", "others.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    heads = [f"{head}{label}" for head in ("raw", "small") for label in LABELS]
    assert list(dict.fromkeys(line["head"] for line in lines)) == heads
    plain = [json.loads(line) for line in (folder / "first.jsonl").read_text().splitlines()]
    assert [line for line in lines if line["head"] in ("raw", "small")] == plain
    whole = [line | {"head": line["head"].removesuffix(" (ivf_flat)")} for line in lines if "ivf" in line["head"]]
    assert whole == plain  # every list is visited: nothing is lost
    assert len(list((folder / "artifacts/indexes").rglob("gallery.json"))) == 2
    again = permafrost("score", "others.toml", "--json", cwd=folder)
    assert again.stdout == done.stdout


@pytest.mark.slow
def test_an_index_by_budgets_says_what_was_tried(folder: Path) -> None:
    done = permafrost("score", "auto.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"bytes a row +ms a query +hit@1 ", done.stderr)  # the first metric that an index can lose
    assert "chosen: exact, and within the budgets" in done.stderr
    heads = dict.fromkeys(json.loads(line)["head"] for line in done.stdout.splitlines())
    assert list(heads) == ["raw", "raw (auto: flat)", "small", "small (auto: flat)"]
    image = sorted((folder / "images").rglob("*.png"))[0]
    result = permafrost("search", "auto.toml", str(image), "--all", "-k", "1", "--json", cwd=folder)
    assert json.loads(result.stdout)["uri"] == str(image.relative_to(folder))
    assert "chosen" in result.stderr
    other = permafrost("search", "others.toml", str(image), "--all", "-k", "2", "--json", cwd=folder)
    assert json.loads(other.stdout.splitlines()[0])["uri"] == str(image.relative_to(folder))


@pytest.mark.slow
def test_scores_and_search_through_a_database(folder: Path) -> None:
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
    (folder / "database.toml").write_text(RUN + 'index = { kind = "milvus", uri = "index.db" }\n')
    done = permafrost("score", "database.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    plain = [json.loads(line) for line in (folder / "first.jsonl").read_text().splitlines()]
    assert [
        line | {"head": line["head"].removesuffix(" (milvus)")} for line in lines if "milvus" in line["head"]
    ] == plain
    image = sorted((folder / "images").rglob("*.png"))[0]
    where = ("--where", "label=class 3")
    done = permafrost("search", "database.toml", str(image), "--all", "-k", "2", "--json", *where, cwd=folder)
    assert done.returncode == 0, done.stderr
    exact = permafrost("search", "run.toml", str(image), "--all", "-k", "2", "--json", *where, cwd=folder)
    keys = [[json.loads(line)["uri"] for line in each.stdout.splitlines()] for each in (done, exact)]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 2
    bundle = permafrost("export", "database.toml", "-o", "bundle", cwd=folder)
    assert bundle.returncode != 0
    assert "a bundle opens without a server" in bundle.stderr


def test_a_run_file_names_an_index_and_post_processing() -> None:
    text = RUN + 'index = { kind = "scalar", stored = "int4", refine = { candidates = 8 } }\n'
    text += 'rerank = [{ kind = "query_expansion", n = 5 }, { kind = "k_reciprocal", original = 0.5 }]\n'
    retrieval = parse_config(text).retrieval
    assert isinstance(retrieval.index, ScalarIndexConfig)
    assert retrieval.index.refine is not None
    assert (retrieval.index.stored, retrieval.index.refine.candidates) == ("int4", 8)
    assert retrieval.rerank == (QueryExpansionConfig(n=5), KReciprocalConfig(original=0.5))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('index = { kind = "ivf" }', r"retrieval\.index: kind must be one of .*'ivf_flat'.*, got 'ivf'"),
        (
            'index = { kind = "ivf_pq", byte = 3 }',
            r"retrieval\.index\.byte: unknown key for kind = 'ivf_pq'; did you mean",
        ),
        ('rerank = [{ kind = "whitening", power = 2 }]', r"retrieval\.rerank\[0\].*: power is how much is whitened"),
    ],
)
def test_what_the_run_file_cannot_say_is_refused_by_its_path(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(f"{RUN}{line}\n")
