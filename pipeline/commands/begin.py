"""The commands to begin with: ``demo``, ``init`` and ``keys`` for a run file, ``curate`` for a training table."""

from __future__ import annotations

import json as json_module
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from cache import fingerprint
from cache.atomic import replace_text
from cache.errors import AbsentPathError, ConfigError
from pipeline.commands.compute import print_scores
from pipeline.commands.options import Json, Quiet, RunFile, emit
from pipeline.config import parse_config
from pipeline.dataset import counts_text, open_run, run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.features import find_features
from pipeline.keys import reference, tables
from pipeline.progress import Display
from pipeline.run_files import toml_value
from pipeline.vectors import find_vectors
from pipeline.views.tables import aligned
from stages import curation
from stages.curation.tables import Tally, dropped_table, tally, training_table
from stages.datasets import DrawnConfig
from stages.datasets.table import WRITERS, write_table
from stages.records import Records
from stages.records.guess import Guess, guess_dataset


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


def keys(
    section: Annotated[
        str, typer.Argument(metavar="[SECTION]", help="A table, such as heads.loss; by default the whole file.")
    ] = "",
) -> None:
    """Print every key of a run file with its type, its default and what it means."""
    text = reference(section)
    if not text:
        known = ", ".join(dict.fromkeys(table.path for table in tables() if table.path))
        raise ConfigError(f"a run file has no table {section!r}; there are {known}")
    typer.echo(text)


def curate(
    run_file: RunFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write: .csv, .tsv, .parquet or .jsonl.")],
    force: Annotated[bool, typer.Option("--force", help="Write over a table that exists.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a compact table of training images without duplicates, and say what was dropped and why."""
    if output.suffix.lower() not in WRITERS:
        raise ConfigError(f"--output must end in {', '.join(WRITERS)}, got {output}")
    dropped, summary = output.with_suffix(".dropped.csv"), output.with_suffix(".report.json")
    if (existing := [path for path in (output, dropped, summary) if path.exists()]) and not force:
        raise ConfigError(f"{existing[0]} exists. Choose another name with --output, or write over it with --force.")
    run = open_run(run_file, quiet=quiet)
    config, records, display = run.config, run.records, run.display
    features = None
    if config.curate.near_duplicate is not None:
        features, *_ = find_features(run, config.backbones[0])
        display.say(f"near-duplicates: cosine similarity {config.curate.near_duplicate:g} or more in {features.name}")
    curated = curation.curate(records, config.curate, features)
    by_domain, total = tally(curated)
    report = {
        "table": str(output),
        "fingerprint": _fingerprint(curated.retained),
        "config": asdict(config.curate),
        "features": None if features is None else features.fingerprint,
        "all": total._asdict(),
        "domains": [{"domain": domain, **counts._asdict()} for domain, counts in by_domain.items()],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_table(dropped, dropped_table(curated.dropped))
    replace_text(summary, json_module.dumps(report, indent=2) + "\n")
    write_table(output, training_table(curated.retained))
    emit(json, _text(by_domain, total), report)
    display.say(f"{output} is written; {summary} has the counts, and {dropped} every dropped image with its reason")


def _fingerprint(records: Records) -> str:
    """Of what the table trains on: keys, bytes and labels, wherever the images lie."""
    digests = [digest.hex() for digest in records.digests]
    return fingerprint([list(row) for row in zip(records.keys, digests, records.labels, records.domains, strict=True)])


def _text(by_domain: Mapping[str | None, Tally], total: Tally) -> str:
    """The counts with a column for each domain: images and classes before and after, and those dropped by reason."""
    tallies = [*by_domain.values(), total] if len(by_domain) > 1 else [total]
    names = [*(domain or "-" for domain in by_domain), "all"] if len(by_domain) > 1 else ["all"]
    reasons = [f"  {reason}" for reason in total.dropped]
    columns = [["", "training images", *reasons, "images kept", "classes", "classes kept"]]
    for name, counts in zip(names, tallies, strict=True):
        dropped = [f"-{counts.dropped[reason]:,}" if reason in counts.dropped else "0" for reason in total.dropped]
        left = [f"{count:,}" for count in (counts.images_kept, counts.classes, counts.classes_kept)]
        columns.append([name, f"{counts.images:,}", *dropped, *left])
    return "\n".join(aligned([*zip(*columns, strict=True)], texts=1))
