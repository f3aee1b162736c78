"""How each head was trained: the loss and the validation score of every epoch, drawn from its log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from pipeline.views.charts import Line, line_chart, look
from pipeline.views.report.measured import Measured
from stages.training import EpochLog

_HEIGHT = 170


class Learning(NamedTuple):
    """The charts of one head, and in words what was trained and which epoch was kept."""

    name: str
    said: str
    loss: Markup | None
    validation: Markup | None


def learning(shown: Sequence[Measured]) -> list[Learning]:
    """Of every head that has one; closed forms have no epochs, and only say so."""
    found = []
    for of in shown:
        head = of.vectors.trained
        if head is None:
            continue
        summary = head.summary
        kept = f"epoch {summary.epoch} kept: {summary.chosen_by}" if head.log else summary.chosen_by
        said = f"{summary.rows:,} images of {summary.classes:,} classes; {kept}"
        if summary.anchor is not None:
            said += f"; {summary.anchor:g} of what was trained, {1 - summary.anchor:g} of the start"
        trainings = _trainings(head.log)
        groups = list(dict.fromkeys(training.group for training in trainings))
        loss = _chart(
            [(group, [(e.epoch, e.loss) for e in log]) for group, log in trainings], groups, f"{of.name}: loss"
        )
        validation = _chart(
            [
                (group, [(e.epoch, e.validation_mmp5) for e in log if e.validation_mmp5 is not None])
                for group, log in trainings
            ],
            groups,
            f"{of.name}: mMP@5 on what was held out",
        )
        found.append(Learning(of.name, said, loss, validation))
    return found


class _Training(NamedTuple):
    """The epochs of one training; ``group`` is what the trainings of one colour have in common."""

    group: str
    log: list[EpochLog]


def _trainings(log: Sequence[EpochLog]) -> list[_Training]:
    """One for each phase, expert and member of a soup, in the order of the log; members have one colour."""
    phases, experts = {e.phase for e in log}, {e.expert for e in log}
    found: list[_Training] = []
    last: EpochLog | None = None
    for epoch in log:
        of = (epoch.phase, epoch.expert, epoch.member)
        if last is None or of != (last.phase, last.expert, last.member) or epoch.epoch <= last.epoch:
            phase = {"choose": "choosing", "train": "final"}[epoch.phase] if len(phases) > 1 else ""
            expert = epoch.expert or "no domain" if len(experts) > 1 else ""
            found.append(_Training(", ".join(part for part in (expert, phase) if part), []))
        found[-1].log.append(epoch)
        last = epoch
    return found


def _chart(
    trainings: Sequence[tuple[str, list[tuple[int, float]]]], groups: Sequence[str], label: str
) -> Markup | None:
    """The curves, coloured by their place in ``groups``; only the first of a colour is named."""
    trainings = [(group, points) for group, points in trainings if points]
    if not trainings:
        return None
    named: set[str] = set()
    lines = []
    for group, points in trainings:
        lines.append(Line("" if group in named else group, look(groups.index(group)), points))
        named.add(group)
    ends = "; ".join(f"{group or 'from'} {points[0][1]:.3f} to {points[-1][1]:.3f}" for group, points in trainings[:8])
    return line_chart(lines, label=f"{label}: {ends}", across="epoch", height=_HEIGHT, dots=len(lines) == 1)
