"""Heads of a run file as a person meets them: fused backbones, starts, a training that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import parse_config
from pipeline.vectors import summary_text
from stages.training import PcaHeadConfig, TrainingSummary
from stages.training.rows.sampling import OneDomainConfig
from tests.typed import CATALOGUE, ROOT, finished, permafrost

RUN = (
    CATALOGUE
    + """
[[backbones]]
kind = "timm"
name = "test_vit"
weights = "random"
[[heads]]
name = "alone"
kind = "pca"
dim = 8
backbones = ["test_vit"]
[[heads]]
name = "together"
dim = 8
backbones = "all"
sizes = true
loss = { kind = "cosface" }
training = { epochs = 2 }
[retrieval]
metrics = ["mmp@5"]
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with its images, all three stages done."""
    return finished(tmp_path_factory.mktemp("run"), RUN)


def test_fused_backbones_are_scored_raw_and_with_their_heads_under_their_names(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert [(line["backbone"], line["head"]) for line in lines] == [
        ("test_resnet", "raw"),
        ("test_vit", "raw"),
        ("test_vit", "alone"),
        ("test_resnet+test_vit", "raw"),
        ("test_resnet+test_vit+sizes", "together"),
    ]
    assert len({line["embeddings"] for line in lines}) == 5
    again = permafrost("score", "run.toml", "--json", cwd=folder)
    assert again.stdout == (folder / "scores.jsonl").read_text()


@pytest.mark.parametrize("head", ["together", "alone"])
def test_search_embeds_an_image_with_the_backbones_of_its_head(folder: Path, head: str) -> None:
    image = sorted((folder / "images").rglob("*.png"))[10]
    arguments = ("search", "run.toml", str(image), "--head", head, "--all", "-k", "1", "--json")
    result = json.loads(permafrost(*arguments, cwd=folder).stdout)
    assert result["uri"] == str(image.relative_to(folder))
    assert result["similarity"] == pytest.approx(1, abs=2e-3)


def test_a_backbone_that_the_run_has_not_is_named_with_those_it_has(folder: Path) -> None:
    (folder / "wrong.toml").write_text(RUN.replace('["test_vit"]', '["test_vti"]'))
    done = permafrost("train-heads", "wrong.toml", cwd=folder)
    assert done.returncode == 2
    assert "'alone' names the backbone 'test_vti'; this run has test_resnet, test_vit" in done.stderr


def test_a_run_file_says_where_a_head_starts_and_how_rows_are_sampled() -> None:
    text = RUN + '[[heads]]\nname = "x"\ndim = 4\nstart = { kind = "pca", dim = 4 }\nloss = { kind = "arcface" }\n'
    text += 'training = { sampling = { kind = "one_domain" }, anchor = [0.0, 0.5, 1.0], ema = 0.99 }\n'
    head = parse_config(text).heads[-1].recipe
    assert head.start == PcaHeadConfig(dim=4)
    assert head.training.sampling == OneDomainConfig()
    assert head.training.anchor == (0.0, 0.5, 1.0)


@pytest.mark.slow
def test_train_heads_goes_on_after_a_kill_and_leaves_the_same_bytes_and_no_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    longer = RUN.replace("epochs = 2", "epochs = 40").replace('backbones = "all"\nsizes = true\n', "")
    longer = longer.replace("backbones = [", "#")
    trees = [tmp_path / name for name in ("whole", "killed")]
    for tree in trees:
        shutil.copytree(folder / "images", tree / "images")
        shutil.copytree(folder / "artifacts/features", tree / "artifacts/features")
        shutil.copy(folder / "artifacts/digests.sqlite", tree / "artifacts/digests.sqlite")
        (tree / "run.toml").write_text(longer)
    whole, killed = trees
    command = [sys.executable, "-m", "pipeline", "train-heads", "run.toml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, cwd=killed, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(killed.glob("artifacts/heads/*/*.checkpoint")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(killed.glob("artifacts/heads/*/together-*.checkpoint"))
    again = permafrost("train-heads", "run.toml", cwd=killed)
    assert again.returncode == 0, again.stderr
    assert "going on after the last epoch of the run that was stopped" in again.stderr
    assert permafrost("train-heads", "run.toml", cwd=whole).returncode == 0
    for path in sorted(whole.glob("artifacts/heads/*/*/head.safetensors")):
        assert (killed / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert len(list(killed.glob("artifacts/heads/*/*/head.safetensors"))) == 4
    assert not list(killed.glob("artifacts/heads/*/*.checkpoint"))


@pytest.mark.parametrize(
    ("anchor", "words"),
    [
        (None, "mMP@5 on the validation records"),
        (0.0, "no share of the trained weights scores above the closed form it began at, and that is kept"),
        (0.75, "75% trained weights and 25% closed form, the mixture that scores highest"),
    ],
)
def test_the_summary_says_what_of_a_head_is_trained(anchor: float | None, words: str) -> None:
    summary = TrainingSummary(
        9, 3, 0, 0, epoch=2, chosen_by="mMP@5 on the validation records", anchor=anchor, threads=1
    )
    head: Any = SimpleNamespace(summary=summary, log=[1, 2])
    chosen = "" if anchor == 0 else "epoch 2 kept: "
    assert summary_text(head).startswith(f"9 images of 3 classes; {chosen}mMP@5")
    assert summary_text(head).endswith(words)
