"""The checked inputs of a training, and the identity of the head that follows from them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from cache import Features, Identity, fingerprint
from cache.digest_list import joined_digests
from cache.errors import RecordsError, SettingsError
from cache.features import numbers_fingerprint
from cache.fingerprint import JSON
from cache.settings import changed_settings
from stages.records import Records
from stages.training.closed_form.kinds import (
    ClosedFormConfig,
    DiscriminantHeadConfig,
    LdaHeadConfig,
    PcaHeadConfig,
    RidgeHeadConfig,
    WhiteningHeadConfig,
)
from stages.training.multilabel.kinds import MultilabelHeadConfig
from stages.training.multilabel.labels import AttributeTargets, attributes_digest, read_attribute_targets
from stages.training.own_code import own_code
from stages.training.pairs.kinds import PairLossConfig
from stages.training.recipe import HeadConfig, HeadRecipe, LossConfig, OptimizerConfig, TrainingConfig, as_recipe
from stages.training.rows.labelled_rows import LARGE_BYTES, in_training_order, rows_digest, validation_digest
from stages.training.rows.sampling import ClassesByImagesConfig, DomainWeightsConfig
from stages.training.text.kinds import TextHeadConfig
from stages.training.text.sentences import ENCODER, sentences_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_VERSION = 5  # raised when the same settings train other weights, or when a default changes

Validation = tuple[Records, Records]


@dataclass(frozen=True)
class TrainingInputs:
    """Everything that a head follows from, checked; made by :func:`prepare`.

    Attributes:
        records: the training rows that have a feature and are in classes that are large enough, in training order.
        validation: queries and gallery that have a feature, in training order.
        recipe: with the sampling that suits the loss.
        closed_form: that of the recipe, with its choices that follow from the records made.
        failed: how many rows have no feature.
        small: how many rows are in classes below the minimum size.
        attribute_targets: what a head that learns attributes learns of them.
        device: what the steps are computed on; not part of the identity, nor are the next two.
        group: of processes that share the classes of the loss out.
        expert: the domain whose expert is trained on these.
    """

    features: Features
    records: Records
    validation: Validation | None
    recipe: HeadRecipe
    closed_form: ClosedFormConfig | None
    seed: int
    failed: int
    small: int
    attribute_targets: AttributeTargets | None = None
    device: str = "cpu"
    group: ProcessGroup | None = None
    expert: str | None = None

    @property
    def training(self) -> TrainingConfig:
        """The training settings of the recipe."""
        return self.recipe.training

    def identity(self) -> Identity:
        """What the weights follow from; of a closed form alone, what it is fitted to.

        Only settings that differ from their defaults are in it: an option that is added trains no head again.
        """
        recipe, training = self.recipe, self.recipe.training
        if not recipe.is_trained:  # these two choose the rows of a closed form; no other setting has an effect on it
            training = TrainingConfig(minimum_class_size=training.minimum_class_size, experts=training.experts)
            recipe = replace(recipe, optimizer=OptimizerConfig(), training=training)
        identity: dict[str, JSON] = {
            "version": _VERSION,
            "features": self.features.fingerprint,
            "recipe": changed_settings(recipe),
            "seed": self.seed,
            "rows": rows_digest(self.records),
        }
        if code := own_code(recipe):
            identity["code"] = code
        if self.closed_form is not None:
            identity["closed_form"] = changed_settings(self.closed_form)
        by_classes = isinstance(self.closed_form, DiscriminantHeadConfig) and self.closed_form.over != "rows"
        if by_classes and len({*self.records.labels}) < len({*self.records.classes}):
            identity["folds"] = "a label in all its domains"
        if self.attribute_targets is not None:
            identity["attributes"] = attributes_digest(self.records)
        if isinstance(recipe.head, TextHeadConfig):
            identity["sentences"] = fingerprint([*sentences_of(self.records, recipe.head.columns)])
            identity["encoder"] = ENCODER
        used = self.records.digests
        if recipe.is_trained and self.validation is not None:
            identity["validation"] = cast("JSON", validation_digest(*self.validation))
            used = joined_digests([used, *(side.digests for side in self.validation)])
        identity["numbers"] = numbers_fingerprint(self.features, used)
        return Identity(identity)

    @property
    def mapped(self) -> bool:
        """True where the features stay on disk. Their size decides, not the machine's: so does the order of rows."""
        if self.training.memory != "auto":
            return self.training.memory == "map"
        rows = len(self.records) * self.features.views
        return rows * self.features.dim * self.features.dtype.itemsize > LARGE_BYTES


def prepare(
    features: Features, records: Records, recipe: HeadRecipe, *, validation: Validation | None = None, seed: int = 0
) -> TrainingInputs:
    """Check what :func:`stages.training.train_head` is given. Raises as it does."""
    if seed < 0:
        raise SettingsError(f"seed is at least 0, got {seed}")
    recipe = replace(recipe, training=replace(recipe.training, sampling=recipe.sampling))
    check_labels(records)
    extracted = records.take(records.rows_in(features))
    used, targets = _used(recipe, records, extracted)
    closed_form = recipe.closed_form
    if validation is not None:
        queries, gallery = (in_training_order(side.take(side.rows_in(features))) for side in validation)
        validation = queries, gallery
        if isinstance(closed_form, DiscriminantHeadConfig) and closed_form.over == "auto":
            known = {*used.classes}
            seen = [name in known for name in queries.classes]
            closed_form = replace(closed_form, over="rows" if 2 * sum(seen) > len(seen) else "classes")
    failed, small = len(records) - len(extracted), len(extracted) - len(used)
    inputs = TrainingInputs(features, used, validation, recipe, closed_form, seed, failed, small, targets)
    return replace(inputs, records=in_training_order(used, features if inputs.mapped else None))


def check_records(records: Records, recipe: HeadRecipe) -> None:
    """Raise what :func:`prepare` and a closed form would for what ``records`` lack, before they have features."""
    check_labels(records)
    sampled = replace(recipe, training=replace(recipe.training, sampling=recipe.sampling))
    used, _ = _used(sampled, records, records)
    closed_form, rows, classes = recipe.closed_form, len(used), len({*used.classes})
    most = math.inf
    if isinstance(closed_form, (LdaHeadConfig, RidgeHeadConfig)):
        most = classes - 1
    elif isinstance(closed_form, (PcaHeadConfig, WhiteningHeadConfig)):
        most = rows - 1
    if closed_form is not None and closed_form.dim > most and not recipe.training.experts:
        raise SettingsError(
            f"dim is {closed_form.dim:,}, but {rows:,} images of {classes:,} classes give {closed_form.kind} at most "
            f"{most:,}: set dim to {most:,} or less"
        )


def _used(recipe: HeadRecipe, records: Records, extracted: Records) -> tuple[Records, AttributeTargets | None]:
    """Those of ``extracted`` in classes that are large enough, and what a head learns of their attributes.

    Raises where they are too few or lack something.
    """
    training, loss = recipe.training, recipe.loss
    least = 1 if isinstance(recipe.head, TextHeadConfig) else training.minimum_class_size  # it learns no class
    sizes = Counter(extracted.classes)
    used = extracted.take([row for row, label in enumerate(extracted.classes) if sizes[label] >= least])
    sizes = Counter(used.classes)
    if len(sizes) < 2:
        raise RecordsError(
            f"a head learns to separate classes and needs two; of {len(records):,} training records "
            f"{len(records) - len(extracted):,} have no feature, {len(extracted) - len(used):,} are in classes of "
            f"fewer than {training.minimum_class_size}, and the rest has {len(sizes)} class(es)"
        )
    weighted = isinstance(training.sampling, DomainWeightsConfig)
    if training.experts and (getattr(recipe.head, "nested", None) or weighted):
        raise SettingsError(
            "experts are one head a domain: leave nested sizes out, and a sampling that weighs domains against each "
            "other, or set training.experts = false"
        )
    if weighted and len({*used.domains}) < 2:
        raise RecordsError(
            f"training.sampling.kind = {training.sampling.kind!r} weighs domains and needs two, but the training "
            f"records have {len({*used.domains} - {None})}: name the column, dataset.domain = ..., or sample otherwise"
        )
    if isinstance(loss, PairLossConfig) and loss.of_pairs:  # it compares the rows of a class
        if isinstance(training.sampling, ClassesByImagesConfig) and training.sampling.images < 2:
            raise SettingsError(f"the loss {loss.kind} compares rows of a class: sampling.images is at least 2, got 1")
        if max(sizes.values()) < 2:
            raise RecordsError(
                f"the loss {loss.kind} compares rows of a class, but each of the {len(sizes):,} training classes has "
                "one: take a margin loss or one on proxies, or a coarser label"
            )
    return used, read_attribute_targets(recipe.head, used)


def head_identity(
    features: Features,
    records: Records,
    recipe: HeadRecipe | HeadConfig,
    loss: LossConfig | None = None,
    *,
    validation: Validation | None = None,
    seed: int = 0,
) -> Identity:
    """The identity of the head that :func:`train_head` would train: a saved head that has it need not be trained.

    >>> import tempfile
    >>> from stages.training import ArcFaceConfig, LinearHeadConfig
    >>> from tests.toys.training import classes_of, toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     features, records = toy(folder, classes_of(6, 4))
    ...     head_identity(features, records, LinearHeadConfig(dim=4), ArcFaceConfig()).fields["recipe"]
    {'head': {'kind': 'linear', 'dim': 4}, 'loss': {'kind': 'arcface'}, 'training': {'sampling': {'kind': 'shuffled'}}}
    """
    return prepare(features, records, as_recipe(recipe, loss), validation=validation, seed=seed).identity()


def check_labels(records: Records) -> None:
    """Raise RecordsError for the first training record without a label, and where there is none at all."""
    if not len(records):
        raise RecordsError(
            "there is no training image, and a head learns from images with labels: label them, or name the split that "
            "trains (train = ... under [dataset]). The raw feature needs neither: leave out [[heads]], or search with "
            "--head raw"
        )
    if records.table["label"].null_count:
        key = records.keys[records.classes.index(None)]
        raise RecordsError(f"the training record {key!r} has no label: label it, or leave it out of training")


def check_device(recipe: HeadRecipe, device: str) -> None:
    """Raise ValueError where steps of ``recipe`` cannot be computed on ``device``."""
    on_pairs = isinstance(recipe.loss, PairLossConfig)
    if device != "cpu" and (on_pairs or isinstance(recipe.head, MultilabelHeadConfig)):
        what = f"a {recipe.head.kind} head" if not on_pairs else f"the loss {recipe.method}"
        raise SettingsError(
            f"{what} is trained on the CPU, and margin losses alone on {device}: leave device out, or take one"
        )


def check_group(recipe: HeadRecipe) -> None:
    """Raise ValueError where ``recipe`` has no class matrix that processes can share out."""
    loss, alone = recipe.loss, "train it in one process"
    if isinstance(recipe.head, MultilabelHeadConfig) or not recipe.is_trained or isinstance(loss, PairLossConfig):
        what = f"the loss {recipe.method}" if isinstance(loss, PairLossConfig) else f"a {recipe.head.kind} head"
        raise SettingsError(
            f"several processes share the prototypes of a margin loss out, and {what} has none: {alone}"
        )
    if recipe.closed_form is not None:
        raise SettingsError(
            "several processes begin at random weights, where one has the sums of all classes for a closed form: leave "
            f"start out, or {alone}"
        )
    if getattr(loss, "sampled", None) is not None or recipe.training.sam_rho:
        name = "training.sam_rho" if recipe.training.sam_rho else "loss.sampled"
        raise SettingsError(f"several processes share all classes out: leave {name} out, or {alone}")
