"""``permafrost encode``: a folder becomes a table of vectors, the same one however often the run was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cache import digest_bytes
from cache.errors import StoreError
from pipeline.bundle import Bundle
from pipeline.encoded_table import Written, encode_folder
from pipeline.encoder import Encoder
from stages.extraction import Embedder, PcaBasis, PcaConfig, load_backbone
from tests.pictures import draw, draw_folder
from tests.typed import PCA_RUN, ROOT, permafrost

STARTED = """
import sys
from pathlib import Path
from pipeline.bundle import Bundle
from pipeline.encoder import Encoder
from pipeline.encoded_table import encode_folder
bundle = Bundle.open("bundle")
encode_folder(
    Encoder(bundle.embedder(), batch_size=1), bundle.embeddings, Path("photos"), Path(sys.argv[1]),
    on_progress=lambda done, total, remark: print(done, flush=True),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, and 100 photos of which two are none."""
    folder = tmp_path_factory.mktemp("shop")
    draw_folder(folder / "images", {f"class {number}": 5 for number in range(10)})
    (folder / "run.toml").write_text(PCA_RUN)
    assert permafrost("run", "run.toml", cwd=folder).returncode == 0
    assert permafrost("export", "run.toml", "-o", "bundle", "-q", cwd=folder).returncode == 0
    for number in range(98):
        draw(folder / f"photos/{number % 3}/{number}.png", number, (9, 7))
    (folder / "photos/empty.jpg").touch()
    (folder / "photos/1/text.jpg").write_text("no image")
    return folder


def encoded(folder: Path, output: Path, **options: object) -> Written:
    bundle = Bundle.open(folder / "bundle")
    encoder = Encoder(bundle.embedder(), batch_size=1)  # so that a part has 32 images
    return encode_folder(encoder, bundle.embeddings, folder / "photos", output, **options)  # type: ignore[arg-type]


def test_the_table_has_a_row_for_each_image_with_its_vector_or_the_reason(folder: Path, tmp_path: Path) -> None:
    done = permafrost("encode", "bundle", "photos", "-o", str(tmp_path / "v.parquet"), "--json", cwd=folder)
    assert done.returncode == 1
    assert {"images": 100, "computed": 100, "failed": 2}.items() <= json.loads(done.stdout).items()
    assert "failed: 1/text.jpg: not an image that Pillow can read" in done.stderr
    assert "more than --max-failures allows" in done.stderr
    rows = pq.read_table(tmp_path / "v.parquet").to_pylist()
    photos = sorted(
        (path for path in (folder / "photos").rglob("*.*")), key=lambda path: path.relative_to(folder).parts
    )
    assert [row["key"] for row in rows] == [path.relative_to(folder / "photos").as_posix() for path in photos]
    assert [row["key"] for row in rows if row["vector"] is None] == ["1/text.jpg", "empty.jpg"]
    vectors = Encoder.load(folder / "bundle").encode(folder / "photos").vectors
    for row, vector in zip(rows, vectors, strict=True):
        assert (row["error"] is None) == (row["vector"] is not None)
        if row["vector"] is not None:
            np.testing.assert_array_equal(np.float32(row["vector"]), vector)
    again = permafrost(
        "encode", "bundle", "photos", "-o", str(tmp_path / "v.parquet"), "--max-failures", "0.5", cwd=folder
    )
    assert again.returncode == 0
    assert again.stdout.endswith("100 images, 0 encoded now, 2 failed\n")


@pytest.mark.parametrize("stop", [1, 33, 70, 100])
def test_a_run_that_was_stopped_goes_on_and_the_file_is_the_same(stop: int, folder: Path, tmp_path: Path) -> None:
    def halt(done: int, total: int, remark: str) -> None:
        if done >= stop:
            raise KeyboardInterrupt

    whole = encoded(folder, tmp_path / "whole.parquet")
    with pytest.raises(KeyboardInterrupt):
        encoded(folder, tmp_path / "v.parquet", on_progress=halt)
    assert not (tmp_path / "v.parquet").exists()
    rest = encoded(folder, tmp_path / "v.parquet")
    assert rest.computed == 100 - (stop - 1) // 32 * 32
    assert rest.failed == whole.failed
    assert (tmp_path / "v.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.parquet", "whole.parquet"]


@pytest.mark.slow
def test_killed_at_any_instant_it_goes_on_and_the_file_is_the_same(folder: Path, tmp_path: Path) -> None:
    encoded(folder, tmp_path / "whole.parquet")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    rng = np.random.default_rng(5)
    for stop in (1, 40, 64):
        command = [sys.executable, "-c", STARTED, str(tmp_path / "v.parquet")]
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= stop:
                    break
            time.sleep(float(rng.uniform(0, 0.02)))
            process.send_signal(signal.SIGKILL)
    assert encoded(folder, tmp_path / "v.parquet").computed < 100
    assert (tmp_path / "v.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_damaged_part_is_computed_again_and_a_changed_file_makes_it_begin_anew(folder: Path, tmp_path: Path) -> None:
    def halt(done: int, total: int, remark: str) -> None:
        if done > 64:
            raise KeyboardInterrupt

    notes: list[str] = []
    for damage in ("part", "photo"):
        with pytest.raises(KeyboardInterrupt):
            encoded(folder, tmp_path / f"{damage}.parquet", on_progress=halt)
        if damage == "part":
            part = tmp_path / "part.parquet.parts/1.parquet"
            part.write_bytes(part.read_bytes()[:-9] + b"otherbyte")
        else:
            draw(folder / "photos/0/0.png", 500, (9, 7))
        computed = encoded(folder, tmp_path / f"{damage}.parquet", on_note=notes.append).computed
        assert computed == (68 if damage == "part" else 100)
    assert [note.endswith("all is encoded anew") for note in notes] == [True]


def test_another_image_with_the_size_and_the_time_of_the_old_one_is_seen(tmp_path: Path) -> None:
    basis = PcaBasis(np.zeros(12, np.float32), np.eye(12, dtype=np.float32)[:2])
    encoder = Encoder(Embedder([load_backbone(PcaConfig(dim=2, size=2), basis=basis)]))
    photo, other, table = tmp_path / "photos/a.bmp", tmp_path / "b.bmp", tmp_path / "v.parquet"
    photo.parent.mkdir()
    for path, colour in ((photo, (255, 0, 0)), (other, (0, 255, 0))):
        Image.new("RGB", (8, 8), colour).save(path)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    assert encode_folder(encoder, "E", photo.parent, table).computed == 1
    assert encode_folder(encoder, "E", photo.parent, table).computed == 0
    other.replace(photo)  # as rsync -t and cp -p do
    with pytest.raises(StoreError, match="not of these images as they are now"):
        encode_folder(encoder, "E", photo.parent, table)
    table.unlink()
    encode_folder(encoder, "E", photo.parent, table)
    (row,) = pq.read_table(table).to_pylist()
    assert row["digest"] == digest_bytes(photo.read_bytes())


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_file_is_read_once_it_can_no_longer_be_rewritten_at_the_same_time(
    rewritten: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written again between the look at it and its reading, within a tick: what is read is the new."""
    basis = PcaBasis(np.zeros(12, np.float32), np.eye(12, dtype=np.float32)[:2])
    encoder = Encoder(Embedder([load_backbone(PcaConfig(dim=2, size=2), basis=basis)]))
    photo = tmp_path / "photos/a.bmp"
    draw(photo, 1, (8, 8))

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if rewritten:
            draw(photo, 2, (8, 8))

    waited: list[float] = []
    monkeypatch.setattr("cache.atomic.time.sleep", sleep)
    os.utime(photo)
    encode_folder(encoder, "E", photo.parent, tmp_path / "v.parquet")
    (row,) = pq.read_table(tmp_path / "v.parquet").to_pylist()
    assert len(waited) == 1
    assert row["digest"] == digest_bytes(photo.read_bytes())


def test_another_file_of_that_name_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "v.parquet").write_text("mine")
    with pytest.raises(StoreError, match="Delete it, or name another file"):
        encoded(folder, tmp_path / "v.parquet")
    assert (tmp_path / "v.parquet").read_text() == "mine"
