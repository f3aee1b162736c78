"""Each miner against a loop over its definition."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from stages.training.pairs import miners
from stages.training.pairs.kinds import DistanceWeightedConfig, EasyPositivesConfig, HardConfig, SemiHardConfig
from tests.oracles import pairs as oracle
from tests.toys.pairs import ALONE, BATCHES, FEW, ONE_CLASS, REMEMBERED, Batch, as_set, draw

every_batch = pytest.mark.parametrize("name", BATCHES)


@every_batch
@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (2, 3), (0, 1), (50, 50)])
def test_hard_pairs_are_the_farthest_positives_and_the_nearest_negatives(
    name: str, positives: int, negatives: int
) -> None:
    picked = miners.pick(HardConfig(positives=positives, negatives=negatives), BATCHES[name].block(), 0.2)
    assert as_set(picked) == oracle.hard(BATCHES[name].plain(), positives, negatives)


@every_batch
@pytest.mark.parametrize("margin", [0.05, 0.3, 2.0])
def test_semi_hard_negatives_are_the_nearest_beyond_the_positive_and_within_the_margin(
    name: str, margin: float
) -> None:
    wanted = oracle.semi_hard(BATCHES[name].plain(), margin)
    assert as_set(miners.pick(SemiHardConfig(), BATCHES[name].block(), margin)) == wanted
    assert as_set(miners.pick(SemiHardConfig(margin_dist=margin), BATCHES[name].block(), 1.0)) == wanted


@every_batch
def test_semi_hard_negatives_are_the_same_by_passes_and_by_sorting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picked = []
    for passes in (0, 100):
        monkeypatch.setattr(miners, "_PASSES", passes)
        picked.append(as_set(miners.pick(SemiHardConfig(), BATCHES[name].block(), 0.3)))
    assert picked[0] == picked[1]


@every_batch
def test_an_easy_positive_is_the_nearest(name: str) -> None:
    block, plain = BATCHES[name].block(), BATCHES[name].plain()
    assert as_set(miners.pick(EasyPositivesConfig(), block, 0.3)) == oracle.easy_positives(plain, 0.3)
    assert as_set(miners.pick(EasyPositivesConfig(margin_dist=0.1), block, 0.3)) == oracle.easy_positives(plain, 0.1)
    assert as_set(miners.pick(EasyPositivesConfig(negatives="hard"), block, 0.3)) == oracle.easy_positives(plain, None)


@every_batch
@pytest.mark.parametrize("dim", [6, 1152])
def test_weights_of_distances_are_one_over_their_density(name: str, dim: int) -> None:
    labels, memory = BATCHES[name].labels.tolist(), BATCHES[name].memory_labels.tolist()
    batch = draw(labels, memory, dim=dim, seed=7, spread=0.5)
    config = DistanceWeightedConfig(nearest_dist=0.5, farthest_dist=1.41)
    weights = miners.negative_weights(config, batch.block())
    assert weights.isfinite().all()
    share = weights / weights.sum(1, keepdim=True).clamp(min=1e-300)
    for row in range(len(labels)):
        wanted = torch.tensor(oracle.inverse_density(batch.plain(), row, 0.5, 1.41), dtype=torch.float64)
        torch.testing.assert_close(share[row], wanted, rtol=1e-8, atol=1e-12)


def test_at_1152_dimensions_in_float32_every_row_with_a_negative_in_reach_gets_one() -> None:
    """Without logarithms all weights are 0 or infinite there: d ** 1150 spans hundreds of powers of ten."""
    batch = draw([place // 4 for place in range(64)], dim=1152, seed=8, spread=2.0)
    block = batch.block()
    block = replace(block, cosines=block.cosines.float())
    row, _, negative = miners.pick(DistanceWeightedConfig(), block, 0.2)
    inside = ~block.same_label & ((2 - 2 * block.cosines).sqrt() <= 1.4)
    assert 0 < inside.any(1).sum() <= 64
    assert Counter(row.tolist()) == {place: 3 for place in range(64) if inside[place].any()}
    assert inside[row, negative].all()


def test_each_positive_pair_gets_one_drawn_negative_as_often_as_its_weight_says() -> None:
    plain, config = REMEMBERED.plain(), DistanceWeightedConfig(nearest_dist=0.4, farthest_dist=1.9)
    wanted = {(a, p) for a in range(plain.batch) for p in plain.positives(a)}
    drawn: Counter[tuple[int, int]] = Counter()
    times = 1500
    for seed in range(times):
        row, positive, negative = miners.pick(config, REMEMBERED.block(seed=seed), 0.2)
        assert sorted(zip(row.tolist(), positive.tolist(), strict=True)) == sorted(wanted)
        drawn.update(zip(row.tolist(), negative.tolist(), strict=True))
    for a in range(plain.batch):
        draws = times * len(plain.positives(a))
        for n, share in enumerate(oracle.inverse_density(plain, a, 0.4, 1.9)):
            assert abs(drawn[a, n] - draws * share) <= 5 * math.sqrt(draws * share * (1 - share)) + 1e-9


def test_the_same_seed_draws_the_same() -> None:
    config = DistanceWeightedConfig(farthest_dist=1.9)
    one, again, other = (miners.pick(config, FEW.block(seed=seed), 0.2).negative.tolist() for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("config", [HardConfig(), SemiHardConfig(), DistanceWeightedConfig(), EasyPositivesConfig()])
@pytest.mark.parametrize("batch", [ALONE, ONE_CLASS], ids=["no positives", "no negatives"])
def test_where_there_is_nothing_to_find_nothing_is_found(config: HardConfig, batch: Batch) -> None:
    assert as_set(miners.pick(config, batch.block(), 0.2)) == set()


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (HardConfig, {"positives": -1}, "positives is how many of the farthest, 0 for all, at least 0, got -1"),
        (HardConfig, {"negatives": 0}, "negatives is how many of the nearest, at least 1, got 0"),
        (SemiHardConfig, {"margin_dist": 0.0}, r"margin_dist is a distance of embeddings .* in \(0, 2\], got 0"),
        (EasyPositivesConfig, {"margin_dist": 3.0}, r"margin_dist is a distance .* in \(0, 2\], got 3"),
        (EasyPositivesConfig, {"negatives": "near"}, "negatives is semi_hard or hard, got 'near'"),
        (DistanceWeightedConfig, {"farthest_dist": 2.0}, r"0 < nearest_dist < farthest_dist < 2, got 0.5 and 2.0"),
        (DistanceWeightedConfig, {"nearest_dist": 1.5}, r"0 < nearest_dist < farthest_dist < 2, got 1.5 and 1.4"),
    ],
)
def test_a_bad_setting_of_a_miner_is_refused(config: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)
