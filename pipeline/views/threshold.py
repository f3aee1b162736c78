"""What is shown of a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipeline.progress import aligned
from pipeline.thresholds import plain_rates
from pipeline.vectors import Vectors
from stages.analysis.open_set import Rate
from stages.analysis.thresholds import Decision, Ground

_RATES = ("fmr", "fnmr", "fpir", "fnir", "answered")


def threshold_lines(decision: Decision, vectors: Vectors, on: Ground) -> list[dict[str, Any]]:
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


def threshold_text(decisions: Sequence[Decision], vectors: Vectors, on: Ground) -> str:
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
