"""``permafrost curate``: write a compact table of training images without duplicates."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cache import fingerprint
from cache.atomic import replace_text
from cache.errors import ConfigError
from pipeline.commands.options import Json, Quiet, RunFile, emit
from pipeline.dataset import find_features, open_run
from pipeline.progress import aligned
from stages import curation
from stages.curation.tables import Tally, dropped_table, tally, training_table
from stages.datasets.table import WRITERS, write_table


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
    left = curated.retained
    columns = left.keys, [digest.hex() for digest in left.digests], left.labels, left.domains
    report = {
        "table": str(output),
        "fingerprint": fingerprint([list(row) for row in zip(*columns, strict=True)]),  # wherever the images lie
        "config": asdict(config.curate),
        "features": None if features is None else features.fingerprint,
        "all": total._asdict(),
        "domains": [{"domain": domain, **counts._asdict()} for domain, counts in by_domain.items()],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_table(dropped, dropped_table(curated.dropped))
    replace_text(summary, json_module.dumps(report, indent=2) + "\n")
    write_table(output, training_table(left))
    emit(json, _text(by_domain, total), report)
    display.say(f"{output} is written; {summary} has the counts, and {dropped} every dropped image with its reason")


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
