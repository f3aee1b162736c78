"""The words of records' tags, in one order whatever the machine: a vocabulary, and each record as a sentence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache.errors import RecordsError
from stages.records import Records

if TYPE_CHECKING:
    from torch import Tensor

MORE_THAN = 5
"""A word of the vocabulary is in more training records than this."""


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
