"""A bundle that changes while it is served: another snapshot is taken, a bad one refused, and the old one serves on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI

from cache.errors import MissingRowsError
from pipeline.bundle import Bundle, read_snapshot
from pipeline.bundle.export import export_bundle
from pipeline.bundle.snapshots import make_current, write_snapshot
from pipeline.config import parse_config
from pipeline.dataset import Run, run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.scores import score_run
from pipeline.service.app import create_app
from pipeline.service.snapshots import Snapshots, gallery_of_run, open_snapshots
from pipeline.vectors import find_vectors
from stages.extraction.backbones.frozen import Network
from tests.pictures import draw_folder
from tests.service.serving import ask

NETWORK = '[[backbones]]\nkind = "timm"\nname = "test_resnet"\nweights = "random"\npreprocess = { size = 64 }\n'
HEADS = '[[heads]]\nname = "lda"\nkind = "lda"\ndim = 4\n[[heads]]\nname = "pca"\nkind = "pca"\ndim = 4\n'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    draw_folder(folder / "images", {f"class {number}": 4 for number in range(12)})
    dataset = f'[dataset]\nkind = "folder"\npath = "{folder}/images"\nqueries_per_class = 2\n'
    run = run_of(parse_config(f'artifacts = "{folder}/artifacts"\n{dataset}{NETWORK}{HEADS}'), Display(quiet=True))
    extract_features(run, Hardware())
    vectors = find_vectors(run, train=True)
    export_bundle(run, vectors[1], folder / "bundle")
    return run


@pytest.fixture
def bundle(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.artifacts.parent / "bundle", tmp_path / "bundle"))


def opened(bundle: Path, events: list[str]) -> tuple[Snapshots, FastAPI]:
    """What is served of ``bundle``, looked at by hand."""
    snapshots = open_snapshots(bundle, on_change=events.append)
    snapshots.close()
    return snapshots, create_app(snapshots)


def write_smaller(bundle: Path, number: int) -> None:
    """A snapshot without the first image of the current one."""
    now = read_snapshot(Bundle.open(bundle))
    rows = now.rows.slice(1)
    index = now.index.without([now.rows["key"][0].as_py()])
    write_snapshot(bundle, replace(now, number=number, rows=rows, vectors=np.asarray(now.vectors[1:]), index=index))


def images(app: FastAPI) -> int:
    return int(ask(app, "GET", "/gallery").json()["images"])


def test_another_snapshot_is_served_and_the_networks_are_not_loaded_again(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    snapshots, app = opened(bundle, events)
    before = images(app)
    write_smaller(bundle, 2)
    snapshots.look()
    assert (images(app), events) == (before, [])
    embedder = snapshots.current.heads[0].searcher.embedder
    make_current(bundle, 2)
    snapshots.look()
    assert (images(app), events) == (before - 1, ["opened"])
    assert snapshots.current.heads[0].searcher.embedder is embedder
    assert ask(app, "GET", "/readyz").json()["snapshot"].endswith("-2")
    app.state.close()


def cut(bundle: Path) -> None:
    path = bundle / "snapshots/2/vectors.npy"
    path.write_bytes(path.read_bytes()[:-9])


def flip(bundle: Path) -> None:
    path = bundle / "snapshots/2/rows.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def half_written(bundle: Path) -> None:
    (bundle / "snapshots/2/snapshot.json").unlink()


def other_embeddings(bundle: Path) -> None:
    now = read_snapshot(Bundle.open(bundle), 2)
    shutil.rmtree(bundle / "snapshots/2")
    index = type(now.index).build(np.asarray(now.vectors), now.index.keys, "0" * 64)
    write_snapshot(bundle, replace(now, index=index))


def newer_format(bundle: Path) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))


def not_json(bundle: Path) -> None:
    (bundle / "current.json").write_text('{"snapshot": ')


def deleted(bundle: Path) -> None:
    shutil.rmtree(bundle)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (cut, "vectors.npy is not as it was written"),
        (flip, "rows.parquet is not as it was written"),
        (half_written, "is no snapshot"),
        (other_embeddings, "embeddings: 0000000000000000 here"),
        (newer_format, "is of format 99"),
        (not_json, "current.json is not as it was written"),
        (deleted, "holds no bundle"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_what_cannot_be_opened_is_refused_and_the_old_snapshot_answers_on(
    bundle: Path, harm: Callable[[Path], None], why: str
) -> None:
    events: list[str] = []
    snapshots, app = opened(bundle, events)
    before = ask(app, "GET", "/gallery").json()
    key = before["examples"][0]
    whole = ask(app, "GET", "/search", params={"key": key}).json()
    write_smaller(bundle, 2)
    make_current(bundle, 2)
    harm(bundle)
    snapshots.look()
    assert events == ["refused"]
    ready = ask(app, "GET", "/readyz")
    assert (ready.status_code, ready.json()["snapshot"]) == (200, before["snapshot"])
    assert why in ready.json()["refused"]
    assert ask(app, "GET", "/search", params={"key": key}).json() == whole
    assert str(bundle.parent) not in ask(app, "GET", "/gallery").text
    app.state.close()


def test_a_refused_snapshot_is_tried_again_and_taken_once_it_is_whole(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    events: list[str] = []
    snapshots, app = opened(bundle, events)
    make_current(bundle, 2)  # whose files come later
    for seconds in (0.0, 0.5, 1.5, 1.6, 3.6):
        clock[0] = seconds
        snapshots.look()
    assert events == ["refused"] * 3  # at 0, after 1 and after 2 more
    make_current(bundle, 1)
    write_smaller(bundle, 2)
    make_current(bundle, 2)
    snapshots.look()
    assert (events[-1], snapshots.refused) == ("opened", None)
    app.state.close()


def test_a_folder_that_is_no_bundle_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(MissingRowsError, match="holds no bundle"):
        open_snapshots(tmp_path, on_change=print)


def test_a_run_is_served_with_every_head_best_first_and_one_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    score_run(run, find_vectors(run))
    gallery = gallery_of_run(run)
    scores = [float(head.score.split()[-1]) for head in gallery.heads]
    assert scores == sorted(scores, reverse=True)
    assert {head.head for head in gallery.heads} == {"raw", "lda", "pca"}
    app = create_app(Snapshots(lambda: gallery, on_change=print))
    forwards: Counter[int] = Counter()
    original = Network.__call__

    def counting(network: Network, batch: object) -> object:
        forwards[id(network)] += 1
        return original(network, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "__call__", counting)
    uri = run.records.split("gallery").uris[0]
    answer = ask(app, "POST", "/search", params={"head": "*", "k": 1}, content=Path(uri).read_bytes())
    assert [result["matches"][0]["similarity"] for result in answer.json()["results"]] == pytest.approx(
        [1, 1, 1], abs=1e-4
    )
    assert sum(forwards.values()) == 1
    app.state.close()
