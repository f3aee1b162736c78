"""Commands as a person types them, and the run file of a small drawn catalogue that they are typed for."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from pipeline.cli import run_typed
from pipeline.progress import LogFormat, set_log_format
from tests.pictures import draw_folder

ROOT = Path(__file__).parent.parent
_IMAGES = """
artifacts = "artifacts"
[dataset]
kind = "folder"
path = "images"
queries_per_class = 2
[[backbones]]
"""
CATALOGUE = f"""{_IMAGES}
kind = "timm"
name = "test_resnet"
weights = "random"
preprocess = {{ size = 64 }}
"""
"""The beginning of a run file: the images that :func:`finished` draws, and a network of no size."""

PCA_RUN = f"""{_IMAGES}
kind = "pca"
dim = 4
size = 8
"""
"""A run file of the same images without a head, by the components of their pixels."""

RUN = (
    CATALOGUE
    + """
[[heads]]
name = "small"
dim = 8
[heads.loss]
kind = "cosface"
[heads.training]
epochs = 2
[retrieval]
metrics = ["mmp@5", "hit@1"]
"""
)


SMALL_RUN = """
artifacts = "artifacts/x"
[dataset]
path = "labels.csv"
label = ["a", "b"]
[[backbones]]
kind = "bundled"
name = "efficientnet_lite0"
[[heads]]
name = "small"
dim = 32
[heads.loss]
kind = "arcface"
subcenters = 3
"""
"""A run file that parses, of a table that is not there."""


class Typed(NamedTuple):
    """What a command printed and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def permafrost(*arguments: str, cwd: Path) -> Typed:
    """Type a command into this process, whose settings stay: a new one takes seconds to begin."""
    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        status = run_typed(arguments)
    torch.set_num_threads(threads)
    set_log_format(LogFormat.plain)
    return Typed(status, out.getvalue(), err.getvalue())


def in_new_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Type a command into a process of its own, where it matters that it is one."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def finished(folder: Path, run: str) -> Path:
    """``folder`` with 12 classes of 6 images, ``run.toml``, all stages done, and what was said in ``scores.jsonl``."""
    draw_folder(folder / "images", {f"class {number}": 6 for number in range(12)})
    (folder / "run.toml").write_text(run)
    done = permafrost("run", "run.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "scores.jsonl").write_text(done.stdout)
    return folder
