"""The command line as a person meets it: each test types a command into another process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cache import FeatureStore
from cache.errors import PermafrostError
from stages.records import read_records
from tests.interrupts import hear_interrupts
from tests.pictures import draw_folder
from tests.toys.stores import contents
from tests.typed import ROOT, RUN, finished, in_new_process, permafrost


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with its images, all three stages done."""
    return finished(tmp_path_factory.mktemp("run"), RUN)


def test_run_prints_one_flat_object_a_line(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert [(line["head"], line["metric"]) for line in lines] == [
        ("raw", "mmp@5"),
        ("raw", "hit@1"),
        ("small", "mmp@5"),
        ("small", "hit@1"),
    ]
    for line in lines:
        assert list(line) == [
            "backbone", "head", "domain", "metric", "value", "low", "high", "queries", "gallery", "embeddings",
            "floor", "ceiling",
        ]  # fmt: skip
        assert line["backbone"] == "test_resnet"
        assert line["domain"] == "all"
        assert line["low"] <= line["value"] <= line["high"]
        assert (line["queries"], line["gallery"]) == (10, 20)
        assert len(line["embeddings"]) == 64


def test_the_stages_one_by_one_give_what_run_gave(folder: Path) -> None:
    extracted = json.loads(permafrost("extract", "run.toml", "--json", cwd=folder).stdout)
    assert (extracted["computed"], extracted["present"], extracted["failed"]) == (0, 72, 0)
    trained = json.loads(permafrost("train-heads", "run.toml", "--json", cwd=folder).stdout)
    assert trained["head"] == "small"
    assert permafrost("score", "run.toml", "--json", cwd=folder).stdout == (folder / "scores.jsonl").read_text()
    assert (folder / "artifacts/scores/run.jsonl").read_text() == (folder / "scores.jsonl").read_text()
    assert (folder / "artifacts/scores/run.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_line_a_head_and_results_alone_are_on_stdout(folder: Path) -> None:
    done = permafrost("score", "run.toml", cwd=folder)
    header, raw, head, note, *bounds = done.stdout.splitlines()
    assert header.split() == ["backbone", "head", "mmp@5", "hit@1", "queries", "gallery"]
    assert raw.split()[:2] == ["test_resnet", "raw"]
    assert head.split()[:2] == ["test_resnet", "small"]
    assert "95 %" in note
    assert [line.split(":")[0] for line in bounds] == ["mmp@5", "hit@1"]
    assert "records: 72 records" in done.stderr
    assert permafrost("score", "run.toml", "--quiet", cwd=folder).stderr == ""


def test_reading_commands_write_no_features_and_two_at_once_succeed(folder: Path, tmp_path: Path) -> None:
    for name in ("images", "artifacts"):
        shutil.copytree(folder / name, tmp_path / name)
    (tmp_path / "run.toml").write_text(RUN)
    shutil.rmtree(tmp_path / "artifacts/embeddings")  # as after images were added: the head has to be applied
    shutil.rmtree(tmp_path / "artifacts/scores")
    before = contents(tmp_path / "artifacts")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", "score", "run.toml", "--json"]
    both = [subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    tables = [process.communicate(timeout=300)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    wanted = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    for lines in ([json.loads(line) for line in table.splitlines()] for table in tables):
        assert [line["value"] for line in lines] == pytest.approx([line["value"] for line in wanted], abs=1e-6)
        assert [line["embeddings"] for line in lines] == [line["embeddings"] for line in wanted]
    after = contents(tmp_path / "artifacts")
    assert {path: content for path, content in after.items() if not str(path).startswith(("scores", "digests"))} == {
        path: content for path, content in before.items() if not str(path).startswith("digests")
    }


def test_search_finds_an_image_of_the_gallery_first(folder: Path) -> None:
    inside = next(path for path in sorted((folder / "images").rglob("*.png")) if _in_gallery(folder, path))
    for head in ("raw", "small"):
        done = permafrost("search", "run.toml", str(inside), "--head", head, "-k", "3", "--json", cwd=folder)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["rank"] for line in lines] == [1, 2, 3]
        assert lines[0]["uri"] == str(inside.relative_to(folder))
        assert lines[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert len(list((folder / "artifacts/indexes").rglob("gallery.faiss"))) == 2
    trained = next(path for path in sorted((folder / "images").rglob("*.png")) if not _in_gallery(folder, path))
    for flags, result in (((), False), (("--all",), True)):
        done = permafrost("search", "run.toml", str(trained), "--head", "raw", "-k", "1", "--json", *flags, cwd=folder)
        assert (json.loads(done.stdout)["uri"] == str(trained.relative_to(folder))) == result
    wrong = permafrost("search", "run.toml", str(inside), "--head", "smal", cwd=folder)
    assert wrong.returncode == 2
    assert "it has raw, small" in wrong.stderr


def _in_gallery(folder: Path, path: Path) -> bool:
    return str(path.relative_to(folder / "images")) in read_records(folder / "images").split("gallery").keys


def test_verify_and_inspect_know_every_store(folder: Path) -> None:
    verified = permafrost("verify", "run.toml", "--json", cwd=folder)
    assert [json.loads(line)["problems"] for line in verified.stdout.splitlines()] == [[], []]
    store = next((folder / "artifacts/features").glob("test_resnet-????????"))
    inspected = json.loads(permafrost("inspect", str(store), "--json", cwd=folder).stdout)
    assert inspected["rows"] == {"ok": 72}
    assert inspected["identity"]["preprocess"]["size"] == 64
    assert "torch" in inspected["provenance"]["versions"]
    assert inspected["fingerprint"].startswith(store.name[-8:])
    assert "preprocess" in permafrost("inspect", "run.toml", cwd=folder).stdout


def test_verify_fails_on_a_flipped_bit(folder: Path, tmp_path: Path) -> None:
    store = next((folder / "artifacts/features").glob("test_resnet-????????"))
    copy = tmp_path / store.name
    subprocess.run(["cp", "-r", str(store), str(copy)], check=True)
    content = bytearray((copy / "features/c/0/0").read_bytes())
    content[100] ^= 4
    (copy / "features/c/0/0").write_bytes(content)
    done = permafrost("verify", str(copy), cwd=folder)
    assert done.returncode == 1
    assert "wrong crc32c" in done.stdout


def test_a_misspelt_key_is_named_with_its_path_and_status_2(folder: Path) -> None:
    (folder / "bad.toml").write_text(RUN.replace("dim = 8", "dims = 8"))
    done = permafrost("run", "bad.toml", cwd=folder)
    assert done.returncode == 2
    assert "heads[0].dims: unknown key for kind = 'linear'; did you mean dim?" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_status_2(folder: Path) -> None:
    for arguments in (["extarct", "run.toml"], ["extract"], ["extract", "run.toml", "--batch-size", "0"]):
        done = permafrost(*arguments, cwd=folder)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_a_changed_preprocessing_is_refused_with_both_values_until_extracted(folder: Path) -> None:
    (folder / "changed.toml").write_text(RUN.replace("size = 64", "size = 96"))
    done = permafrost("score", "changed.toml", cwd=folder)
    assert done.returncode == 1
    assert "preprocess.size: stored 64, wanted 96" in done.stderr
    assert "permafrost extract" in done.stderr


def test_a_head_that_is_not_trained_says_so(folder: Path) -> None:
    (folder / "untrained.toml").write_text(RUN.replace("dim = 8", "dim = 9"))
    done = permafrost("score", "untrained.toml", cwd=folder)
    assert done.returncode == 1
    assert "permafrost train-heads" in done.stderr


def test_too_many_failures_are_status_1_and_each_is_listed(folder: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(folder / "images"), str(tmp_path / "images")], check=True)
    (tmp_path / "images/class 3/0.png").write_bytes(b"not an image")
    (tmp_path / "run.toml").write_text(RUN)
    done = permafrost("run", "run.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert "class 3/0.png" in done.stderr
    assert "1 of 72 records failed" in done.stderr
    assert "small" in done.stdout  # the run went on to its table
    allowed = permafrost("run", "run.toml", "--max-failures", "0.05", cwd=tmp_path)
    assert allowed.returncode == 0, allowed.stderr


def test_a_traceback_comes_only_when_asked_for(folder: Path) -> None:
    assert "Traceback" not in permafrost("inspect", "nowhere", cwd=folder).stderr
    with pytest.raises(PermafrostError):  # which the interpreter prints with its traceback
        permafrost("inspect", "nowhere", "--debug", cwd=folder)


def test_a_plan_says_what_is_to_do_and_that_nothing_is(folder: Path, tmp_path: Path) -> None:
    planned = permafrost("plan", "run.toml", cwd=folder)
    assert "0 images to do" in planned.stdout
    assert "nothing to do: no image would be opened" in planned.stdout
    assert planned.stdout.endswith("small on test_resnet: there\n")
    shutil.copytree(folder / "images", tmp_path / "images")
    (tmp_path / "run.toml").write_text((folder / "run.toml").read_text())
    *lines, whole, head = [
        json.loads(line) for line in permafrost("plan", "run.toml", "--json", cwd=tmp_path).stdout.splitlines()
    ]
    images = len(list((tmp_path / "images").rglob("*.png")))
    assert [(line["images"], line["present"]) for line in lines] == [(images, 0)]
    assert whole["images"] == images
    assert whole["seconds"] > 0
    assert head == {"backbone": "features that are extracted first", "head": "small", "state": "to train"}
    assert not list(tmp_path.glob("artifacts/features/*/rows"))


EXTRACTION = """
import torch, pipeline.cli

def say_once(module, inputs):
    if len(inputs[0]) > 1:  # not the one image by which a network is known again
        hook.remove()
        print("in a forward", flush=True)

hook = torch.nn.modules.module.register_module_forward_pre_hook(say_once)
pipeline.cli.main()
"""


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", {f"c{number}": 20 for number in range(12)})
    (tmp_path / "run.toml").write_text(RUN.replace("size = 64", "size = 640"))
    process = subprocess.Popen(
        [sys.executable, "-c", EXTRACTION, "extract", "run.toml", "--batch-size", "64"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in a forward\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on from there" in stderr
    assert list(tmp_path.glob("artifacts/features/*.lock"))
    assert not list(tmp_path.glob("artifacts/features/*/rows/*.parquet"))  # it did not wait for the end of the chunk


def test_a_foreign_package_called_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/__init__.py").write_text("")
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; "
        "from pipeline.cli import check_siblings; check_siblings()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert "another file or distribution has the same name" in done.stderr


def test_too_few_validation_classes_leave_the_choice_of_the_epoch_to_held_out_ones(folder: Path) -> None:
    # 12 classes: one for validation, whose gallery holds nothing but itself: any epoch would be perfect on it
    head = next((folder / "artifacts/heads/test_resnet").glob("small-*"))
    log = [json.loads(line) for line in (head / "log.jsonl").read_text().splitlines()]
    assert {entry["phase"] for entry in log} == {"choose", "train"}


def test_retrying_what_fails_again_writes_nothing_and_what_is_mended_is_scored(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", {f"c{number}": 6 for number in range(12)})
    good = (tmp_path / "images/c3/0.png").read_bytes()
    (tmp_path / "images/c3/0.png").write_bytes(b"not an image")
    (tmp_path / "run.toml").write_text(RUN)
    permafrost("run", "run.toml", cwd=tmp_path)
    (store,) = (tmp_path / "artifacts/features").glob("test_resnet-????????")
    before = contents(store)
    permafrost("extract", "run.toml", "--retry-failed", cwd=tmp_path)
    assert contents(store) == before
    assert "images/c3/0.png: not an image" in permafrost("inspect", "run.toml", cwd=tmp_path).stdout.replace("\\", "/")
    (tmp_path / "images/c3/0.png").write_bytes(good)
    done = permafrost("run", "run.toml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_two_extractions_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", {f"c{number}": 30 for number in range(12)})
    (tmp_path / "run.toml").write_text(RUN.replace("size = 64", "size = 256"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", "extract", "run.toml"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    stderr = [process.communicate(timeout=300)[1] for process in both]
    statuses = sorted(process.returncode for process in both)
    assert statuses in ([0, 0], [0, 1])
    if statuses == [0, 1]:
        (refused,) = (text for process, text in zip(both, stderr, strict=True) if process.returncode)
        assert re.search(r"is being written by (process \d+ on |another process)", refused)
    assert permafrost("extract", "run.toml", cwd=tmp_path).returncode == 0
    (store,) = (tmp_path / "artifacts/features").glob("test_resnet-????????")
    assert FeatureStore.at(store).counts() == {"ok": 360}
    assert sum(rows.num_rows for rows in FeatureStore.at(store).chunks().values()) == 360
    assert permafrost("verify", "run.toml", cwd=tmp_path).returncode == 0


def test_queries_that_are_trained_on_by_their_bytes_are_pointed_out(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", {f"{part}/c{number}": 4 for part in ("train", "test") for number in range(6)})
    (tmp_path / "images/test/c1/0.png").write_bytes((tmp_path / "images/train/c1/0.png").read_bytes())
    roles = 'split = "folder"\ntrain = "train"\nquery = "test"\ngallery = "test"'
    (tmp_path / "run.toml").write_text(RUN.replace("queries_per_class = 2", roles))
    assert "1 query is byte-identical to a training image" in permafrost("run", "run.toml", cwd=tmp_path).stderr


def test_compact_says_what_it_would_drop_and_drops_it_when_told(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", {f"c{number}": 6 for number in range(12)})
    (tmp_path / "run.toml").write_text(RUN)
    permafrost("extract", "run.toml", cwd=tmp_path)
    for number in range(6):
        (tmp_path / f"images/c0/{number}.png").unlink()
    compacted = permafrost("compact", "run.toml", cwd=tmp_path)
    assert "6 rows would be dropped" in compacted.stdout
    assert "6 rows dropped" in permafrost("compact", "run.toml", "--yes", cwd=tmp_path).stdout
    (store,) = (tmp_path / "artifacts/features").glob("test_resnet-????????")
    assert len(FeatureStore.at(store)) == 66
    assert permafrost("verify", "run.toml", cwd=tmp_path).returncode == 0


def test_a_foreign_cache_where_one_stands_is_refused_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/__init__.py").write_text("")
    done = in_new_process("run", "run.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert "another file or distribution has the same name" in done.stderr
    assert "Traceback" not in done.stderr
