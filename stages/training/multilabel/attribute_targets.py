"""What a head learns of attributes and tags: read from the training records once, checked, and made a loss or a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.records import Records
from stages.training.multilabel.kinds import MultilabelHeadConfig, PosteriorHeadConfig
from stages.training.multilabel.labels import Attributes, Vocabulary, read_attributes, read_vocabulary

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from stages.training.losses.kernel import MarginSoftmax
    from stages.training.multilabel.fit_posterior import Fitted
    from stages.training.multilabel.tasks import Objective


@dataclass(frozen=True)
class AttributeTargets:
    """The attributes and the vocabulary, each where it is learned.

    Those of all training records, also while some are held out.
    """

    attributes: Attributes | None
    vocabulary: Vocabulary | None

    def build(
        self,
        head: MultilabelHeadConfig,
        dim: int,
        records: Records,
        instance: MarginSoftmax | None,
        labels: Tensor,
        generator: torch.Generator,
    ) -> Objective:
        """The objective of a hidden layer of size ``dim`` over ``records`` with ``labels`` (N,).

        ``instance`` is the loss on labels, if any; what is random is drawn from ``generator``.
        """
        from stages.training.multilabel.tasks import (
            AttributeClassifiers,
            ByInstance,
            ByOverlap,
            Objective,
            TagGenerator,
            WordClassifier,
        )

        tasks: dict[str, nn.Module] = {}
        words = self.vocabulary
        targets = [] if self.attributes is None else self.attributes.targets(records)
        if head.task != "tags":
            assert self.attributes is not None
            widths = [len(attribute.values) for attribute in self.attributes.learned]
            tasks["attributes"] = AttributeClassifiers(dim, targets, widths, head.balanced, head.asymmetric, generator)
        if words is not None and head.tags == "gru":
            tasks["tags"] = TagGenerator(dim, *words.sentences(records), len(words.words), generator)
        elif words is not None:
            tasks["tags"] = WordClassifier(dim, words.bags(records), head.asymmetric, generator)
        if head.contrastive is not None:
            tasks["overlap"] = ByOverlap(targets, head.contrastive)
        if instance is not None:
            tasks["instance"] = ByInstance(instance, labels, head.instance_weight)
        return Objective(tasks, learned=head.task_weights == "learned")

    def fit(
        self, head: PosteriorHeadConfig, features: Tensor, records: Records, labels: Tensor, blocks: Sequence[int]
    ) -> Fitted:
        """The posterior head of training ``features`` (N, D) of ``records`` with ``labels`` (N,)."""
        from stages.training.multilabel.fit_posterior import fit_posterior

        assert self.attributes is not None
        return fit_posterior(head, features, self.attributes, self.attributes.targets(records), labels, blocks)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The attributes that could not be learned."""
        return () if self.attributes is None else self.attributes.left_out


def read_attribute_targets(head: object, records: Records) -> AttributeTargets | None:
    """What ``head`` learns of the attributes and tags of ``records``; None for a head that learns labels alone.

    Raises RecordsError for what cannot be learned.
    """
    if isinstance(head, PosteriorHeadConfig):
        return AttributeTargets(read_attributes(records, head.attributes), None)
    if not isinstance(head, MultilabelHeadConfig):
        return None
    attributes = read_attributes(records, head.attributes) if head.learns_attributes else None
    vocabulary = read_vocabulary(records) if head.task != "attributes" else None
    return AttributeTargets(attributes, vocabulary)
