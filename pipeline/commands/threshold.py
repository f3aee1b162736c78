"""``permafrost threshold``: choose the similarity below which there is no match, and say how often that is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from cache.atomic import unless_read_only
from cache.errors import ConfigError, SettingsError
from pipeline.commands.options import Head, Json, OneBackbone, Quiet, RunFile, emit
from pipeline.dataset import open_run
from pipeline.progress import Display, aligned
from pipeline.thresholds import keep_decisions, plain_rates
from pipeline.vectors import Vectors, find_chosen
from stages.analysis.open_set import Kind, Rate
from stages.analysis.thresholds import Decision, Ground, choose_thresholds, decision_at

_LARGER = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_RATES = ("fmr", "fnmr", "fpir", "fnir", "answered")

WANTED: tuple[tuple[Kind, float], ...] = (("fmr", 0.001), ("fpir", 0.1))


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
    wanted: list[tuple[Kind, float]] = [("fmr", rate) for rate in fmr or []]
    wanted += [("fpir", rate) for rate in fpir or []]
    for kind, rate in wanted:
        if not 0 < rate < 1:
            raise ConfigError(f"--{kind} is a rate between 0 and 1, such as 0.01, got {rate:g}")
    run = open_run(run_file, quiet=quiet)
    chosen = find_chosen(run, head, backbone)
    decisions, refused, on = choose_thresholds(chosen.store, run.records, run.config.seed, wanted or WANTED)
    if not wanted:
        decisions += _of_larger_rates(decisions, on, run.display)
    if not decisions:
        raise SettingsError("\n".join(refused))
    lines = (line for decision in decisions for line in _lines(decision, chosen, on))
    emit(json, _text(decisions, chosen, on), *lines)
    with unless_read_only(run.display.warn):
        path = keep_decisions(run, chosen, decisions, on)
        run.display.say(f"kept for `permafrost search --fmr` and `--fpir`: {path}")
    if refused and wanted:
        raise SettingsError("\n".join(refused))
    for reason in refused:  # of the rates that are tried when none is named
        run.display.warn(f"note: {reason}")


def _of_larger_rates(chosen: list[Decision], on: Ground, display: Display) -> list[Decision]:
    """For each kind that its default rate was refused for, the smallest usual rate that the images are enough for."""
    decisions: list[Decision] = []
    kinds = {decision.kind for decision in chosen}
    for kind, rate in ((kind, rate) for kind, rate in WANTED if kind not in kinds):
        for larger in (usual for usual in _LARGER if usual > rate):
            with suppress(SettingsError):
                decisions.append(decision_at(kind, larger, on))
                display.say(f"{kind} {larger:g} is the smallest usual rate that the images are enough for")
                break
    return decisions


def _lines(decision: Decision, vectors: Vectors, on: Ground) -> list[dict[str, Any]]:
    """A flat object for the calibration, and one for the test queries of all and of each domain."""
    lines = []
    parts = [("calibration", "all", decision.calibration), *(("test", *decided) for decided in decision.test.items())]
    for side, domain, rates in parts:
        line: dict[str, Any] = {"backbone": vectors.backbone, "head": vectors.head, "on": side, "domain": domain}
        line |= {"kind": decision.kind, "wanted": decision.wanted, "threshold": rates.threshold}
        for name, value in plain_rates(rates).items():
            line |= {f"{name}_{k}" if k != "value" else name: v for k, v in value.items()} if name in _RATES else {}
        line |= {"queries": rates.queries, "classes": rates.classes, "gallery": rates.gallery}
        lines.append(line | {"ground": on.summary, "embeddings": vectors.store.fingerprint})
    return lines


def _text(decisions: Sequence[Decision], vectors: Vectors, on: Ground) -> str:
    """A line for each decision and domain, and what its columns are."""
    table = [["wanted", "domain", "similarity", *(name.upper() for name in _RATES[:4]), "answered"]]
    for decision in decisions:
        for domain, rates in decision.test.items():
            numbers = [_rate_text(getattr(rates, name)) for name in _RATES]
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


def _rate_text(rate: Rate) -> str:
    return "-" if math.isnan(rate.value) else f"{rate.value:.4f} [{rate.low:.4f}, {rate.high:.4f}]"
