"""Everything that a head follows from, checked before anything is computed, and its identity."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np

from cache import Features, Identity
from cache.errors import RecordsError
from cache.fingerprint import JSON
from stages.records import Records
from stages.training.classes import in_large_classes
from stages.training.closed_form import ClosedFormConfig, DiscriminantHeadConfig
from stages.training.config import TrainingConfig
from stages.training.head import HeadConfig
from stages.training.initialization import check_start
from stages.training.loss import LossConfig
from stages.training.multilabel import MultilabelHeadConfig
from stages.training.multilabel.attribute_targets import Lessons, read_lessons
from stages.training.multilabel.labels import attributes_digest
from stages.training.optimizer import OptimizerConfig
from stages.training.pairs import PairLossConfig
from stages.training.rows import LARGE_BYTES, rows_digest
from stages.training.sampling import ByLossConfig, ClassesByImagesConfig, DomainWeightsConfig
from stages.training.validation import validation_digest

_RECIPE = 3  # raised when the same settings train other weights

Validation = tuple[Records, Records]


@dataclass(frozen=True)
class Setup:
    """Everything that a head follows from, checked, with the rows that have no feature left out.

    ``small`` counts the rows in classes below the minimum size, ``failed`` those without a feature. ``lessons`` is what
    a head that learns attributes learns of them.
    """

    features: Features
    records: Records
    validation: Validation | None
    head: HeadConfig
    loss: LossConfig | None
    start: ClosedFormConfig | None
    optimizer: OptimizerConfig
    training: TrainingConfig
    seed: int
    failed: int
    small: int
    lessons: Lessons | None = None

    @property
    def trained(self) -> bool:
        """Whether steps are made, rather than a closed form fitted."""
        return self.loss is not None or isinstance(self.head, MultilabelHeadConfig)

    def identity(self) -> Identity:
        """What the weights follow from; of a closed form alone, what it is fitted to."""
        fields: dict[str, JSON] = {
            "recipe": _RECIPE,
            "features": self.features.fingerprint,
            "head": _plain(self.head),
            "loss": None,
            "start": None if self.start is None else _plain(self.start),
            "training": {"minimum_class_size": self.training.minimum_class_size, "experts": self.training.experts},
            "seed": self.seed,
            "rows": rows_digest(self.records),
        }
        if self.lessons is not None:
            fields["attributes"] = attributes_digest(self.records)
        if self.trained:
            validation = None if self.validation is None else [*validation_digest(*self.validation)]
            trained: dict[str, JSON] = {
                "loss": None if self.loss is None else _plain(self.loss),
                "optimizer": _plain(self.optimizer),
                "training": _plain(self.training),
                "validation": cast("JSON", validation),
            }
            fields |= trained
        return Identity(fields)

    @property
    def mapped(self) -> bool:
        """True where the features stay on disk. Their size decides, not the machine's: so does the order of rows."""
        if self.training.memory != "auto":
            return self.training.memory == "map"
        rows = len(self.records) * self.features.views
        return rows * self.features.dim * self.features.dtype.itemsize > LARGE_BYTES


def prepare(
    features: Features,
    records: Records,
    head: HeadConfig,
    loss: LossConfig | None,
    *,
    start: ClosedFormConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    training: TrainingConfig | None = None,
    validation: Validation | None = None,
    seed: int = 0,
) -> Setup:
    """Check what :func:`stages.training.train_head` is given. Raises as it does."""
    if seed < 0:
        raise ValueError(f"seed is at least 0, got {seed}")
    training = _with_sampling(training or TrainingConfig(), loss)
    start = check_start(head, loss, start, training)
    for key, label in zip(records.keys, records.classes, strict=True):
        if label is None:
            raise RecordsError(f"the training record {key!r} has no label: label it, or leave it out of training")
    there = records.take(records.rows_in(features))
    large = in_large_classes(there.classes, training.minimum_class_size)
    used = there.take(np.flatnonzero(large))
    if validation is not None:
        queries, gallery = validation
        validation = queries.take(queries.rows_in(features)), gallery.take(gallery.rows_in(features))
        if isinstance(start, DiscriminantHeadConfig) and start.over == "auto":
            known = {*used.classes}
            seen = [name in known for name in validation[0].classes]
            start = replace(start, over="rows" if 2 * sum(seen) > len(seen) else "classes")
    if len(set(used.classes)) < 2:
        raise RecordsError(
            f"a head learns to tell classes apart and needs two; of {len(records):,} training records "
            f"{len(records) - len(there):,} have no feature, {len(there) - len(used):,} are in classes of fewer than "
            f"{training.minimum_class_size}, and the rest has {len(set(used.classes))} class(es)"
        )
    if training.experts and (getattr(head, "nested", None) or isinstance(training.sampling, DomainWeightsConfig)):
        raise ValueError(
            "experts are one head a domain: leave nested sizes out, and a sampling that weighs domains against each "
            "other, or set training.experts = false"
        )
    if isinstance(training.sampling, DomainWeightsConfig) and len({*used.domains}) < 2:
        raise RecordsError(
            f"training.sampling.kind = {training.sampling.kind!r} tells domains apart and needs two, but the training "
            f"records have {len({*used.domains} - {None})}: name the column, dataset.domain = ..., or sample otherwise"
        )
    _check_pairs(loss, training, used)
    return Setup(
        features=features,
        records=used,
        validation=validation,
        head=head,
        loss=loss,
        start=start,
        optimizer=optimizer or OptimizerConfig(),
        training=training,
        seed=seed,
        failed=len(records) - len(there),
        small=len(there) - len(used),
        lessons=read_lessons(head, used),
    )


def _with_sampling(training: TrainingConfig, loss: LossConfig | None) -> TrainingConfig:
    """``training`` with the sampling that suits ``loss``, where that is to choose."""
    if not isinstance(training.sampling, ByLossConfig):
        return training
    return replace(
        training, sampling=training.sampling.chosen(of_pairs=isinstance(loss, PairLossConfig) and loss.of_pairs)
    )


def _check_pairs(loss: LossConfig | None, training: TrainingConfig, records: Records) -> None:
    """Raise where a loss that compares the rows of a class could never find two."""
    if not isinstance(loss, PairLossConfig) or not loss.of_pairs:
        return
    if isinstance(training.sampling, ClassesByImagesConfig) and training.sampling.images < 2:
        raise ValueError(f"the loss {loss.kind} compares rows of a class: sampling.images is at least 2, got 1")
    sizes = Counter(records.classes)
    if max(sizes.values()) < 2:
        raise RecordsError(
            f"the loss {loss.kind} compares rows of a class, but each of the {len(sizes):,} training classes has one: "
            "take a margin loss or one on proxies, or a coarser label"
        )


def _plain(config: Any) -> JSON:  # any frozen dataclass of the stage
    """A configuration as plain JSON: what was a tuple is a list."""
    return cast("JSON", json.loads(json.dumps(asdict(config))))
