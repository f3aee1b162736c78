"""A bundle: what its searcher answers, away from the run that it was exported from, and what it refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cache.errors import DamagedStoreError, MissingRowsError, StaleStoreError, StoreError
from pipeline.bundle import Bundle, read_snapshot
from pipeline.bundle.export import export_bundle
from pipeline.config import parse_config
from pipeline.dataset import Run, run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.scores import score_run
from pipeline.searcher import Searcher
from pipeline.vectors import Vectors, find_vectors
from tests.pictures import draw, draw_folder

NETWORK = '[[backbones]]\nkind = "timm"\nname = "test_resnet"\nweights = "random"\n'
SMALL = "preprocess = { size = 64 }\n"
PCA = '[[backbones]]\nkind = "pca"\ndim = 8\nsize = 16\n'
LDA = '[[heads]]\nname = "lda"\nkind = "lda"\ndim = 4\n'
RUNS = {
    "a network": NETWORK + SMALL + LDA,
    "two blocks and pca fused, with sizes": f"{NETWORK}blocks = [-2, -1]\n{SMALL}{PCA}{LDA}"
    'backbones = "all"\nsizes = true\n',
    "mirror images averaged": NETWORK + 'preprocess = { size = 64, views = { kind = "flip", average = true } }\n' + LDA,
    "another image size, of a transformer": '[[backbones]]\nkind = "timm"\nname = "test_vit"\nweights = "random"\n'
    "image_size = 96\n" + LDA,
    "an index of codes": NETWORK + SMALL + LDA + '[retrieval]\nindex = { kind = "scalar" }\n',
    "trained": PCA + '[[heads]]\nname = "small"\ndim = 4\nloss = { kind = "cosface" }\ntraining = { epochs = 2 }\n',
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("images"), {f"class {number}": 6 for number in range(10)})


def finished(text: str, images: Path, folder: Path) -> tuple[Run, list[Vectors]]:
    dataset = f'[dataset]\nkind = "folder"\npath = "{images}"\nqueries_per_class = 2\n'
    run = run_of(parse_config(f'artifacts = "{folder}/artifacts"\n{dataset}{text}'), Display(quiet=True))
    extract_features(run, Hardware())
    return run, find_vectors(run, train=True)


@pytest.mark.parametrize("name", RUNS)
def test_it_answers_as_the_run_does_when_the_run_is_gone(name: str, images: Path, tmp_path: Path) -> None:
    run, vectors = finished(RUNS[name], images, tmp_path)
    wanted = [path.read_bytes() for path in sorted(images.rglob("*.png"))[:7]]
    answers, embedded = [], []
    for number, entry in enumerate(vectors):
        export_bundle(run, entry, tmp_path / f"bundle {number}")
        answers.append(Searcher.of_run(run, entry).search(wanted, exact=True))
        gallery = run.records.split("gallery")
        rows = entry.store.read(gallery.digests).astype(np.float64)
        embedded.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    shutil.rmtree(tmp_path / "artifacts")
    for number, (answer, rows) in enumerate(zip(answers, embedded, strict=True)):
        moved = (tmp_path / f"bundle {number}").rename(tmp_path / f"moved {number}")
        assert Searcher.open(moved).search(wanted, exact=True) == answer
        np.testing.assert_allclose(read_snapshot(Bundle.open(moved)).vectors, rows, atol=1e-6)


@pytest.fixture(scope="module")
def exported(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Vectors, Path]:
    folder = tmp_path_factory.mktemp("run")
    run, vectors = finished(PCA + LDA, images, folder)
    export_bundle(run, vectors[-1], folder / "bundle")
    return run, vectors[-1], folder / "bundle"


def test_its_rows_are_the_gallery_of_the_run(exported: tuple[Run, Vectors, Path]) -> None:
    run, _, path = exported
    rows = pq.read_table(path / "snapshots/1/rows.parquet")
    gallery = run.records.split("gallery")
    assert rows["id"].to_pylist() == list(range(len(gallery)))
    for name in ("key", "label", "uri", "digest", "domain"):
        assert rows[name].to_pylist() == gallery.table[name].to_pylist()
    vectors = np.load(path / "snapshots/1/vectors.npy")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert not [file for file in path.rglob("*") if file.suffix in (".pkl", ".pt", ".partial", ".lock")]


def test_an_image_is_embedded_to_the_bits_of_the_run(exported: tuple[Run, Vectors, Path], images: Path) -> None:
    run, vectors, path = exported
    contents = [image.read_bytes() for image in sorted(images.rglob("*.png"))]
    embedder = Searcher.of_run(run, vectors).embedder
    np.testing.assert_array_equal(
        Bundle.open(path).embedder().embed(contents).vectors, embedder.embed(contents).vectors
    )


@pytest.mark.parametrize(
    ("name", "damage"),
    [("weights/0-pca.safetensors", "cut"), ("head/head.safetensors", "flipped"), ("snapshots/1/vectors.npy", "gone")],
)
def test_a_damaged_file_is_named(name: str, damage: str, exported: tuple[Run, Vectors, Path], tmp_path: Path) -> None:
    path = shutil.copytree(exported[2], tmp_path / "bundle")
    content = bytearray((path / name).read_bytes())
    content[-3] ^= 1
    if damage == "gone":
        (path / name).unlink()
    else:
        (path / name).write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(DamagedStoreError, match=name):
        Searcher.open(path)


@pytest.mark.parametrize("name", ["bundle.json", "current.json", "snapshots/1/snapshot.json"])
def test_a_newer_format_is_refused_and_a_changed_description_is_damage(
    name: str, exported: tuple[Run, Vectors, Path], tmp_path: Path
) -> None:
    path = shutil.copytree(exported[2], tmp_path / "bundle")
    described = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(described | {"version": described["version"] + 1}))
    with pytest.raises(StoreError, match=r"reads up to 1\. Install a newer one"):
        Searcher.open(path)
    (path / name).write_text(json.dumps(described | {"embeddings": "other", "snapshot": 2}))
    with pytest.raises(DamagedStoreError, match="not as it was written: wrong crc32c"):
        Searcher.open(path)


def test_a_snapshot_of_other_embeddings_is_refused(
    exported: tuple[Run, Vectors, Path], images: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(exported[2], tmp_path / "bundle")
    run, _, _ = exported
    other = export_bundle(run, find_vectors(run)[0], tmp_path / "other")
    shutil.rmtree(path / "snapshots")
    shutil.copytree(other.path / "snapshots", path / "snapshots")
    with pytest.raises(StaleStoreError, match="embeddings: "):
        Searcher.open(path)


def test_a_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingRowsError, match="holds no bundle"):
        Bundle.open(tmp_path)


def test_nothing_is_written_over(exported: tuple[Run, Vectors, Path], tmp_path: Path) -> None:
    run, vectors, path = exported
    with pytest.raises(StoreError, match=r"these embeddings already\. `permafrost add"):
        export_bundle(run, vectors, path)
    with pytest.raises(StoreError, match=r"other embeddings already\. Name another"):
        export_bundle(run, find_vectors(run)[0], path)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="not an empty folder"):
        export_bundle(run, vectors, tmp_path / "letters")
    assert [file.name for file in tmp_path.rglob("*")] == ["letters", "mine.txt"]


def test_what_a_killed_export_left_is_not_in_the_next_one(exported: tuple[Run, Vectors, Path], tmp_path: Path) -> None:
    run, vectors, path = exported
    (tmp_path / ".bundle.partial/snapshots/1").mkdir(parents=True)
    (tmp_path / ".bundle.partial/snapshots/1/vectors.npy").write_bytes(b"half")
    (tmp_path / ".bundle.partial/other").write_text("half")
    export_bundle(run, vectors, tmp_path / "bundle")
    folders = (tmp_path / "bundle", path)
    one, other = ({str(file.relative_to(at)): file.read_bytes() for file in at.rglob("*.*")} for at in folders)
    assert one == other
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bundle"]


def test_the_lines_of_the_card_search_it_without_permafrost(exported: tuple[Run, Vectors, Path]) -> None:
    _, _, path = exported
    (lines,) = re.findall(r"^```python\n(.*?)^```$", (path / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(lines.splitlines()) <= 10
    typed = [sys.executable, "-I", "-c", f"{lines}\nimport sys\nassert 'pipeline' not in sys.modules"]
    printed = subprocess.run(typed, cwd=path, capture_output=True, text=True, check=True).stdout
    vectors = np.load(path / "snapshots/1/vectors.npy").astype(np.float64)
    similarity = [sum(a * b for a, b in zip(vectors[0], row, strict=True)) for row in vectors]
    rows = pq.read_table(path / "snapshots/1/rows.parquet").to_pylist()
    best = sorted(range(len(rows)), key=lambda row: -similarity[row])[:5]
    assert printed.splitlines() == [f"{similarity[at]:.3f} {rows[at]['key']} {rows[at]['label']}" for at in best]


def test_the_card_has_the_scores_of_the_run_and_what_it_gets_wrong(exported: tuple[Run, Vectors, Path]) -> None:
    run, vectors, path = exported
    rows, values = score_run(run, [vectors])
    card = (path / "README.md").read_text()
    for row in rows:
        interval = f"{row.low:.3f} to {row.high:.3f}"
        assert f"| {row.metric} | {row.domain} | {row.value:.3f} | {interval} | {row.queries} | {row.gallery} |" in card
    first = values.of(vectors.backbone, vectors.head)[0]
    metric = rows[0].metric
    of_class: dict[str, list[float]] = {}
    for name, value in zip(first.query_classes, first.per_query[metric], strict=True):
        of_class.setdefault(str(name), []).append(float(value))
    worst = min(of_class, key=lambda name: (sum(of_class[name]) / len(of_class[name]), name))
    listed = card.split(f"The classes of the lowest {metric}:")[1].splitlines()[4]
    assert listed == f"| {worst} | {sum(of_class[worst]) / len(of_class[worst]):.3f} | {len(of_class[worst])} |"
    for fingerprint in (vectors.store.fingerprint, vectors.features.fingerprint):
        assert fingerprint in card


@pytest.mark.parametrize(("value", "cell"), [(0.0, "0.0000 (0.0000 to 0.0300)"), (0.02, "0.0200 (0.0000 to 0.0300)")])
def test_a_rate_of_zero_that_was_measured_stands_on_the_card(
    value: float, cell: str, exported: tuple[Run, Vectors, Path], tmp_path: Path
) -> None:
    run, vectors, _ = exported
    measured = {"all": {"fmr": {"value": value, "low": 0.0, "high": 0.03}}}
    decisions = [{"kind": "fmr", "wanted": 0.01, "threshold": 0.5, "test": measured}]
    bundle = export_bundle(run, vectors, tmp_path / "bundle", decisions=decisions)
    assert f"| fmr | 0.01 | 0.5000 | {cell} |" in (bundle.path / "README.md").read_text()


def test_images_without_labels_have_a_card_too(images: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    for number in range(12):
        draw(flat / f"{number}.png", number)
    run, vectors = finished(NETWORK + SMALL, flat, tmp_path)
    bundle = export_bundle(run, vectors[0], tmp_path / "bundle", everything=True, thumbnails=True)
    assert "The images have no labels" in (bundle.path / "README.md").read_text()
    for digest, uri in zip(run.records.digests, run.records.uris, strict=True):
        picture = Image.open(io.BytesIO(bundle.thumbnail(digest) or b""))
        assert picture.format == "JPEG"
        with Image.open(uri) as image:
            assert picture.size == image.size  # smaller than a thumbnail may be
    assert bundle.thumbnail(b"another image") is None


def test_weights_that_are_named_are_loaded_by_name(images: Path, tmp_path: Path) -> None:
    run, vectors = finished(NETWORK + SMALL, images, tmp_path)
    bundle = export_bundle(run, vectors[0], tmp_path / "bundle", weights=False)
    assert not (bundle.path / "weights").exists()
    content = [path.read_bytes() for path in sorted(images.rglob("*.png"))[:3]]
    given = Searcher.of_run(run, vectors[0]).search(content)
    assert Searcher.open(bundle.path).search(content) == given


def test_the_folder_one_stands_in_is_refused(
    exported: tuple[Run, Vectors, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="the folder you stand in"):
        export_bundle(*exported[:2], Path())
    assert list(tmp_path.iterdir()) == []
