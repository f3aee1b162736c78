"""``permafrost init``: look at your images and write a commented run file that works as it is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from cache.atomic import replace_text
from cache.errors import AbsentPathError, ConfigError
from pipeline.config import parse_config
from pipeline.dataset import counts_text
from pipeline.progress import Display
from pipeline.run_files import toml_value
from pipeline.views.pages import render
from stages.records.guess import Guess, guess_dataset


def init(
    images: Annotated[Path, typer.Argument(metavar="FOLDER|TABLE", help="Images in a folder a class, or a table.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run file to write.")] = Path("run.toml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a run file that exists.")] = False,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="FOLDER", help="What the image paths of a table are relative to.")
    ] = None,
) -> None:
    """Look at your images and write a commented run file that works as it is."""
    if output.exists() and not force:
        raise ConfigError(f"{output} exists. Choose another name with --output, or write over it with --force.")
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"the folder of {output} does not exist: make it first, or name another with --output")
    if not images.exists():
        give = "give a folder of images (a folder a class), or a table of them"
        raise AbsentPathError(f"{images} does not exist; {give}")
    display = Display()
    guess, records = guess_dataset(images, root)
    counts = counts_text(records.counts())
    for key in ("path", "root"):
        if key in guess.keys:
            guess.keys[key] = _seen_from(str(guess.keys[key]), output.parent)
    text = run_file(guess, counts, _artifacts(images, output.parent), labelled=records.has_labels)
    parse_config(text, str(output), output.parent)  # what is written works
    replace_text(output, text)
    for key, value in guess.keys.items():
        remark = f"  ({guess.remarks[key]})" if key in guess.remarks else ""
        display.say(f"{key} = {value}{remark}")
    display.say(f"records: {counts}")
    for note in records.notes:
        display.say(note)
    for warning in guess.warnings:
        display.warn(f"note: {warning}")
    typer.echo(f"{output} is written. Look at it, then: permafrost run {output}")


def _seen_from(path: str, folder: Path) -> str:
    """``path`` as a run file in ``folder`` has it."""
    stays = Path(path).is_absolute() or folder.resolve() == Path.cwd()
    return path if stays else os.path.relpath(Path(path).resolve(), folder.resolve())


def _artifacts(images: Path, run_files: Path) -> str:
    """Where the run's files go: beside the run file, and outside the folder of images, which they would join."""
    folder = images.resolve() if images.is_dir() else images.resolve().parent
    artifacts = Path("artifacts", folder.name)
    if images.is_dir() and (run_files / artifacts).resolve().is_relative_to(folder):
        return os.path.relpath(folder.parent / "artifacts" / folder.name, run_files.resolve())
    return str(artifacts)


def run_file(guess: Guess, counts: str, artifacts: str, *, labelled: bool) -> str:
    """The text of the run file: ``presets/run_file.txt`` with the guess in its place; heads for labelled images."""
    keys = []
    for key, value in guess.keys.items():
        written = _toml_path(str(value)) if key in ("path", "root") else toml_value(value)
        keys.append((key, written, _comment(guess.remarks.get(key, ""))))
    made = "" if "query" in guess.keys or not labelled else guess.keys["kind"]
    warnings = map(_comment, guess.warnings)
    parts = {"counts": counts, "warnings": warnings, "artifacts": _toml_path(artifacts), "keys": keys, "made": made}
    return render("run_file.txt", **parts, labelled=labelled) + "\n"


def _toml_path(path: str) -> str:
    """``path`` as a run file has it: there ``$`` begins a variable, and ``$$`` is a dollar sign."""
    return toml_value(path.replace("$", "$$"))


def _comment(text: str) -> str:
    """``text`` on one line, as a comment must be; names of columns may hold line breaks."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)
