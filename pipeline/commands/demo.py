"""``permafrost demo``: draw a catalogue of products, extract, train, score, and show one picture."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import Json, Quiet
from pipeline.commands.score import print_scores
from pipeline.config import parse_config
from pipeline.dataset import run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.vectors import find_vectors
from stages.datasets import DrawnConfig


def demo(
    artifacts: Annotated[Path, typer.Option(help="Where the demo is kept.")] = Path("artifacts/demo"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw a catalogue of products, extract, train, score, and show one picture. Needs no network and no data."""
    started, display = time.monotonic(), Display(quiet=quiet)
    preset = files("pipeline").joinpath("presets/demo.toml").read_text(encoding="utf-8")
    config = parse_config(preset, "presets/demo.toml")
    assert isinstance(config.dataset, DrawnConfig)
    catalogue = replace(config.dataset, path=str(artifacts / "catalogue"))
    if not (artifacts / "catalogue/labels.csv").exists():
        display.say("drawing 3,000 images of 300 made-up products (drawn, not photographs)")
    run = run_of(replace(config, artifacts=str(artifacts), dataset=catalogue), display, Path("demo.toml"))
    computed = extract_features(run, Hardware())
    print_scores(run, find_vectors(run, train=True), json=json)
    picture = run.artifacts / "scores" / "demo.png"
    seconds = time.monotonic() - started
    again = "" if any(filled.computed for filled in computed) else ": images, features and heads were there already"
    script = Path(sys.executable).with_name("permafrost")  # where the environment is not activated
    command = "permafrost" if shutil.which("permafrost") or not script.exists() else os.path.relpath(script)
    if not json:
        typer.echo(_NEXT.format(picture=picture, seconds=seconds, again=again, permafrost=command))


_NEXT = """
The images are drawn; the heads were scored on products that they never saw. ({seconds:.0f} s{again})
Six queries with their nearest images: {picture}

Next:
  {permafrost} init YOUR_FOLDER   look at your own images (a folder a class, or a table) and write run.toml
  {permafrost} run run.toml       extract, train and score them
  {permafrost} --help             everything else"""
