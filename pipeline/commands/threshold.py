"""``permafrost threshold``: choose the similarity below which there is no match, and say how often that is wrong."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from cache.atomic import unless_read_only
from cache.errors import ConfigError, SettingsError
from pipeline.commands.options import Head, Json, OneBackbone, Quiet, RunFile, emit
from pipeline.dataset import open_run
from pipeline.progress import Display
from pipeline.thresholds import keep_decisions
from pipeline.vectors import find_chosen
from pipeline.views.threshold import threshold_lines, threshold_text
from stages.analysis.open_set import Kind
from stages.analysis.thresholds import Decision, Ground, choose_thresholds, decision_at

_LARGER = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

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
    lines = (line for decision in decisions for line in threshold_lines(decision, chosen, on))
    emit(json, threshold_text(decisions, chosen, on), *lines)
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
