from __future__ import annotations

from pathlib import Path

import torch
from threadpoolctl import threadpool_info

from stages.training import ArcFaceConfig, HeadRecipe, LinearHeadConfig, TrainingConfig, train_head
from stages.training.worker_threads import one_thread_each, threads_for, worker_count
from tests.toys.training import classes_of, toy


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_a_head_on_few_features_computes_on_one_thread_and_gives_the_others_back(tmp_path: Path) -> None:
    features, records = toy(tmp_path, classes_of(12, 4))
    before = torch.get_num_threads(), blas_threads()
    inside: list[tuple[int, list[int]]] = []
    try:
        torch.set_num_threads(2)
        train_head(
            features,
            records,
            HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig(), training=TrainingConfig(epochs=1)),
            on_epoch=lambda _: inside.append((torch.get_num_threads(), blas_threads())),
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before[0])
    assert inside
    assert all(threads == 1 and set(blas) == {1} for threads, blas in inside)
    assert blas_threads() == before[1]


def test_many_features_are_computed_on_all_threads_unless_the_caller_has_one() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with threads_for(10**9):
            assert torch.get_num_threads() == 2
        with threads_for(10**4):
            assert torch.get_num_threads() == 1
            assert worker_count(torch.device("cpu")) == 2
            with one_thread_each():
                assert worker_count(torch.device("cpu")) == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
