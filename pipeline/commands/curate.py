"""``permafrost curate``: a compact training table of a run's training images, and a report of what it leaves out.

::

    table.csv             key, path, label, domain, split: read it with kind = "table", label = "label"
    table.report.json     images and classes before and after, by domain, and how many were dropped for which reason
    table.dropped.csv     every training image that is not in the table: why, and what it collided with
"""

from __future__ import annotations

import json as json_module
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NamedTuple

import pyarrow as pa
import typer

from cache import fingerprint, parse_source
from cache.atomic import replace_text
from cache.errors import ConfigError, PermafrostError
from pipeline.backbones import find_features
from pipeline.commands.options import Json, Quiet, RunFile
from pipeline.config import read_config
from pipeline.progress import Display
from pipeline.run import read_dataset
from pipeline.views.tables import aligned
from stages import curation
from stages.curation import REASONS, Curated, Dropped
from stages.datasets.table_writer import WRITERS, write_table
from stages.records import Records


class Tally(NamedTuple):
    """Images and classes of a domain, before and after, and how many images were dropped for each reason."""

    images: int
    images_kept: int
    classes: int
    classes_kept: int
    dropped: dict[str, int]


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
    beside = [output, output.with_suffix(".dropped.csv"), output.with_suffix(".report.json")]
    if (there := [path for path in beside if path.exists()]) and not force:
        raise PermafrostError(f"{there[0]} exists. Choose another name with --output, or write over it with --force.")
    config, display = read_config(run_file), Display(quiet=quiet)
    records = read_dataset(config, display)
    features = None
    if config.curate.near_duplicate is not None:
        features, *_ = find_features(config.backbones[0], config, records, display)
        display.say(f"near-duplicates: cosine similarity {config.curate.near_duplicate:g} or more in {features.name}")
    curated = curation.curate(records, config.curate, features)
    by_domain, total = tally(curated)
    report = {
        "table": str(output),
        "fingerprint": _fingerprint(curated.kept),
        "config": asdict(config.curate),
        "features": None if features is None else features.fingerprint,
        "all": total._asdict(),
        "domains": [{"domain": domain, **of._asdict()} for domain, of in by_domain.items()],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    dropped, said = output.with_suffix(".dropped.csv"), output.with_suffix(".report.json")
    write_table(dropped, _dropped_table(curated.dropped))
    replace_text(said, json_module.dumps(report, indent=2) + "\n")
    write_table(output, training_table(curated.kept))
    typer.echo(json_module.dumps(report) if json else report_table(by_domain, total))
    display.say(f"{output} is written; {said} has the counts, and {dropped} every dropped image with its reason")


def training_table(records: Records) -> pa.Table:
    """The columns of the table: ``path`` is absolute, or a URI with an absolute path in it."""
    sources = [parse_source(uri) for uri in records.uris]
    columns = {
        "key": records.keys,
        "path": [source._replace(path=str(Path(source.path).absolute())).uri for source in sources],
        "label": records.labels,
        "domain": records.domains,
        "split": ["train"] * len(records),
    }
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _dropped_table(dropped: Sequence[Dropped]) -> pa.Table:
    columns = {name: [getattr(of, name) for of in dropped] for name in Dropped._fields}
    columns["similarity"] = [None if value is None else f"{value:.4f}" for value in columns["similarity"]]
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _fingerprint(kept: Records) -> str:
    """What the table trains on: keys, bytes and labels, wherever the images lie."""
    digests = [digest.hex() for digest in kept.digests]
    return fingerprint([list(row) for row in zip(kept.keys, digests, kept.labels, kept.domains, strict=True)])


def tally(curated: Curated) -> tuple[dict[str | None, Tally], Tally]:
    """The counts by domain, by name, and of all."""
    kept = list(zip(curated.kept.domains, curated.kept.labels, strict=True))
    domains = {domain for domain, _ in kept} | {of.domain for of in curated.dropped}
    by_domain = {
        domain: _tally([of for of in kept if of[0] == domain], [of for of in curated.dropped if of.domain == domain])
        for domain in sorted(domains, key=lambda domain: domain or "")
    }
    return by_domain, _tally(kept, curated.dropped)


def _tally(kept: Sequence[tuple[str | None, str | None]], dropped: Sequence[Dropped]) -> Tally:
    counts = Counter(of.reason for of in dropped)
    before = {*kept, *((of.domain, of.label) for of in dropped)}
    by_reason = {reason: counts[reason] for reason in REASONS if counts[reason]}
    return Tally(len(kept) + len(dropped), len(kept), len(before), len(set(kept)), by_reason)


def report_table(by_domain: Mapping[str | None, Tally], total: Tally) -> str:
    """The counts with a column for each domain: what there was, what was dropped for which reason, what is kept."""
    tallies = [*by_domain.values(), total] if len(by_domain) > 1 else [total]
    names = [*(domain or "-" for domain in by_domain), "all"] if len(by_domain) > 1 else ["all"]
    table = [
        ["", *names],
        ["training images", *(f"{of.images:,}" for of in tallies)],
        *(
            [f"  {reason}", *(f"-{of.dropped[reason]:,}" if reason in of.dropped else "0" for of in tallies)]
            for reason in total.dropped
        ),
        ["images kept", *(f"{of.images_kept:,}" for of in tallies)],
        ["classes", *(f"{of.classes:,}" for of in tallies)],
        ["classes kept", *(f"{of.classes_kept:,}" for of in tallies)],
    ]
    return "\n".join(aligned(table, texts=1))
