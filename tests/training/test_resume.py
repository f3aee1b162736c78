"""A training that is killed and started again ends with the bytes of the one that was not."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.records import Records
from stages.training import (
    AdaFaceConfig,
    ArcFaceConfig,
    BatchNormHeadConfig,
    CosFaceConfig,
    CurricularFaceConfig,
    ElasticArcFaceConfig,
    EpochLog,
    Head,
    HeadConfig,
    HeadRecipe,
    LdaHeadConfig,
    LinearHeadConfig,
    LossConfig,
    OptimizerConfig,
    SampledConfig,
    TrainingConfig,
    train_head,
)
from stages.training.loop import Checkpoint
from stages.training.pairs.kinds import MarginConfig, SoftTripleConfig, SupConConfig, TripletConfig
from stages.training.rows.sampling import DomainWeightsConfig
from tests.forks import Forks
from tests.toys.killed import make_features, train_and_save
from tests.toys.training import classes_of, make_records, toy

TRAIN, HELD = classes_of(20, 8), classes_of(8, 6, first=50)
PLAIN = TrainingConfig(epochs=5, batch_size=32)


class StoppedError(Exception):
    pass


def stop_after(epochs: int) -> Callable[[EpochLog], None]:
    heard: list[EpochLog] = []

    def listen(epoch: EpochLog) -> None:
        heard.append(epoch)
        if len(heard) == epochs:
            raise StoppedError

    return listen


def timeless(log: tuple[EpochLog, ...]) -> list[EpochLog]:
    return [replace(epoch, seconds=0) for epoch in log]


def domains_of(records: Records) -> Records:
    """Every fourth class in a domain of its own."""
    names = [f"domain {int(str(label).split()[1]) % 4 == 0}" for label in records.labels]
    table = records.table
    return Records(table.set_column(table.column_names.index("domain"), "domain", [names]), {})


CASES: dict[str, tuple[HeadConfig, LossConfig, TrainingConfig, OptimizerConfig]] = {
    "dropout": (LinearHeadConfig(dim=4, dropout=0.5), ArcFaceConfig(subcenters=2), PLAIN, OptimizerConfig()),
    "momentum": (LinearHeadConfig(dim=4), ArcFaceConfig(), PLAIN, OptimizerConfig(kind="sgd", lr=0.1)),
    "running statistics": (BatchNormHeadConfig(dim=4), ArcFaceConfig(), PLAIN, OptimizerConfig(kind="adamw")),
    "averages": (
        LinearHeadConfig(dim=4),
        ArcFaceConfig(),
        replace(PLAIN, ema=0.9, soup_epochs=3, soup=2),
        OptimizerConfig(),
    ),
    "sharpness": (LinearHeadConfig(dim=4), ArcFaceConfig(), replace(PLAIN, sam_rho=0.05), OptimizerConfig()),
    "a start": (
        LdaHeadConfig(dim=4),
        CosFaceConfig(),
        replace(PLAIN, anchor=(0.0, 0.5, 1.0), holdout=0.3),
        OptimizerConfig(),
    ),
    "random margins": (LinearHeadConfig(dim=4), ElasticArcFaceConfig(), PLAIN, OptimizerConfig()),
    "what a loss learns": (LinearHeadConfig(dim=4), CurricularFaceConfig(), PLAIN, OptimizerConfig()),
    "norms": (LinearHeadConfig(dim=4), AdaFaceConfig(), PLAIN, OptimizerConfig()),
    "sampled classes": (
        LinearHeadConfig(dim=4),
        CosFaceConfig(sampled=SampledConfig(share=0.3)),
        PLAIN,
        OptimizerConfig(),
    ),
    "drawn negatives and a learned distance": (LinearHeadConfig(dim=4), MarginConfig(), PLAIN, OptimizerConfig()),
    "a memory": (
        LinearHeadConfig(dim=4, nested=(2,)),
        TripletConfig(memory=70),
        replace(PLAIN, sam_rho=0.05, soup=2),
        OptimizerConfig(),
    ),
    "a memory that is never full": (LinearHeadConfig(dim=4), SupConConfig(memory=50_000), PLAIN, OptimizerConfig()),
    "proxies of another rate": (
        LinearHeadConfig(dim=4),
        SoftTripleConfig(),
        PLAIN,
        OptimizerConfig(kind="sgd", lr=0.1),
    ),
    "domain weights": (
        LinearHeadConfig(dim=4),
        ArcFaceConfig(),
        replace(PLAIN, sampling=DomainWeightsConfig()),
        OptimizerConfig(),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("validated", [True, False], ids=["validation records", "held-out classes"])
def test_a_training_that_goes_on_from_any_epoch_gives_the_same_bits(tmp_path: Path, case: str, validated: bool) -> None:
    config, loss, training, optimizer = CASES[case]
    features, _ = toy(tmp_path, TRAIN | HELD)
    records, held = domains_of(make_records(TRAIN)), domains_of(make_records(HELD))
    validation = (held, held) if validated else None

    def trained(checkpoint: Path | None, listen: Callable[[EpochLog], None] | None = None) -> Head:
        return train_head(
            features,
            records,
            HeadRecipe(config, loss, optimizer=optimizer, training=training),
            validation=validation,
            on_epoch=listen,
            checkpoint=checkpoint,
        )

    whole = trained(None)
    whole.save(tmp_path / "whole")
    expected = (tmp_path / "whole/head.safetensors").read_bytes()
    for stop in (1, 3, len(whole.log) - 1):
        checkpoint = tmp_path / f"checkpoint {stop}"
        with pytest.raises(StoppedError):
            trained(checkpoint, stop_after(stop))
        heard: list[EpochLog] = []
        resumed = trained(checkpoint, heard.append)
        assert len(heard) == len(whole.log) - stop
        resumed.save(tmp_path / "resumed")
        assert (tmp_path / "resumed/head.safetensors").read_bytes() == expected
        assert timeless(resumed.log) == timeless(whole.log)


def test_a_checkpoint_of_another_head_or_a_broken_one_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    Checkpoint(path, "a" * 64).keep("train 1", {"log": [1, 2.5, "x"], "kept": torch.arange(3)})
    saved = Checkpoint(path, "a" * 64).part("train 1")
    assert saved is not None
    assert saved["log"] == [1, 2.5, "x"]
    assert Checkpoint(path, "b" * 64).part("train 1") is None
    path.write_bytes(path.read_bytes()[:100])
    assert Checkpoint(path, "a" * 64).part("train 1") is None
    assert Checkpoint(None, "a" * 64).part("train 1") is None


def test_training_stops_early_when_validation_gets_no_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.training.rows import validation

    features, _ = toy(tmp_path, TRAIN | HELD)
    scores = iter([0.1, 0.4, 0.3, 0.4, 0.5, 0.4, 0.4, 0.4, 0.9])
    monkeypatch.setattr(validation.ValidationSet, "score", lambda *_: next(scores))
    held = make_records(HELD)
    head = train_head(
        features,
        make_records(TRAIN),
        HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig(), training=replace(PLAIN, epochs=9, patience=3)),
        validation=(held, held),
    )
    assert [epoch.validation_mmp5 for epoch in head.log] == [0.1, 0.4, 0.3, 0.4, 0.5, 0.4, 0.4, 0.4]
    assert head.summary.epoch == 5


@pytest.mark.slow
def test_killed_and_started_again_the_head_has_the_bytes_of_the_uninterrupted_one(tmp_path: Path) -> None:
    with Forks("tests.toys.killed:train_until_killed") as forks:
        for what, kills in {"margin loss": (2, -1), "pair loss": (2,), "attributes": (-2,)}.items():
            folder = tmp_path / what
            store = make_features(folder / "features", what)
            whole: list[EpochLog] = []
            train_and_save(store, folder / "whole", what, whole.append)
            for kill in kills:
                killed, epochs = folder / f"killed {kill}", range(1, len(whole) + 1)[kill]
                assert forks.run(str(store), str(killed), what, epochs) == -signal.SIGKILL
                assert not (killed / "head.safetensors").exists()
                rest: list[EpochLog] = []
                train_and_save(store, killed, what, rest.append)
                assert timeless(tuple(rest)) == timeless(tuple(whole[epochs:]))
                assert (killed / "head.safetensors").read_bytes() == (folder / "whole/head.safetensors").read_bytes()
