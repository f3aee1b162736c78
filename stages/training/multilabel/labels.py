"""The attributes and tags of training records as numbers, in one order whatever the machine.

What cannot be learned of them is refused by column and count.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache.errors import RecordsError
from stages.records import Records
from stages.training.multilabel.kinds import AttributesConfig

if TYPE_CHECKING:
    from torch import Tensor


SEPARATOR = "|"
"""Between the values of an attribute that has several."""

_STEM = "attributes."
_SHOWN = 3  # values named in a message

MORE_THAN = 5
"""A word of the vocabulary is in more training records than this."""


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
        table = torch.zeros(len(texts), len(self.values))
        for row, text in enumerate(texts):
            if text is None:
                table[row] = torch.nan
            else:
                table[row, [places[value] for value in _split(text)]] = 1
        return table


@dataclass(frozen=True)
class Attributes:
    """The attributes that are learned, and the names of those that had to be left out."""

    learned: tuple[Attribute, ...]
    left_out: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The values of all attributes together."""
        return sum(len(attribute.values) for attribute in self.learned)

    def targets(self, records: Records) -> list[Tensor]:
        """Those of each attribute."""
        return [attribute.targets(records) for attribute in self.learned]


def read_attributes(records: Records, config: AttributesConfig) -> Attributes:
    """The attributes of training ``records`` that ``config`` names.

    Raises RecordsError, with the column and the count, for a column that is not there; and, unless unusable ones are
    left out, for an attribute of fewer than two values, one with values seen too seldom, and records without any.
    """
    there = tuple(name.removeprefix(_STEM) for name in records.table.column_names if name.startswith(_STEM))
    names = config.names or there
    for name in dict.fromkeys([*names, *config.several]):
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RecordsError(
                f"the records have no attribute {name!r}.{hint} dataset.attributes lists the columns that are "
                f"attributes; it has {', '.join(there) or 'none'}."
            )
    if not names:
        raise RecordsError("there are no attributes to learn: name their columns, dataset.attributes = [...]")
    learned, left_out = [], []
    for name in names:
        counts = _counts(records.attribute(name), several=name in config.several)
        if (wrong := _unusable(name, counts, len(records), config.minimum_count)) is None:
            learned.append(Attribute(name, tuple(sorted(counts)), name in config.several))
        elif config.unusable == "refuse":
            raise RecordsError(f"{wrong} Or train without: attributes.unusable = 'leave_out'.")
        else:
            left_out.append(name)
    if not learned:
        raise RecordsError(f"none of the attributes {', '.join(names)} can be learned from {len(records):,} records")
    if config.unusable == "refuse":
        _refuse_empty_rows(records, [attribute.name for attribute in learned])
    return Attributes(tuple(learned), tuple(left_out))


def attributes_digest(records: Records) -> str:
    """The sha256 over all attributes and tags of ``records``, in their order, 64 hexadecimal digits."""
    columns = sorted(name for name in records.table.column_names if name.startswith(_STEM) or name == "tags")
    described = {name: records.table[name].to_pylist() for name in columns}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _split(text: str) -> list[str]:
    return sorted({value.strip() for value in text.split(SEPARATOR)} - {""})


def _counts(texts: Sequence[str | None], *, several: bool) -> Counter[str]:
    """In how many records each value is."""
    known = [text for text in texts if text is not None]
    return Counter(value for text in known for value in (_split(text) if several else [text]))


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


def _refuse_empty_rows(records: Records, names: Sequence[str]) -> None:
    columns = [records.attribute(name) for name in names]
    empty = [row for row, values in enumerate(zip(*columns, strict=True)) if all(value is None for value in values)]
    if empty:
        raise RecordsError(
            f"{len(empty):,} of {len(records):,} training records have a value of none of the attributes "
            f"{', '.join(names)}; the first has the key {records.keys[empty[0]]!r}. Fill them in, or let them train "
            "what else they can: attributes.unusable = 'leave_out'."
        )


@dataclass(frozen=True)
class Vocabulary:
    """W words, in sorted order."""

    words: tuple[str, ...]

    def bags(self, records: Records) -> Tensor:
        """Which words (N, W) each record has, 0 or 1; NaN where it has no tags at all."""
        import torch

        table = torch.zeros(len(records), len(self.words))
        for row, sentence in enumerate(self._sentences(records)):
            if sentence is None:
                table[row] = torch.nan
            else:
                table[row, sentence] = 1
        return table

    def sentences(self, records: Records) -> tuple[Tensor, Tensor]:
        """The words (N, L) of each record by number, each once, in their order, -1 past the end; their counts (N,).

        A record without tags has the count -1.
        """
        import torch

        sentences = self._sentences(records)
        longest = max(len(sentence or []) for sentence in sentences)
        table = torch.full((len(sentences), longest), -1, dtype=torch.int64)
        for row, sentence in enumerate(sentences):
            table[row, : len(sentence or [])] = torch.tensor(sentence or [], dtype=torch.int64)
        counts = [-1 if sentence is None else len(sentence) for sentence in sentences]
        return table, torch.tensor(counts, dtype=torch.int64)

    def _sentences(self, records: Records) -> list[list[int] | None]:
        numbers = {word: number for number, word in enumerate(self.words)}
        return [
            None if text is None else [numbers[word] for word in words_of(text) if word in numbers]
            for text in records.table["tags"].to_pylist()
        ]


def words_of(text: str) -> list[str]:
    """The different words of ``text`` in lower case, in the order in which they come."""
    return list(dict.fromkeys(text.lower().split()))


def read_vocabulary(records: Records) -> Vocabulary:
    """The words that more than five of ``records`` have.

    Raises RecordsError, with the count, where no record has tags, where they are no text, and where no word is left.
    """
    texts = [text for text in records.table["tags"].to_pylist() if text is not None]
    if not texts:
        raise RecordsError(
            f"none of {len(records):,} training records has tags. Name a column of text, dataset.tags (lists and "
            "other tables of values are no text), or learn the attributes alone: task = 'attributes'."
        )
    if all(_is_number(text) for text in texts):
        raise RecordsError(
            f"dataset.tags names a column that is not text: all of its {len(texts):,} values in the training records "
            f"are numbers, such as {texts[0]!r}. Name the column with the names of the products."
        )
    counts = Counter(word for text in texts for word in words_of(text))
    words = tuple(sorted(word for word, count in counts.items() if count > MORE_THAN))
    if not words:
        raise RecordsError(
            f"no word of dataset.tags is in more than {MORE_THAN} of {len(records):,} training records (the most "
            f"frequent, {counts.most_common(1)[0][0]!r}, is in {counts.most_common(1)[0][1]}): learn the attributes "
            "alone, task = 'attributes'."
        )
    return Vocabulary(words)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
