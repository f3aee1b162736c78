"""The targets of a head that learns attributes, read from the training records once and checked."""

from __future__ import annotations

from dataclasses import dataclass

from stages.records import Records
from stages.training.multilabel.labels import Attributes, read_attributes
from stages.training.multilabel.network import MultilabelHeadConfig
from stages.training.multilabel.posterior import PosteriorHeadConfig
from stages.training.multilabel.words import Vocabulary, read_vocabulary


@dataclass(frozen=True)
class AttributeTargets:
    """The attributes and the vocabulary, each where it is learned.

    Those of all training records, also while some are held out.
    """

    attributes: Attributes | None
    vocabulary: Vocabulary | None

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
