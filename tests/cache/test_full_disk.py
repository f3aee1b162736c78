"""A disk that fills up in the middle of a chunk: a limit on the size of files makes writing fail for real."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cache import DigestCache, digest_bytes
from tests.pictures import draw_folder
from tests.toys.stores import contents
from tests.typed import ROOT, RUN


def limited(code: str | list[str], most: int | None, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in another process where no file can grow past ``most`` bytes."""

    def limit() -> None:
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *(["-c", code] if isinstance(code, str) else ["-m", "pipeline", *code])]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, preexec_fn=limit
    )


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing_and_the_same_command_goes_on(tmp_path: Path) -> None:
    control, folder = tmp_path / "control", tmp_path / "full"
    for place in (control, folder):
        for count in (3, 6):  # more images come: the second extraction lets the chunk grow
            draw_folder(place / "images", {f"class {number}": count for number in range(12)})
            (place / "run.toml").write_text(RUN)
            if place is control or count == 3:
                assert limited(["extract", "run.toml"], None, place).returncode == 0
    (store,) = (folder / "artifacts/features").glob("test_resnet-????????")
    chunk = store / "features/c/0/0"
    before = contents(store)

    failed = limited(["extract", "run.toml"], chunk.stat().st_size // 2, folder)
    assert failed.returncode == 1
    error = failed.stderr[failed.stderr.index("error:") :]
    assert "features/c/0/0 cannot be written: File too large. Nothing is half done" in error
    assert "the same command goes on from there. Make room first" in error
    assert "Traceback" not in error
    after = contents(store)
    assert after.keys() - before.keys() == {"plan.parquet"}
    assert after["features/c/0/0"] == before["features/c/0/0"]
    verified = limited(["verify", "run.toml"], None, folder)
    assert (verified.returncode, "every checksum and row is right" in verified.stdout) == (0, True)

    assert limited(["extract", "run.toml"], None, folder).returncode == 0
    (wanted,) = (control / "artifacts/features").glob("test_resnet-????????")
    assert contents(store) == contents(wanted)
    assert contents(store).keys() == before.keys()


_FILLING = """
from pathlib import Path
from tests.toys.stores import fill, names, open_store
store = open_store(Path("stores"), chunk_rows=1000)
fill(store, names(*range(1000)), frozenset(names(*range(500))))
"""


def test_rows_that_cannot_be_written_take_their_data_with_them(tmp_path: Path) -> None:
    data = 1000 * 6 * 2 + 4  # the plan of so many images takes three times as much, their rows a little more
    failed = limited(_FILLING, 40_000, tmp_path)
    assert "rows/0.parquet cannot be written: File too large" in failed.stderr
    (store,) = (tmp_path / "stores").glob("toy-????????")
    assert not list(store.glob("features/c/*"))
    assert not list(store.glob("rows/*"))
    assert limited(_FILLING, None, tmp_path).returncode == 0
    whole = contents(store)
    assert len(whole["features/c/0/0"]) == data
    assert len(whole["rows/0.parquet"]) > 40_000


def test_digests_that_cannot_be_remembered_are_still_right(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    code = "from cache import DigestCache; print(DigestCache('d.sqlite').digests(['a.jpg'])[0].digest.hex())"
    done = limited(code, 100, tmp_path)
    assert done.stdout.strip() == digest_bytes(b"a").hex()
    assert DigestCache(tmp_path / "d.sqlite").digests([str(tmp_path / "a.jpg")])[0].digest == digest_bytes(b"a")
