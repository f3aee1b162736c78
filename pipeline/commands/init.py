"""``permafrost init``: look at your images and write a commented run file that works as it is."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from cache.atomic import replace_text
from cache.errors import AbsentPathError, ConfigError
from pipeline.config import parse_config
from pipeline.dataset import counts_text
from pipeline.progress import Display
from pipeline.run_files import toml_value
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
    template = files("pipeline").joinpath("presets/run_file.txt").read_text(encoding="utf-8")
    made = "" if "query" in guess.keys else _MADE if guess.keys["kind"] == "table" else _MADE_OF_FOLDERS
    warnings = "".join(f"#   note: {_comment(warning)}.\n" for warning in guess.warnings)
    parts = {"counts": counts, "warnings": warnings, "artifacts": _toml_path(artifacts)}
    text = template.format(**parts, dataset=_keys(guess), made=made if labelled else "")
    if labelled:
        return text
    above, heads = text.split("[[heads]]", 1)
    heads, below = heads.rsplit("[retrieval]", 1)
    lines = f"[[heads]]{heads}".rstrip().splitlines()
    return f"{above}{_NO_HEADS}{''.join(f'# {line}'.rstrip() + chr(10) for line in lines)}\n[retrieval]{below}"


def _keys(guess: Guess) -> str:
    """The keys as lines of a run file, each with its remark as a comment."""
    return "\n".join(
        f"{key} = {_toml_path(str(value)) if key in ('path', 'root') else toml_value(value)}"
        + (f"  # {_comment(guess.remarks[key])}" if key in guess.remarks else "")
        for key, value in guess.keys.items()
    )


def _toml_path(path: str) -> str:
    """``path`` as a run file has it: there ``$`` begins a variable, and ``$$`` is a dollar sign."""
    return toml_value(path.replace("$", "$$"))


def _comment(text: str) -> str:
    """``text`` on one line, as a comment must be; names of columns may hold line breaks."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


_NO_HEADS = "# Heads learn from labels, of which these images have none.\n"


_MADE = """
# No split is named, so whole classes go to train, validation or test, by the seed and their names: the score is of
# classes that no head has seen. To use a column instead: split = "COLUMN", train = ..., query = ..., gallery = ...
"""


_MADE_OF_FOLDERS = """
# Whole classes go to train, validation or test, by the seed and their names: the score is of classes that no head has
# seen. To say yourself which image is what, list the images in a table.
"""
