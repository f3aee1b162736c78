"""What a run that no head improves is told: what it does not do yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.commands.score import no_surer_head
from pipeline.config import parse_config
from stages.retrieval.scores import QueryScores

PLAIN = """
artifacts = "out"
dataset = { kind = "folder", path = "images" }
backbones = [{ kind = "bundled" }]
heads = [{ name = "a", loss = { kind = "cosface" } }]
"""
DEFAULT = """
artifacts = "out"
dataset = { kind = "folder", path = "images" }
heads = [{ name = "a", recipe = "default" }]
[[backbones]]
kind = "bundled"
blocks = [-2, -1]
preprocess = { views = { kind = "flip", average = true } }
"""


class Values:
    """The scores of raw and of the head ``a`` on one backbone."""

    def __init__(self, raw: Sequence[float], head: Sequence[float]) -> None:
        self.scores: Mapping[tuple[str, str], Sequence[float]] = {("net", "raw"): raw, ("net", "a"): head}

    def heads(self) -> list[tuple[str, str]]:
        return list(self.scores)

    def of(self, backbone: str, head: str) -> list[QueryScores]:
        values = np.array(self.scores[backbone, head])
        keys = tuple(map(str, range(len(values))))
        return [QueryScores(keys, keys, {"hit@1": values})]


@pytest.mark.parametrize(
    ("text", "ideas"),
    [
        (PLAIN, ['recipe = "default"', "blocks = [-2, -1]", "mirror images", "a stronger backbone"]),
        (DEFAULT, ["a stronger backbone"]),
    ],
)
def test_only_what_the_run_does_not_do_yet_is_proposed(text: str, ideas: list[str]) -> None:
    verdict = no_surer_head(parse_config(text, folder=Path()), Values([1, 0, 1, 0], [0, 1, 1, 0]))  # type: ignore[arg-type]
    assert verdict is not None
    assert verdict.startswith("no head is surely above the raw feature of net: a on net has +0.000 hit@1")
    proposed = verdict.partition("To try: ")[2]
    for idea in ('recipe = "default"', "blocks = [-2, -1]", "mirror images", "a stronger backbone"):
        assert (idea in proposed) == (idea in ideas)


def test_a_head_that_is_surely_above_needs_no_word() -> None:
    better = Values([0.0] * 40 + [1.0] * 2, [1.0] * 42)
    assert no_surer_head(parse_config(PLAIN, folder=Path()), better) is None  # type: ignore[arg-type]
