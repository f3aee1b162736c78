"""Attributes and words as they are read, and what cannot be learned of them."""

from __future__ import annotations

import pytest
import torch

from cache.errors import RecordsError
from stages.records import Records
from stages.training.multilabel.kinds import AttributesConfig
from stages.training.multilabel.labels import read_attributes, read_vocabulary, words_of
from tests.toys.attributes import with_columns
from tests.toys.training import make_records

PLAIN = AttributesConfig()


def records(**columns: list[str | None]) -> Records:
    count = len(next(iter(columns.values())))
    names = {name if name == "tags" else f"attributes.{name}": values for name, values in columns.items()}
    return with_columns(make_records({f"key {at}": "any" for at in range(count)}), names)


def test_values_are_numbered_in_sorted_order_and_missing_ones_are_marked() -> None:
    given = records(colour=["red", None, "blue", "red", "blue"], made_of=["silk|wool", "wool", None, "silk", "wool "])
    attributes = read_attributes(given, AttributesConfig(several=("made_of",)))
    colour, made_of = attributes.targets(given)
    assert [attribute.values for attribute in attributes.learned] == [("blue", "red"), ("silk", "wool")]
    assert attributes.width == 4
    assert colour.tolist() == [1, -1, 0, 1, 0]
    expected = torch.tensor([[1.0, 1], [0, 1], [torch.nan] * 2, [1, 0], [0, 1]])
    torch.testing.assert_close(made_of, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"season": ["fall"] * 4}, PLAIN, r"'season' has one value, 'fall', in 4 of 4 training records"),
        ({"season": [None] * 4}, PLAIN, r"'season' has no value in any of 4 training records"),
        (
            {"usage": ["casual", "casual", "home", "travel"]},
            PLAIN,
            r"'usage' has 2 of 3 values in fewer than 2 of 4 training records: 'home' \(1\), 'travel' \(1\)",
        ),
        (
            {"usage": ["a", "a", None, "b", "b"], "colour": ["c", "c", None, "d", "d"]},
            PLAIN,
            r"1 of 5 training records have a value of none of the attributes usage, colour; the first .* key 'key 2'",
        ),
        ({"colour": ["a", "b"]}, AttributesConfig(names=("color",)), r"no attribute 'color'\. Did you mean 'colour'\?"),
        ({"colour": ["a", "b"]}, AttributesConfig(several=("size",)), r"no attribute 'size'"),
        ({"tags": ["a", "b"]}, PLAIN, r"there are no attributes to learn: name their columns"),
    ],
)
def test_what_cannot_be_learned_is_refused_by_column_and_count(
    columns: dict[str, list[str | None]], config: AttributesConfig, message: str
) -> None:
    with pytest.raises(RecordsError, match=message):
        read_attributes(records(**columns), config)


def test_training_goes_on_without_what_is_unusable_if_the_settings_say_so() -> None:
    given = records(season=["fall"] * 5, usage=["a", "a", "a", "a", "b"], colour=["c", "c", None, "d", "d"])
    attributes = read_attributes(given, AttributesConfig(unusable="leave_out"))
    assert [attribute.name for attribute in attributes.learned] == ["colour"]
    assert attributes.left_out == ("season", "usage")
    once = read_attributes(given, AttributesConfig(unusable="leave_out", minimum_count=1))
    assert once.left_out == ("season",)
    with pytest.raises(RecordsError, match="none of the attributes season can be learned from 5 records"):
        read_attributes(given, AttributesConfig(names=("season",), unusable="leave_out"))


def test_the_vocabulary_is_what_more_than_five_records_say_in_sorted_order() -> None:
    tags: list[str | None] = ["Red Shoe red", *["shoe for men"] * 5, None, "men red", *["sox red"] * 5]
    given = records(tags=tags)
    vocabulary = read_vocabulary(given)
    assert vocabulary.words == ("men", "red", "shoe")
    table, counts = vocabulary.sentences(given)
    assert words_of("Red Shoe red") == ["red", "shoe"]
    assert [row[:count].tolist() if count >= 0 else None for row, count in zip(table, counts, strict=True)][:8] == [
        [1, 2], *[[2, 0]] * 5, None, [0, 1],
    ]  # fmt: skip
    bags = vocabulary.bags(given)
    assert bags[0].tolist() == [0, 1, 1]
    assert bags[6].isnan().all()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([None] * 7, "none of 7 training records has tags. Name a column of text, dataset.tags"),
        (["12", "3.5", None], r"a column that is not text: all of its 2 values in the training records are numbers"),
        (
            ["red shoe", "red sock"],
            r"no word of dataset\.tags is in more than 5 of 2 .*'red', is in 2",
        ),
    ],
)
def test_tags_without_words_to_learn_are_refused_with_the_count(tags: list[str | None], message: str) -> None:
    with pytest.raises(RecordsError, match=message):
        read_vocabulary(records(tags=tags))
