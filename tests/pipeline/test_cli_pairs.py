"""Losses on pairs of a run file as a person meets them: trained, scored, swept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.typed import CATALOGUE, finished, permafrost

LOSSES = {
    "contrastive": '{ kind = "contrastive" }',
    "triplet": '{ kind = "triplet", margin_dist = 0.2, miner = { kind = "semi_hard" }, memory = 50000 }',
    "triplet-all": '{ kind = "triplet", miner = { kind = "all" } }',
    "range": '{ kind = "range" }',
    "margin": '{ kind = "margin", beta = "by_class", memory = 30 }',
    "multi-similarity": '{ kind = "multi_similarity" }',
    "supcon": '{ kind = "supcon" }',
    "proxy-anchor": '{ kind = "proxy_anchor" }',
    "proxynca": '{ kind = "proxynca++" }',
    "soft-triple": '{ kind = "soft_triple" }',
    "smooth-ap": '{ kind = "smooth_ap" }',
    "recall": '{ kind = "recall" }',
}
RUN = CATALOGUE + '[retrieval]\nmetrics = ["mmp@5"]\n'
HEAD = """
[[heads]]
name = "{name}"
dim = 8
loss = {loss}
training = {{ epochs = 2, batch_size = 16 }}
"""
SWEEP = """
[sweep]
head = "triplet-all"
folds = 2
seeds = [0]
[sweep.over]
"loss.kind" = ["triplet", "supcon", "cosface"]
"loss.margin_dist" = [0.1, 0.3]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with a head of each loss, all three stages done."""
    heads = [HEAD.format(name=name, loss=loss) for name, loss in LOSSES.items()]
    return finished(tmp_path_factory.mktemp("pairs"), RUN + "".join(heads) + SWEEP)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_trains_a_head_that_is_scored(folder: Path, name: str) -> None:
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    (score,) = [line["value"] for line in lines if line["head"] == name]
    assert 0 < score <= 1
    (log,) = folder.glob(f"artifacts/heads/*/{name}-????????/log.jsonl")
    epochs = [json.loads(line) for line in log.read_text().splitlines()]
    proxies = name in ("proxy-anchor", "proxynca", "soft-triple")
    assert {epoch["zero_share"] is None for epoch in epochs} == {proxies}
    assert {epoch["hardness"] is None for epoch in epochs} == {proxies}


@pytest.mark.slow
def test_a_sweep_compares_them_with_margin_losses_in_one_leaderboard(folder: Path) -> None:
    done = permafrost("sweep", "run.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "the first trial took" in done.stderr
    result = [json.loads(line) for line in done.stdout.splitlines()]
    assert {kind for kind in ("triplet", "supcon", "cosface") if f'"{kind}"' in done.stdout} == {
        "triplet",
        "supcon",
        "cosface",
    }
    assert len(result) >= 4
