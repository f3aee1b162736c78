"""Features that were computed anew after damage: what was made of the old numbers is outdated, and made again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache import FeatureStore, StoreWriter
from cache.rows import RowOutcome
from cache.writer import Chunk
from pipeline.dataset import open_run
from pipeline.vectors import find_vectors
from stages.training import embed
from tests.pictures import draw_folder
from tests.toys.stores import contents
from tests.typed import RUN, permafrost


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    draw_folder(folder / "images", {f"class {number}": 6 for number in range(12)})
    (folder / "run.toml").write_text(RUN)
    assert permafrost("run", "run.toml", "-q", cwd=folder).returncode == 0
    return folder


def test_a_mended_chunk_makes_what_follows_from_it_anew(folder: Path) -> None:
    assert permafrost("verify", "run.toml", cwd=folder).returncode == 0
    before = permafrost("score", "run.toml", "--json", "-q", cwd=folder).stdout
    (path,) = folder.glob("artifacts/features/test_resnet-????????")
    store = FeatureStore.at(path)
    digests = store.digests()
    features = np.random.default_rng(0).normal(size=(len(digests), store.dim))
    with StoreWriter(store) as writer:
        writer.remove(0)
        writer.commit(Chunk(0, tuple(digests)), features, [RowOutcome()] * len(digests), store.provenance(0))
    verified = permafrost("verify", "run.toml", cwd=folder)
    assert verified.returncode == 1
    assert f"{len(digests)} rows are of features that have been computed anew since" in verified.stdout
    refused = permafrost("score", "run.toml", "-q", cwd=folder)
    assert refused.returncode == 1
    assert "small is not trained on test_resnet as the run file and the data are now" in refused.stderr
    stale = permafrost("compare", "run.toml:raw", "run.toml:raw", "-q", cwd=folder)
    assert (stale.returncode, "not trained" in stale.stderr) == (1, True)
    assert permafrost("train-heads", "run.toml", "-q", cwd=folder).returncode == 0
    stale = permafrost("compare", "run.toml:raw", "run.toml:raw", "-q", cwd=folder)
    assert (stale.returncode, "Score again" in stale.stderr) == (1, True)
    after = permafrost("score", "run.toml", "--json", "-q", cwd=folder).stdout
    lines = [[json.loads(line) for line in text.splitlines()] for text in (before, after)]
    assert {line["embeddings"] for line in lines[0]}.isdisjoint(line["embeddings"] for line in lines[1])
    assert [line["value"] for line in lines[0]] != [line["value"] for line in lines[1]]


def test_a_damaged_head_is_trained_again(folder: Path) -> None:
    paths = [*folder.glob("artifacts/heads/*/*/head.safetensors")]  # of the numbers before the mend and after it
    for path in paths:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = permafrost("score", "run.toml", "-q", cwd=folder)
    assert (refused.returncode, "`permafrost train-heads` trains it again" in refused.stderr) == (1, True)
    assert permafrost("train-heads", "run.toml", "-q", cwd=folder).returncode == 0
    assert permafrost("score", "run.toml", "-q", cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("artifacts/heads/*/*/head.safetensors", "train-heads` trains it again"),
        ("artifacts/scores/run.parquet", "Score again: `permafrost score`"),
        ("artifacts/features/known/*.json", "Delete it"),
        ("artifacts/embeddings/*/*/rows/0.parquet", "rows/0.parquet, and run `permafrost train-heads` again"),
    ],
)
def test_verify_names_a_damaged_file_and_how_to_mend_it(folder: Path, pattern: str, message: str) -> None:
    path = next(folder.glob(pattern))
    whole = path.read_bytes()
    place = len(whole) // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    verified = permafrost("verify", "run.toml", cwd=folder)
    path.write_bytes(whole)
    assert verified.returncode == 1
    output = verified.stdout + verified.stderr
    assert str(path.relative_to(folder)) in output
    assert message in output


def test_compact_removes_what_no_run_file_names_and_says_so_first(folder: Path) -> None:
    """Last: by now there are a head and embeddings of the numbers before the mend."""
    assert permafrost("search", "run.toml", "images/class 0/0.png", "-q", cwd=folder).returncode == 0
    before = contents(folder / "artifacts")
    named = {key for key in before if "/small-" not in key}
    old = {"scores/old.jsonl", "scores/old.png", "searchers/backbone/raw-0a1b2c3d/searcher.json"}
    (folder / "artifacts/searchers/backbone/raw-0a1b2c3d").mkdir(parents=True)  # as earlier versions left it
    for name in old:
        (folder / "artifacts" / name).write_bytes(b"0" * 2_000_000)
    listing = permafrost("compact", "run.toml", cwd=folder)
    assert listing.returncode == 0, listing.stderr
    assert "scores/old.jsonl: 2.0 MB would be removed, as no run file names it" in listing.stdout
    assert listing.stdout.count("would be removed") == 5
    listed = [line.split(": ")[0] for line in listing.stdout.splitlines()]
    assert sorted(set(listed)) == sorted(listed)
    assert contents(folder / "artifacts").keys() == before.keys() | old
    assert permafrost("compact", "run.toml", "--yes", cwd=folder).stdout.count(" removed, ") == 5
    after = contents(folder / "artifacts")
    assert named <= after.keys() < before.keys()
    assert permafrost("verify", "run.toml", cwd=folder).returncode == 0
    for command in (["train-heads", "run.toml"], ["score", "run.toml"]):
        done = permafrost(*command, cwd=folder)
        assert (done.returncode, "trained before" in done.stderr) == (0, command[0] == "train-heads")
    assert "0 rows would be dropped" in permafrost("compact", "run.toml", cwd=folder).stdout


def test_compact_removes_embeddings_by_other_weights_than_the_head_has(folder: Path) -> None:
    run = open_run(folder / "run.toml", quiet=True)
    vectors = find_vectors(run)[-1]
    assert vectors.trained is not None
    weights = {name: np.ones_like(array) for name, array in vectors.trained.weights.items()}
    path = run.storage.below(f"embeddings/{vectors.features.name}")
    stale = embed(replace(vectors.trained, weights=weights), vectors.features, path)  # as of another device
    assert permafrost("compact", "run.toml", cwd=folder).stdout.count("would be removed") == 1
    assert permafrost("compact", "run.toml", "--yes", cwd=folder).stdout.count(" removed, ") == 1
    assert not stale.path.exists()
    assert find_vectors(run)[-1].store.digests() == vectors.store.digests()


def test_a_dangling_link_is_named_and_stops_no_compaction(folder: Path) -> None:
    lines = [
        f"images/{path.relative_to(folder / 'images')},{path.parent.name}"
        for path in sorted((folder / "images").glob("*/*"))
    ]
    link = folder / "images/class 1/gone.png"
    link.symlink_to("nowhere.png")
    (folder / "table.csv").write_text("\n".join(["path,label", *lines, f"images/class 1/{link.name},class 1"]) + "\n")
    kind = 'kind = "folder"\npath = "images"\nqueries_per_class = 2'
    (folder / "table.toml").write_text(
        RUN.replace(kind, 'kind = "table"\npath = "table.csv"\nlabel = "label"\nmissing_images = "record"')
    )
    compacted = permafrost("compact", "table.toml", cwd=folder)
    assert compacted.returncode == 0, compacted.stderr
    assert "1 images of table.toml cannot be read now, the first of them images/class 1/gone.png" in compacted.stdout
    assert "0 rows would be dropped" in compacted.stdout
    image = folder / "images/class 2/0.png"
    image.rename(folder / "aside.png")  # was read before: its row stays
    assert "0 rows would be dropped" in permafrost("compact", "table.toml", cwd=folder).stdout
    (folder / "aside.png").rename(image)
    link.unlink()
