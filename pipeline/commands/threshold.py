"""The command ``threshold``: from which similarity on a search has a match, and how often that is wrong.

::

    validation queries --wanted FMR or FPIR--> threshold --test queries--> FMR, FNMR, FPIR, FNIR, share answered
                                                  |
                                                  +--> thresholds/<run>/<backbone>-<head>-<...>.json --> search
"""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from cache import fingerprint
from cache.atomic import replace_text
from cache.errors import ConfigError, MissingRowsError
from pipeline.commands.options import Head, Json, OneBackbone, Quiet, RunFile
from pipeline.config import RunConfig, read_config
from pipeline.dataset import read_dataset
from pipeline.progress import Display
from pipeline.vectors import Vectors, choose_vectors, find_vectors
from pipeline.views.tables import aligned
from stages.analysis.open_set import Kind, Rate, Rates
from stages.analysis.threshold_choice import Decision, Ground, calibration_ground, decision_at
from stages.records import Records
from stages.retrieval.query_values import data_of

WANTED: tuple[tuple[Kind, float], ...] = (("fmr", 0.001), ("fpir", 0.1))
_RATES = ("fmr", "fnmr", "fpir", "fnir", "answered")


def threshold(
    run_file: RunFile,
    fmr: Annotated[
        list[float] | None, typer.Option(help="A wanted false match rate of comparisons. Can be given again.")
    ] = None,
    fpir: Annotated[
        list[float] | None,
        typer.Option(help="A wanted false-positive identification rate of searches. Can be given again."),
    ] = None,
    head: Head = None,
    backbone: OneBackbone = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose the similarity below which there is no match, and say how often that is wrong. `search` uses it."""
    config, display = read_config(run_file), Display(quiet=quiet)
    wanted: list[tuple[Kind, float]] = [("fmr", rate) for rate in fmr or []]
    wanted += [("fpir", rate) for rate in fpir or []]
    for kind, rate in wanted:
        if not 0 < rate < 1:
            raise ConfigError(f"--{kind} is a rate between 0 and 1, such as 0.01, got {rate:g}")
    records = read_dataset(config, display)
    chosen = choose_vectors(config, run_file, find_vectors(config, records, display), head, backbone)
    on = calibration_ground(chosen.store, records, config.seed)
    decisions = [decision_at(kind, rate, on) for kind, rate in wanted or WANTED]
    path = _path(config, run_file, chosen)
    _keep(path, decisions, on, _follows_from(chosen, records))
    if json:
        for decision in decisions:
            for line in _lines(decision, chosen, on):
                typer.echo(json_module.dumps(line))
    else:
        typer.echo(_text(decisions, chosen, on))
    display.say(f"kept for `permafrost search --fmr` and `--fpir`: {path}")


def _path(config: RunConfig, run_file: Path, vectors: Vectors) -> Path:
    name = f"{vectors.backbone}-{vectors.head}-{vectors.store.identity.short}.json"
    return Path(config.artifacts) / "thresholds" / run_file.stem / name


def _follows_from(vectors: Vectors, records: Records) -> str:
    """The fingerprint of the embeddings and the records that a threshold follows from."""
    parts = [
        data_of(records.split(f"{role}query"), records.split(f"{role}gallery"), {}) for role in ("", "validation_")
    ]
    return fingerprint([vectors.store.fingerprint, *(part[side] for part in parts for side in ("queries", "gallery"))])


def _keep(path: Path, decisions: Sequence[Decision], on: Ground, follows_from: str) -> None:
    """Add ``decisions`` to those that are kept in ``path`` for the same embeddings and records."""
    stored = _kept(path)
    lines = stored["decisions"] if stored.get("follows_from") == follows_from else []
    new = [(decision.kind, decision.wanted) for decision in decisions]
    lines = [line for line in lines if (line["kind"], line["wanted"]) not in new]
    lines += [
        {
            "kind": decision.kind,
            "wanted": decision.wanted,
            "threshold": decision.calibration.threshold,
            "calibration": _plain(decision.calibration),
            "test": {name: _plain(rates) for name, rates in decision.test.items()},
        }
        for decision in decisions
    ]
    content = {"follows_from": follows_from, "ground": on.summary, "decisions": lines, "roc": on.test.roc()}
    replace_text(path, json_module.dumps(content, indent=1) + "\n")


def _kept(path: Path) -> dict[str, Any]:
    try:
        stored = json_module.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


class Limit(NamedTuple):
    """From which similarity on there is a match; ``summary`` is how often that is wrong, for a person."""

    threshold: float
    summary: str
    rate: dict[str, Any] | None


def limit_of(
    config: RunConfig, run_file: Path, vectors: Vectors, records: Records, wanted_rate: tuple[str, float]
) -> Limit:
    """The threshold that ``permafrost threshold`` kept for the embeddings and records as they are now.

    ``wanted_rate`` is ``fmr`` or ``fpir`` with the wanted rate; or ``threshold`` with the similarity itself. Raises
    MissingRowsError, which says what to run, where none is kept.
    """
    kind, wanted = wanted_rate
    if kind == "threshold":
        return Limit(wanted, "chosen by hand, so how often that is wrong is not known", None)
    stored = _kept(_path(config, run_file, vectors))
    command = f"permafrost threshold {run_file} --{kind} {wanted:g} --head {vectors.head}"
    if stored.get("follows_from") != _follows_from(vectors, records):
        why = "was chosen from other embeddings or records" if stored else "is not chosen yet"
        raise MissingRowsError(f"the threshold of {vectors.backbone} {vectors.head} {why}. Run `{command}`.")
    for line in stored["decisions"]:
        if (line["kind"], line["wanted"]) == (kind, wanted):
            rate = line["test"]["all"][kind]
            interval = f"{rate['value']:.4f} [{rate['low']:.4f}, {rate['high']:.4f}]"
            summary = f"chosen for {kind.upper()} {wanted:g}, which was {interval} on test queries"
            return Limit(line["threshold"], summary, {"kind": kind, "wanted": wanted, **rate})
    there = ", ".join(f"{line['kind']} {line['wanted']:g}" for line in stored["decisions"])
    raise MissingRowsError(f"no threshold is kept for {kind} {wanted:g}, only for {there}. Run `{command}`.")


def kept_decisions(config: RunConfig, run_file: Path, vectors: Vectors, records: Records) -> list[dict[str, Any]]:
    """Every decision that is kept for the embeddings and records as they are now; none where none is."""
    stored = _kept(_path(config, run_file, vectors))
    return list(stored["decisions"]) if stored.get("follows_from") == _follows_from(vectors, records) else []


def _plain(rates: Rates) -> dict[str, Any]:
    """As JSON has it: NaN is null."""
    plain: dict[str, Any] = {}
    for name, value in rates._asdict().items():
        if isinstance(value, Rate):
            plain[name] = {k: None if math.isnan(v) else v for k, v in value._asdict().items()}
        else:
            plain[name] = value
    return plain


def _lines(decision: Decision, vectors: Vectors, on: Ground) -> list[dict[str, Any]]:
    """A flat object for the calibration, and one for the test queries of all and of each domain."""
    lines = []
    parts = [("calibration", "all", decision.calibration), *(("test", *decided) for decided in decision.test.items())]
    for side, domain, rates in parts:
        line: dict[str, Any] = {"backbone": vectors.backbone, "head": vectors.head, "on": side, "domain": domain}
        line |= {"kind": decision.kind, "wanted": decision.wanted, "threshold": rates.threshold}
        for name, value in _plain(rates).items():
            line |= {f"{name}_{k}" if k != "value" else name: v for k, v in value.items()} if name in _RATES else {}
        line |= {"queries": rates.queries, "classes": rates.classes, "gallery": rates.gallery}
        lines.append(line | {"ground": on.summary, "embeddings": vectors.store.fingerprint})
    return lines


def _text(decisions: Sequence[Decision], vectors: Vectors, on: Ground) -> str:
    table = [["wanted", "domain", "similarity", *(name.upper() for name in _RATES[:4]), "answered"]]
    for decision in decisions:
        for domain, rates in decision.test.items():
            numbers = [_cell(getattr(rates, name)) for name in _RATES]
            table.append([f"{decision.kind.upper()} {decision.wanted:g}", domain, f"{rates.threshold:.4f}", *numbers])
    test = decisions[0].test["all"]
    lines = [f"{vectors.head} on {vectors.backbone}; {on.summary}", *aligned(table, texts=2)]
    lines += [
        f"rates of {test.queries:,} test queries of {test.classes:,} classes in a gallery of {test.gallery:,}",
        "[95 % interval over classes]",
        "comparisons (verification): FMR, non-mated at or above the similarity; FNMR, mated below it",
        "searches (identification, rank 1): FPIR, non-mated with a candidate at or above it; FNIR, mated whose first",
        "candidate is no mate or below it",
        "non-mated searches: every row of the query's class left out; answered: mated searches with a candidate",
    ]
    for decision in decisions:
        rate, gallery = getattr(decision.calibration, decision.kind), decision.calibration.gallery
        lines.append(
            f"{decision.kind.upper()} {decision.wanted:g}: {rate.value:.4g} of {rate.trials:,} trials when calibrated, "
            f"with a gallery of {gallery:,}"
        )
    return "\n".join(lines)


def _cell(rate: Rate) -> str:
    return "-" if math.isnan(rate.value) else f"{rate.value:.4f} [{rate.low:.4f}, {rate.high:.4f}]"
