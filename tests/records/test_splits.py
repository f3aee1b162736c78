from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import RecordsError
from stages.datasets import FolderConfig, SourceConfig, TableConfig
from stages.records.splits import class_disjoint_splits, named_roles

FOLDER = FolderConfig(path=".")


def made(sizes: list[int], config: SourceConfig = FOLDER, seed: int = 0) -> dict[str, list[str]]:
    """The split values of each class of ``sizes``, classes c0, c1, ..."""
    keys = [f"c{at}/{number}" for at, size in enumerate(sizes) for number in range(size)]
    labels = [key.split("/")[0] for key in keys]
    splits = class_disjoint_splits(keys, labels, [None] * len(keys), config, seed)
    class_splits: dict[str, list[str]] = {label: [] for label in labels}
    for label, split in zip(labels, splits, strict=True):
        class_splits[label].append(split)
    return class_splits


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(0, 99), st.integers(1, 3))
def test_whole_classes_go_to_one_part_and_each_gives_its_queries(sizes: list[int], seed: int, queries: int) -> None:
    config = FolderConfig(path=".", queries_per_class=queries)
    for splits in made(sizes, config, seed).values():
        counts = Counter(splits)
        if len(splits) == 1:
            assert splits == ["distractor"]
        elif "train" in counts:
            assert set(counts) == {"train"}
        else:
            prefix = "validation_" if "validation_gallery" in counts else ""
            given_away = min(queries, len(splits) - 1)
            assert counts == {f"{prefix}query": given_away, f"{prefix}gallery": len(splits) - given_away}


def test_the_shares_are_shares_of_the_classes_with_two_images_or_more() -> None:
    parts = Counter(splits[-1].split("_")[0] for splits in made([5] * 100 + [1] * 30).values())
    prefixed = Counter(
        "validation" if any(s.startswith("validation") for s in splits) else "test" if "query" in splits else splits[0]
        for splits in made([5] * 100 + [1] * 30).values()
    )
    assert prefixed == {"train": 50, "validation": 10, "test": 40, "distractor": 30}
    assert parts["distractor"] == 30


def test_a_seed_makes_the_same_splits_and_another_seed_others() -> None:
    assert made([4] * 30, seed=1) == made([4] * 30, seed=1)
    assert made([4] * 30, seed=1) != made([4] * 30, seed=2)


def test_the_order_of_the_rows_changes_nothing() -> None:
    keys = [f"{at % 10}/{at}" for at in range(60)]
    labels: list[str | None] = [key.split("/")[0] for key in keys]
    forward = class_disjoint_splits(keys, labels, [None] * 60, FOLDER, 0)
    backward = class_disjoint_splits(keys[::-1], labels[::-1], [None] * 60, FOLDER, 0)
    assert forward == backward[::-1]


def test_a_class_stays_in_its_part_when_its_images_change() -> None:
    before, after = made([4] * 40), made([4] * 39 + [9])
    assert {name: splits for name, splits in before.items() if name != "c39"} == {
        name: splits for name, splits in after.items() if name != "c39"
    }


def test_every_domain_is_split_for_itself() -> None:
    keys = [f"{domain}{label}/{n}" for domain in "ab" for label in range(10) for n in range(3)]
    labels: list[str | None] = [key.split("/")[0] for key in keys]
    domains: list[str | None] = [key[0] for key in keys]
    splits = class_disjoint_splits(keys, labels, domains, FOLDER, 0)
    for domain in "ab":
        tested = {
            label
            for label, where, split in zip(labels, domains, splits, strict=True)
            if where == domain and split == "query"
        }
        assert len(tested) == 4


@given(
    st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from(["art", "photo", None])), max_size=60),
    st.integers(0, 9),
    st.integers(1, 2),
)
def test_a_label_is_on_one_side_in_all_its_domains_and_each_domain_searches(
    rows: list[tuple[str, str | None]], seed: int, queries: int
) -> None:
    config = FolderConfig(path=".", queries_per_class=queries, test_share=0.5, validation_share=0.2)
    labels, domains = [label for label, _ in rows], [domain for _, domain in rows]
    splits = class_disjoint_splits([str(row) for row in range(len(rows))], labels, domains, config, seed)
    for label in set(labels):
        of_label = [split for split, name in zip(splits, labels, strict=True) if name == label]
        assert len({"validation" in split if split != "train" else "train" for split in of_label}) == 1
        sizes = Counter(domain for name, domain in rows if name == label)
        if max(sizes.values()) == 1:
            assert set(of_label) == {"distractor"}
        elif "train" not in of_label:
            for domain, size in sizes.items():
                searching = Counter(
                    split.removeprefix("validation_")
                    for row, split in zip(rows, splits, strict=True)
                    if row == (label, domain)
                )
                assert searching["query"] == min(queries, size - 1)
                assert searching["query"] + searching["gallery"] == size


def test_photographs_and_sketches_of_a_label_are_not_split_apart() -> None:
    keys = [f"{domain}/{label}/{n}" for domain in ("photo", "sketch") for label in range(80) for n in range(4)]
    domains, labels = [key.split("/")[0] for key in keys], [key.split("/")[1] for key in keys]
    splits = class_disjoint_splits(keys, labels, domains, FOLDER, 0)
    trained = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    tested = {label for label, split in zip(labels, splits, strict=True) if split == "query"}
    assert (len(trained), len(tested), trained & tested) == (40, 32, set())


def test_a_record_without_a_label_is_a_distractor() -> None:
    splits = class_disjoint_splits(["a", "b", "c"], ["x", "x", None], [None] * 3, FOLDER, 0)
    assert splits[2] == "distractor"


def roles_of(**names: object) -> SourceConfig:
    return TableConfig(path="t.csv", label="label", **names)  # type: ignore[arg-type]


def test_roles_take_one_value_or_several() -> None:
    config = roles_of(train="a", query="b", gallery=("b", "c"), validation="d")
    roles = named_roles(config, ["a", "b", "c", "d", None], list("12345"))
    assert roles["gallery"] == ("b", "c")
    assert roles["validation_query"] == roles["validation_gallery"] == ("d",)


def test_a_value_that_no_row_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        RecordsError, match=r"query names the split 'tset', which no row has; there are 'test' \(2 rows\)"
    ):
        named_roles(roles_of(query="tset", gallery="test"), ["test", "test"], ["1", "2"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"train": "a", "query": "a"}, "train and query both name the split 'a'"),
        ({"train": "a", "validation": "a", "query": "b"}, "train and validation both name the split 'a'"),
        ({"train": "a", "validation": "b", "query": "b"}, "validation and query both name the split 'b'"),
    ],
)
def test_learning_or_choosing_on_what_is_scored_is_refused(names: dict[str, str], message: str) -> None:
    with pytest.raises(RecordsError, match=message):
        named_roles(roles_of(gallery="b", **names), ["a", "b"], ["1", "2"])


def test_without_roles_a_row_of_an_unknown_split_is_named() -> None:
    with pytest.raises(RecordsError, match=r"row 2 \(key 'k2'\) has the split 'trian'.*class-disjoint"):
        named_roles(roles_of(), ["train", "trian", "query"], ["k1", "k2", "k3"])


def test_settled_roles_hold_where_the_config_names_none() -> None:
    settled = {"query": ("test",), "gallery": ("test", "index")}
    roles = named_roles(FOLDER, ["test", "index", "spare"], list("123"), settled)
    assert roles == {"train": (), "validation_query": (), "validation_gallery": (), **settled}
    named = named_roles(roles_of(query="index", gallery="spare"), ["test", "index", "spare"], list("123"), settled)
    assert (named["query"], named["gallery"]) == (("index",), ("spare",))
