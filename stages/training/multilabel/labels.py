"""The attributes and tags of training records as numbers, in one order whatever the machine.

What cannot be learned of them is refused by column and count.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache.errors import RecordsError, did_you_mean
from stages.records import Records
from stages.records.several import SEPARATOR, different, listed, several
from stages.training.multilabel.kinds import AttributesConfig, MultilabelHeadConfig, PosteriorHeadConfig

if TYPE_CHECKING:
    from torch import Tensor


MORE_THAN = 5  # a word of the vocabulary is in more training records than this
_STEM = "attributes."
_SHOWN = 3  # values named in a message


@dataclass(frozen=True)
class Attribute:
    """One attribute: its name and its C values, in sorted order; ``several`` of them may be true of a record."""

    name: str
    values: tuple[str, ...]
    several: bool

    def targets(self, records: Records) -> Tensor:
        """What the records are: numbers (N,), -1 where missing; of several values 0 or 1 (N, C), NaN where missing."""
        import torch

        places = {value: place for place, value in enumerate(self.values)}
        texts = records.attribute(self.name)
        if not self.several:
            return torch.tensor([-1 if text is None else places[text] for text in texts], dtype=torch.int64)
        pairs = zip(texts, several(records, _STEM + self.name), strict=True)
        rows = [None if text is None else [places[value] for value in own] for text, own in pairs]
        return _indicators(rows, len(self.values))


@dataclass(frozen=True)
class Attributes:
    """The attributes that are learned, and the names of those that had to be left out."""

    learned: tuple[Attribute, ...]
    left_out: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return sum(len(attribute.values) for attribute in self.learned)

    def targets(self, records: Records) -> list[Tensor]:
        return [attribute.targets(records) for attribute in self.learned]


@dataclass(frozen=True)
class Vocabulary:
    """W words, in sorted order."""

    words: tuple[str, ...]

    def bags(self, records: Records) -> Tensor:
        """Which words (N, W) each record has, 0 or 1; NaN where it has no tags at all."""
        return _indicators(self._numbers(records), len(self.words))

    def sentences(self, records: Records) -> tuple[Tensor, Tensor]:
        """The words (N, L) of each record by number, in order, -1 past the end; their counts (N,), -1 without tags."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        rows = self._numbers(records)
        counts = torch.tensor([-1 if row is None else len(row) for row in rows], dtype=torch.int64)
        padded = [torch.tensor(row or [], dtype=torch.int64) for row in rows]
        return pad_sequence(padded, batch_first=True, padding_value=-1), counts

    def _numbers(self, records: Records) -> list[list[int] | None]:
        numbers = {word: number for number, word in enumerate(self.words)}
        return [
            None if text is None else [numbers[word] for word in words_of(text) if word in numbers]
            for text in records.table["tags"].to_pylist()
        ]


@dataclass(frozen=True)
class AttributeTargets:
    """What a head learns: attributes, words, or both; those of all training records, also while some are held out."""

    attributes: Attributes | None
    vocabulary: Vocabulary | None

    @property
    def left_out(self) -> tuple[str, ...]:
        return () if self.attributes is None else self.attributes.left_out


def read_attribute_targets(head: object, records: Records) -> AttributeTargets | None:
    """What ``head`` learns of the attributes and tags of ``records``; None for a head that learns labels alone."""
    if isinstance(head, PosteriorHeadConfig):
        return AttributeTargets(read_attributes(records, head.attributes), None)
    if not isinstance(head, MultilabelHeadConfig):
        return None
    learns_attributes = head.task != "tags" or head.contrastive is not None
    attributes = read_attributes(records, head.attributes) if learns_attributes else None
    return AttributeTargets(attributes, read_vocabulary(records) if head.task != "attributes" else None)


def read_attributes(records: Records, config: AttributesConfig) -> Attributes:
    """The attributes of training ``records`` that ``config`` names.

    Raises RecordsError, with column and count, for a column that is not there and for what ``unusable`` refuses.
    """
    there = tuple(name.removeprefix(_STEM) for name in records.table.column_names if name.startswith(_STEM))
    names = config.names or there
    for name in (*names, *config.several):
        if name not in there:
            raise RecordsError(
                f"the records have no attribute {name!r}.{did_you_mean(name, there)} dataset.attributes lists the "
                f"columns that are attributes; it has {', '.join(there) or 'none'}."
            )
    if not names:
        raise RecordsError("there are no attributes to learn: name their columns, dataset.attributes = [...]")
    learned, left_out = [], []
    for name in names:
        has_several = name in config.several
        counts = Counter(
            value
            for values in (several(records, _STEM + name) if has_several else _single(records, name))
            for value in values
        )
        if (wrong := _unusable(name, counts, len(records), config.minimum_count)) is None:
            learned.append(Attribute(name, tuple(sorted(counts)), has_several))
        elif config.unusable == "refuse":
            raise RecordsError(f"{wrong} Or train without: attributes.unusable = 'leave_out'.")
        else:
            left_out.append(name)
    if not learned:
        raise RecordsError(f"none of the attributes {', '.join(names)} can be learned from {len(records):,} records")
    columns = zip(*(records.attribute(attribute.name) for attribute in learned), strict=True)
    empty = [row for row, values in enumerate(columns) if all(value is None for value in values)]
    if empty and config.unusable == "refuse":
        raise RecordsError(
            f"{len(empty):,} of {len(records):,} training records have a value of none of the attributes "
            f"{', '.join(names)}; the first has the key {records.keys[empty[0]]!r}. Fill them in, or let them train "
            "what else they can: attributes.unusable = 'leave_out'."
        )
    return Attributes(tuple(learned), tuple(left_out))


def attributes_digest(records: Records) -> str:
    """The sha256 over all attributes and tags of ``records``, in their order, 64 hexadecimal digits."""
    columns = sorted(name for name in records.table.column_names if name.startswith(_STEM) or name == "tags")
    # A text stands for itself but where it is taken apart otherwise than by spaces or, of attributes, by ``|``.
    described = {name: [_described(name, text) for text in records.table[name].to_pylist()] for name in columns}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def read_vocabulary(records: Records) -> Vocabulary:
    """The words that more than five of ``records`` have. Raises RecordsError, with the count, where there is none."""
    texts = [text for text in records.table["tags"].to_pylist() if text is not None]
    if not texts:
        raise RecordsError(
            f"none of {len(records):,} training records has tags. Name a column of text, dataset.tags (lists and "
            "other tables of values are no text), or learn the attributes alone: task = 'attributes'."
        )
    try:
        numbers = [float(text) for text in texts]
    except ValueError:  # a text
        numbers = []
    if numbers:
        raise RecordsError(
            f"dataset.tags names a column that is not text: all of its {len(texts):,} values in the training records "
            f"are numbers, such as {texts[0]!r}. Name the column with the names of the products."
        )
    counts = Counter(word for text in texts for word in words_of(text))
    words = tuple(sorted(word for word, count in counts.items() if count > MORE_THAN))
    if not words:
        ((word, count),) = counts.most_common(1) or [("", 0)]
        raise RecordsError(
            f"no word of dataset.tags is in more than {MORE_THAN} of {len(records):,} training records (the most "
            f"frequent, {word!r}, is in {count}): learn the attributes alone, task = 'attributes'."
        )
    return Vocabulary(words)


def words_of(text: str) -> list[str]:
    """The different words of the values of ``text`` in lower case, in the order in which they come.

    >>> words_of('["Red mug", "cup"]'), words_of("[new] mug|cup")
    (['red', 'mug', 'cup'], ['[new]', 'mug', 'cup'])
    """
    values = listed(text)
    return different(" ".join(text.split(SEPARATOR) if values is None else values).lower().split())


def _single(records: Records, name: str) -> list[list[str]]:
    """The one value of an attribute that each record has, (N,), or none. RecordsError for a list of several."""
    texts = records.attribute(name)
    for key, text in zip(records.keys, texts, strict=True):
        if text is not None and listed(text) is not None:
            raise RecordsError(
                f"the attribute {name!r} of {key!r} must be one value, got the list {text:.100}: an attribute with "
                f"several is named in attributes.several = [{name!r}]"
            )
    return [[] if text is None else [text] for text in texts]


def _described(column: str, text: str | None) -> str | list[str] | None:
    if text is None or column != "tags":
        return text if text is None or (values := listed(text)) is None else values
    return text if (words := words_of(text)) == list(dict.fromkeys(text.lower().split())) else words


def _indicators(rows: Sequence[list[int] | None], width: int) -> Tensor:
    """Ones (N, ``width``) at the numbers of each row, zeros elsewhere, NaN where there is None."""
    import torch

    table = torch.zeros(len(rows), width)
    for place, row in enumerate(rows):
        if row is None:
            table[place] = torch.nan
        else:
            table[place, row] = 1
    return table


def _unusable(name: str, counts: Counter[str], rows: int, minimum: int) -> str | None:
    """Why an attribute cannot be learned from ``counts`` of its values in ``rows`` records, or None."""
    if len(counts) < 2:
        what = f"one value, {min(counts)!r}, in {counts.total():,}" if counts else "no value in any"
        return f"the attribute {name!r} has {what} of {rows:,} training records: there is nothing to learn."
    rare = sorted(value for value, count in counts.items() if count < minimum)
    if not rare:
        return None
    shown = ", ".join(f"{value!r} ({counts[value]})" for value in rare[:_SHOWN]) + (", ..." if rare[_SHOWN:] else "")
    return (
        f"the attribute {name!r} has {len(rare):,} of {len(counts):,} values in fewer than {minimum} of {rows:,} "
        f"training records: {shown}. Mend or empty those cells, or lower attributes.minimum_count."
    )
