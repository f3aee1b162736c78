"""How each head was trained: the loss and the validation score of every epoch, drawn from its log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from pipeline.vectors import summary_text
from pipeline.views.charts import Line, line_chart, look
from pipeline.views.report.measured import Measured
from stages.training import EpochLog

_HEIGHT = 170


class LearningCurves(NamedTuple):
    """The charts of one head, and in words what it was trained on and which epoch was kept."""

    name: str
    summary: str
    loss: Markup | None
    validation: Markup | None


def learning_curves(shown: Sequence[Measured]) -> list[LearningCurves]:
    """The curves of every head; a closed form has no epochs, and no charts."""
    curves = []
    for side in shown:
        head = side.vectors.trained
        if head is None:
            continue
        trainings = _trainings(head.log)
        losses = [(group, [(e.epoch, e.loss) for e in log]) for group, log in trainings]
        validated = [
            (group, [(e.epoch, e.validation_mmp5) for e in log if e.validation_mmp5 is not None])
            for group, log in trainings
        ]
        loss = _chart(losses, f"{side.name}: loss")
        validation = _chart(validated, f"{side.name}: mMP@5 on what was held out")
        curves.append(LearningCurves(side.name, summary_text(head), loss, validation))
    return curves


def _trainings(log: Sequence[EpochLog]) -> list[tuple[str, list[EpochLog]]]:
    """One for each phase, expert and member of a soup, by name, in the order of the log; members share one."""
    phases, experts = {e.phase for e in log}, {e.expert for e in log}
    trainings: list[tuple[str, list[EpochLog]]] = []
    last: EpochLog | None = None
    for epoch in log:
        part = epoch.phase, epoch.expert, epoch.member
        if last is None or part != (last.phase, last.expert, last.member) or epoch.epoch <= last.epoch:
            phase = {"choose": "choosing", "train": "final"}[epoch.phase] if len(phases) > 1 else ""
            expert = epoch.expert or "no domain" if len(experts) > 1 else ""
            trainings.append((", ".join(name for name in (expert, phase) if name), []))
        trainings[-1][1].append(epoch)
        last = epoch
    return trainings


def _chart(trainings: Sequence[tuple[str, list[tuple[int, float]]]], label: str) -> Markup | None:
    """The curves, a colour for each group; only the first of a group is named."""
    groups = list(dict.fromkeys(group for group, _ in trainings))
    trainings = [(group, points) for group, points in trainings if points]
    if not trainings:
        return None
    lines: list[Line] = []
    for group, points in trainings:
        named = any(line.name == group for line in lines)
        lines.append(Line("" if named else group, look(groups.index(group)), points))
    ends = "; ".join(f"{group or 'from'} {points[0][1]:.3f} to {points[-1][1]:.3f}" for group, points in trainings[:8])
    return line_chart(lines, label=f"{label}: {ends}", across="epoch", height=_HEIGHT, dots=len(lines) == 1)
