from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cache.errors import MissingExtraError
from stages.training import EpochLog, epoch_events

EPOCHS = [
    EpochLog("choose", 1, 2.5, 1e-3, 0.25, 0.1),
    EpochLog("choose", 2, 2.0, 1e-3, 0.5, 0.1, pairs=384.0, zero_share=0.25, hardness=-0.125),
    EpochLog("train", 1, 2.25, 2e-3, None, 0.1, member=2, domain_weights={"cars": 0.75, "food": 0.25}),
]


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'permafrost-retrieval\[tensorboard\]'"),
        epoch_events(tmp_path),
    ):
        pass


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with epoch_events(None) as write:
        write(EPOCHS[0])
    assert not list(tmp_path.iterdir())


def test_every_number_of_an_epoch_is_an_event(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with epoch_events(tmp_path) as write:
        for epoch in EPOCHS:
            write(epoch)
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {
        "choose/loss": [(1, 2.5), (2, 2.0)],
        "choose/lr": [(1, pytest.approx(1e-3)), (2, pytest.approx(1e-3))],
        "choose/validation_mmp5": [(1, 0.25), (2, 0.5)],
        "choose/pairs": [(2, 384.0)],
        "choose/zero_share": [(2, 0.25)],
        "choose/hardness": [(2, -0.125)],
        "train 2/loss": [(1, 2.25)],
        "train 2/lr": [(1, pytest.approx(2e-3))],
        "train 2/domain_weights/cars": [(1, 0.75)],
        "train 2/domain_weights/food": [(1, 0.25)],
    }
