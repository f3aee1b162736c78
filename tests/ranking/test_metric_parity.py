"""Each metric against the libraries that have it, under the convention that each uses, on random rankings.

==================  =================================  ===============================================================
ours                ir_measures (trec_eval), ranx      others
==================  =================================  ===============================================================
``map``             AP, map                            scikit-learn average_precision_score; torchmetrics without k
``map@k/r``         AP@k, map@k                        PyTorch Metric Learning mean_average_precision
``map@k/hits``                                         torchmetrics average precision with top_k
``precision@k``     P@k, precision@k                   torchmetrics precision; PyTorch Metric Learning precision_at_1
``recall@k``        R@k, recall@k                      torchmetrics recall
``hit@k``           Success@k, hit_rate@k              torchmetrics hit rate
``r_precision``     Rprec, r-precision                 torchmetrics and PyTorch Metric Learning r_precision
``mrr``             RR, mrr                            torchmetrics reciprocal rank (and ``mrr@k`` with top_k)
``ndcg``            nDCG, ndcg                         scikit-learn ndcg_score; torchmetrics normalized DCG
``ndcg@k``          nDCG@k, ndcg@k                     the same two
``map@r``                                              PyTorch Metric Learning mean_average_precision_at_r
==================  =================================  ===============================================================

ranx compiles for a minute and brings plotting libraries, so it is not installed for the tests; where it follows
trec_eval, the column above stands for both. ``mmp@k``, ``mp@k``, ``map_trapezoid``, ``map@k/min`` and ``map@k/k`` are
in no library: tests/test_metrics.py has them as loops.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import ir_measures
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchmetrics.functional.retrieval as torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Rprec, Success, nDCG
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import average_precision_score, ndcg_score

from stages.ranking import find_metric
from stages.ranking.ties import Ties, averaged, tied_order

Mask = npt.NDArray[np.bool_]


class Rankings(NamedTuple):
    """Scores (Q, G) and what is relevant (Q, G), by gallery row. Some queries have nothing relevant."""

    scores: npt.NDArray[np.float64]
    relevant: Mask

    @property
    def ranked(self) -> Mask:
        """What is relevant by rank, equal scores in gallery order."""
        return np.take_along_axis(self.relevant, Ties.of(self.scores).order, axis=1)

    def value(self, name: str) -> npt.NDArray[np.float64]:
        return find_metric(name).function(self.ranked, self.relevant.sum(axis=1))


def rankings(seed: int, ties: bool) -> Rankings:
    """60 rankings of 2 to 40 rows."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 41))
    scores = rng.integers(1, max(2, rows // 3), (60, rows)).astype(float)
    if not ties:
        scores = rng.permuted(np.tile(np.arange(1.0, rows + 1), (60, 1)), axis=1)
    relevant = rng.random((60, rows)) < rng.uniform(0.02, 0.6, (60, 1))
    relevant[:5] = False
    return Rankings(scores, relevant)


TREC = {
    "map": AP,
    "map@5/r": AP @ 5,
    "precision@5": P @ 5,
    "recall@5": R @ 5,
    "hit@3": Success @ 3,
    "r_precision": Rprec,
    "mrr": RR,
    "ndcg": nDCG,
    "ndcg@5": nDCG @ 5,
}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), ties=st.booleans())
def test_trec_eval_agrees_which_breaks_ties_by_name_backwards(seed: int, ties: bool) -> None:
    result = rankings(seed, ties)
    names = [f"{50_000 - row}" for row in range(result.scores.shape[1])]  # so that backwards is gallery order
    run = {f"{q}": dict(zip(names, map(float, scores), strict=True)) for q, scores in enumerate(result.scores)}
    truth = {f"{q}": dict(zip(names, map(int, row), strict=True)) for q, row in enumerate(result.relevant)}
    theirs: dict[str, dict[int, float]] = defaultdict(dict)
    for value in ir_measures.iter_calc(list(TREC.values()), truth, run):
        theirs[str(value.measure)][int(value.query_id)] = value.value
    for ours, measure in TREC.items():
        values = [theirs[str(measure)].get(query, 0.0) for query in range(60)]
        np.testing.assert_allclose(result.value(ours), values, atol=1e-9, err_msg=ours)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_torchmetrics_agrees_on_positive_scores(seed: int) -> None:
    result = rankings(seed, ties=False)
    k = min(4, result.scores.shape[1])
    theirs: dict[str, Callable[..., torch.Tensor]] = {
        "map": torchmetrics.retrieval_average_precision,
        f"map@{k}/hits": lambda p, t: torchmetrics.retrieval_average_precision(p, t, top_k=k),
        f"precision@{k}": lambda p, t: torchmetrics.retrieval_precision(p, t, top_k=k),
        f"recall@{k}": lambda p, t: torchmetrics.retrieval_recall(p, t, top_k=k),
        f"hit@{k}": lambda p, t: torchmetrics.retrieval_hit_rate(p, t, top_k=k),
        "r_precision": torchmetrics.retrieval_r_precision,
        "mrr": torchmetrics.retrieval_reciprocal_rank,
        f"mrr@{k}": lambda p, t: torchmetrics.retrieval_reciprocal_rank(p, t, top_k=k),
        "ndcg": torchmetrics.retrieval_normalized_dcg,
        f"ndcg@{k}": lambda p, t: torchmetrics.retrieval_normalized_dcg(p, t, top_k=k),
    }
    scores, relevant = torch.from_numpy(result.scores), torch.from_numpy(result.relevant)
    for ours, function in theirs.items():
        values = [float(function(*query)) for query in zip(scores, relevant, strict=True)]
        np.testing.assert_allclose(result.value(ours), values, atol=1e-6, err_msg=ours)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_torchmetrics_and_scikit_learn_average_ndcg_over_ties_as_expected_does(seed: int) -> None:
    result = rankings(seed, ties=True)
    table = tied_order(result.scores, result.relevant, result.relevant.sum(axis=1))
    for ours, k in (("ndcg", None), ("ndcg@2", 2)):
        values = averaged(find_metric(ours), table)
        for query in np.flatnonzero(result.relevant.any(axis=1)):
            scores, relevant = result.scores[query], result.relevant[query]
            theirs = torchmetrics.retrieval_normalized_dcg(
                torch.from_numpy(scores), torch.from_numpy(relevant), top_k=k
            )
            assert values[query] == pytest.approx(float(theirs), abs=1e-6)
            assert values[query] == pytest.approx(ndcg_score([relevant], [scores], k=k), abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_scikit_learn_agrees(seed: int) -> None:
    result = rankings(seed, ties=False)
    answerable = result.relevant.any(axis=1)
    pairs = list(zip(result.relevant[answerable], result.scores[answerable], strict=True))
    theirs = {
        "map": [average_precision_score(*pair) for pair in pairs],
        "ndcg": [ndcg_score([relevant], [scores]) for relevant, scores in pairs],
        "ndcg@3": [ndcg_score([relevant], [scores], k=3) for relevant, scores in pairs],
    }
    for ours, values in theirs.items():
        np.testing.assert_allclose(result.value(ours)[answerable], values, atol=1e-9, err_msg=ours)


def test_pytorch_metric_learning_agrees() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        vectors, labels = rng.normal(size=(120, 6)).astype(np.float32), rng.integers(0, 14, 120)
        distance = ((vectors[:, None].astype(np.float64) - vectors[None]) ** 2).sum(axis=2)
        np.fill_diagonal(distance, np.inf)
        ranked = (labels[np.argsort(distance, axis=1)] == labels[:, None])[:, :-1]
        counts = np.bincount(labels)[labels] - 1
        for k in (3, 119):
            measures = ("mean_average_precision", "precision_at_1", "mean_reciprocal_rank")
            if k == 119:
                measures += ("mean_average_precision_at_r", "r_precision")  # type: ignore[assignment]
            theirs = AccuracyCalculator(include=measures, k=k, device=torch.device("cpu")).get_accuracy(
                torch.from_numpy(vectors), torch.from_numpy(labels)
            )
            ours = {
                "mean_average_precision": f"map@{k}/r",
                "mean_average_precision_at_r": "map@r",
                "r_precision": "r_precision",
                "precision_at_1": "precision@1",
                "mean_reciprocal_rank": f"mrr@{k}",
            }
            for measure in measures:
                values = find_metric(ours[measure]).function(ranked[counts > 0], counts[counts > 0])
                assert values.mean() == pytest.approx(theirs[measure], abs=1e-6), measure


def test_one_ranking_on_which_libraries_call_four_numbers_map_at_5() -> None:
    ranked = np.isin(np.arange(1, 11), [2, 4, 8])
    result = Rankings(np.arange(10.0, 0, -1)[None], ranked[None])
    truth, run = {"q": {f"{r}": int(hit) for r, hit in enumerate(ranked)}}, {"q": {f"{r}": 10.0 - r for r in range(10)}}
    assert [value.value for value in ir_measures.iter_calc([AP @ 5], truth, run)] == pytest.approx([1 / 3])
    scores = torch.arange(10.0, 0, -1)
    assert float(torchmetrics.retrieval_average_precision(scores, torch.from_numpy(ranked), top_k=5)) == 0.5
    for name, value in {"map@5/r": 1 / 3, "map@5/min": 1 / 3, "map@5/hits": 1 / 2, "map@5/k": 1 / 5}.items():
        assert result.value(name) == pytest.approx([value])
