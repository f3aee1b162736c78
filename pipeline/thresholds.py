"""Thresholds that ``permafrost threshold`` chose, with their error rates: stored for ``search`` and the report.

``thresholds/<run>/<backbone>-<head>-<...>.json`` is of the embeddings and records that it names by fingerprint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from cache import fingerprint
from cache.errors import MissingRowsError
from cache.features import numbers_fingerprint
from cache.sealed import json_text, read_sealed
from pipeline.dataset import Run
from pipeline.vectors import Vectors
from stages.analysis.open_set import PairShare, Rate, Rates, pair_shares
from stages.analysis.thresholds import Decision, Ground, class_shortage
from stages.retrieval.query_values import data_of


class Limit(NamedTuple):
    """From which similarity on there is a match; ``summary`` is how often that is wrong, for a person."""

    threshold: float
    summary: str
    rate: dict[str, Any] | None


def keep_decisions(run: Run, vectors: Vectors, decisions: Sequence[Decision], on: Ground) -> str:
    """Add ``decisions`` to those that are kept for the same embeddings and records; return where that is."""
    key, follows_from, lines = _key(run, vectors), _follows_from(run, vectors), kept_decisions(run, vectors)
    new = [(decision.kind, decision.wanted) for decision in decisions]
    lines = [line for line in lines if (line["kind"], line["wanted"]) not in new]
    shares = [list(step) for step in pair_shares(on.pairs)]
    for decision in decisions:
        test = {name: plain_rates(rates) for name, rates in decision.test.items()}
        chosen = {"kind": decision.kind, "wanted": decision.wanted, "threshold": decision.calibration.threshold}
        how = {"ground": on.summary, "calibration": plain_rates(decision.calibration), "test": test, "shares": shares}
        lines.append(chosen | how)
    content = {"follows_from": follows_from, "decisions": lines, "roc": on.test.roc()}
    run.storage.put(key, json_text(content).encode())
    return run.storage.address(key)


def limit_of(run: Run, vectors: Vectors, wanted_rate: tuple[str, float]) -> Limit:
    """The threshold that ``permafrost threshold`` kept for the embeddings and records as they are now.

    ``wanted_rate`` is ``fmr`` or ``fpir`` with the wanted rate; or ``threshold`` with the similarity itself. Raises
    MissingRowsError, which says what to run, where none is kept.
    """
    kind, wanted = wanted_rate
    mend = f"Run `permafrost threshold {run.file} --{kind} {wanted:g} --head {vectors.head}`."
    stored, decisions = _kept(run, vectors)
    if not decisions and kind != "threshold":
        if not stored and (shortage := class_shortage(run.records)):
            raise MissingRowsError(f"there is no threshold of {vectors.backbone} {vectors.head}: {shortage}.")
        why = "was chosen from other embeddings or records" if stored else "is not chosen yet"
        raise MissingRowsError(f"the threshold of {vectors.backbone} {vectors.head} {why}. {mend}")
    return limit_among(decisions, wanted_rate, mend)


def limit_among(decisions: Sequence[dict[str, Any]], wanted_rate: tuple[str, float], mend: str) -> Limit:
    """The threshold of the wanted rate among ``decisions``. Raises MissingRowsError, which ends in ``mend``."""
    kind, wanted = wanted_rate
    if kind == "threshold":
        return Limit(wanted, "chosen by hand, so how often that is wrong is not known", None)
    for line in decisions:
        if (line["kind"], line["wanted"]) == (kind, wanted):
            rate = line["test"]["all"][kind]
            reached = "no test query measures"
            if rate["value"] is not None:
                reached = f"was {rate['value']:.4f} [{rate['low']:.4f}, {rate['high']:.4f}] on test queries"
            summary = f"chosen for {kind.upper()} {wanted:g}, which {reached}"
            return Limit(line["threshold"], summary, {"kind": kind, "wanted": wanted, **rate})
    there = ", ".join(f"{line['kind']} {line['wanted']:g}" for line in decisions)
    only = f", only for {there}" if there else ""
    raise MissingRowsError(f"no threshold is kept for {kind} {wanted:g}{only}. {mend}")


def kept_shares(decisions: Sequence[dict[str, Any]]) -> list[PairShare]:
    """What similarities mean, of the newest of ``decisions``; none where none says it."""
    known = [decision["shares"] for decision in decisions if "shares" in decision]
    return [PairShare(*step) for step in known[-1]] if known else []


def kept_decisions(run: Run, vectors: Vectors) -> list[dict[str, Any]]:
    """Every decision that is kept for the embeddings and records as they are now; none where none is."""
    return _kept(run, vectors)[1]


def thresholds_of(decisions: Sequence[dict[str, Any]], *, everything: bool = False) -> dict[str, float]:
    """The threshold of every decision, by its rate: ``fpir 0.1``.

    With ``everything`` those that hold for all records: an FPIR holds for the gallery that it was chosen for.
    """
    return {
        f"{decision['kind']} {decision['wanted']:g}": float(decision["threshold"])
        for decision in decisions
        if decision["kind"] == "fmr" or not everything
    }


def plain_rates(rates: Rates) -> dict[str, Any]:
    """As JSON has it: NaN is null."""
    plain = rates._asdict()
    for name, value in plain.items():
        if isinstance(value, Rate):
            plain[name] = {part: None if math.isnan(number) else number for part, number in value._asdict().items()}
    return plain


def _key(run: Run, vectors: Vectors) -> str:
    return f"thresholds/{run.name}/{vectors.backbone}-{vectors.head}-{vectors.store.identity.short}.json"


def _follows_from(run: Run, vectors: Vectors) -> str:
    """The fingerprint of the embeddings and the records that a threshold follows from."""
    records = run.records
    parts = [
        data_of(records.split(f"{role}query"), records.split(f"{role}gallery"), {}) for role in ("", "validation_")
    ]
    sides = [part[side] for part in parts for side in ("queries", "gallery", "scoring")]
    return fingerprint([vectors.store.fingerprint, numbers_fingerprint(vectors.store, records.digests), *sides])


def _kept(run: Run, vectors: Vectors) -> tuple[bool, list[dict[str, Any]]]:
    """Whether anything is kept, and the decisions in it where it is of the embeddings and records as they are now."""
    try:
        stored = read_sealed(run.storage, _key(run, vectors), "Delete it, and choose again: `permafrost threshold`.")
    except FileNotFoundError:
        return False, []
    return True, list(stored["decisions"]) if stored.get("follows_from") == _follows_from(run, vectors) else []
