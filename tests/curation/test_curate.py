"""What a training table is made of: each rule by hand, near-duplicates against plain loops."""

import math
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from cache.errors import ConfigError, MissingRowsError, RecordsError
from pipeline.config import parse_config
from stages.curation import CurateConfig, Curated, curate
from stages.curation.curate import twins_among, twins_within
from stages.curation.tables import training_table
from stages.datasets import TableConfig
from stages.datasets.table import WRITERS, write_table
from stages.records import Records, read_records
from stages.records.splits import MADE
from tests.pictures import draw
from tests.toys.training import digest_of, make_store
from tests.typed import SMALL_RUN

Row = tuple[str, str, str, str | None, str]  # key, image, label, domain, split


def make(rows: Sequence[Row]) -> Records:
    """Records whose images are known by name; the image ``""`` cannot be read."""
    keys, images, labels, domains, splits = zip(*rows, strict=True)
    columns = {
        "key": pa.array(keys),
        "uri": pa.array([f"{image}.jpg" for image in images]),
        "digest": pa.array([digest_of(image) if image else None for image in images], pa.binary(32)),
        "label": pa.array(labels),
        "domain": pa.array(domains, pa.string()),
        "split": pa.array(splits),
    }
    return Records(pa.table(columns), MADE)


def trained(classes: Mapping[str, int], domain: str | None = None) -> list[Row]:
    """Training records, so many a class, each with an image of its own."""
    keys = [(f"{label}{number}", label) for label, count in classes.items() for number in range(count)]
    return [(key, key, label, domain, "train") for key, label in keys]


def at(degrees: float) -> npt.NDArray[np.float32]:
    """A feature, twice as long as it need be: the similarity of two is the cosine between their angles."""
    return np.array([2 * math.cos(math.radians(degrees)), 2 * math.sin(math.radians(degrees))], np.float32)


def why(curated: Curated) -> dict[str, str]:
    return {item.key: item.reason for item in curated.dropped}


def collisions(curated: Curated) -> dict[str, str | None]:
    return {item.key: item.collided_with for item in curated.dropped}


LOOSE = CurateConfig(min_images=1)


def test_a_clean_training_set_is_kept_whole_and_the_test_side_is_not_in_it() -> None:
    records = make([*trained({"b": 3, "a": 3}), ("q", "q", "c", None, "query"), ("g", "g", "c", None, "gallery")])
    curated = curate(records, CurateConfig())
    assert curated.retained.keys == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert curated.dropped == []


def test_an_image_that_cannot_be_read_or_has_no_feature_is_dropped(tmp_path: Path) -> None:
    records = make([*trained({"a": 3}), ("lost", "", "a", None, "train")])
    assert why(curate(records, LOOSE)) == {"lost": "unreadable"}
    store = make_store(tmp_path, {f"a{n}": at(90 * n) for n in range(3)}, failed=["a1"])
    assert why(curate(records, LOOSE, store)) == {"lost": "unreadable", "a1": "unreadable"}


@pytest.mark.parametrize("split", ["query", "gallery", "distractor", "validation_query", "validation_gallery"])
def test_an_image_whose_bytes_are_in_the_test_side_is_dropped(split: str) -> None:
    records = make([*trained({"a": 3}), ("z", "a1", "c", None, split), ("t", "a1", "c", None, split)])
    curated = curate(records, LOOSE)
    assert why(curated) == {"a1": "bytes of a test image"}
    assert collisions(curated) == {"a1": "t"}  # the first by key


def test_a_record_of_no_role_is_on_no_side() -> None:
    records = make([*trained({"a": 3}), ("x", "a1", "c", None, "spare")])
    assert curate(records, LOOSE).dropped == []


def test_a_gallery_that_is_the_training_set_itself_is_no_test_side() -> None:
    records = make([*trained({"a": 3}), ("q", "q", "a", None, "query")])
    records = Records(records.table, {**MADE, "gallery": ("train",)})
    assert curate(records, LOOSE).retained.keys == ["a0", "a1", "a2"]


def test_a_near_duplicate_of_a_test_image_is_dropped_with_the_nearest_one(tmp_path: Path) -> None:
    records = make([*trained({"a": 3}), ("far", "far", "b", None, "query"), ("near", "near", "c", None, "gallery")])
    angles = {"a0": 0, "a1": 40, "a2": 80, "far": 49, "near": 44}
    store = make_store(tmp_path, {key: at(angle) for key, angle in angles.items()})
    curated = curate(records, CurateConfig(min_images=1, near_duplicate=math.cos(math.radians(10))), store)
    (dropped,) = curated.dropped
    assert dropped[:5] == ("a1", None, "a", "near-duplicate of a test image", "near")
    assert dropped.similarity == pytest.approx(math.cos(math.radians(4)), abs=1e-3)


def test_of_byte_identical_copies_the_first_key_is_kept() -> None:
    records = make([("c", "same", "a", None, "train"), ("b", "same", "a", None, "train"), *trained({"a": 1})])
    curated = curate(records, LOOSE)
    assert curated.retained.keys == ["a0", "b"]
    assert collisions(curated) == {"c": "b"}
    assert why(curated) == {"c": "byte-identical copy"}


def test_copies_with_different_labels_are_all_dropped() -> None:
    copies = [(key, "same", label, None, "train") for key, label in (("x", "a"), ("y", "a"), ("z", "b"))]
    curated = curate(make([*copies, *trained({"a": 1})]), LOOSE)
    assert curated.retained.keys == ["a0"]
    assert set(why(curated).values()) == {"copies with different labels"}
    assert collisions(curated) == {"x": "z", "y": "z", "z": "x"}


def test_one_label_in_two_domains_is_two_labels() -> None:
    copies: list[Row] = [("x", "same", "a", "shoes", "train"), ("y", "same", "a", "hats", "train")]
    curated = curate(make([*copies, *trained({"a": 1}, "hats")]), LOOSE)
    assert why(curated) == dict.fromkeys("xy", "copies with different labels")


def test_near_duplicates_go_within_a_class_alone_and_the_first_key_stays(tmp_path: Path) -> None:
    records = make([*trained({"a": 4, "b": 1}), ("q", "q", "c", None, "query")])
    angles = {"a0": 0, "a1": 8, "a2": 16, "a3": 90, "b0": 1, "q": 180}
    store = make_store(tmp_path, {key: at(angle) for key, angle in angles.items()})
    curated = curate(records, CurateConfig(min_images=1, near_duplicate=math.cos(math.radians(10))), store)
    assert curated.retained.keys == ["a0", "a2", "a3", "b0"]  # a2 is near a1 alone, which went first
    assert why(curated) == {"a1": "near-duplicate in its class"}
    assert collisions(curated) == {"a1": "a0"}


def test_classes_are_counted_once_the_duplicates_are_gone() -> None:
    rows = [*trained({"a": 3, "b": 2}), ("b9", "b0", "b", None, "train")]
    curated = curate(make(rows), CurateConfig(min_images=3))
    assert curated.retained.keys == ["a0", "a1", "a2"]
    assert why(curated) == {"b0": "class too small", "b1": "class too small", "b9": "byte-identical copy"}


def test_so_many_classes_are_drawn_of_each_domain() -> None:
    rows = trained(dict.fromkeys("abcdef", 3), "shoes") + trained(dict.fromkeys("uvwxyz", 3), "hats")
    for limit, shoes, hats in ((2, 2, 2), ({"shoes": 4}, 4, 6), ({"shoes": 9, "hats": 1}, 6, 1)):
        stored = curate(make(rows), CurateConfig(classes_per_domain=limit)).retained
        result = set(zip(stored.domains, stored.labels, strict=True))
        assert (sum(d == "shoes" for d, _ in result), sum(d == "hats" for d, _ in result)) == (shoes, hats)
        assert len(stored) == 3 * (shoes + hats)  # whole classes


def test_another_seed_draws_other_classes_and_images() -> None:
    rows = trained(dict.fromkeys("abcdefghij", 9))
    drawn = [
        curate(make(rows), CurateConfig(classes_per_domain=4, max_images=3, seed=seed)).retained.keys
        for seed in range(3)
    ]
    assert all(len(keys) == 12 for keys in drawn)
    assert len({tuple(keys) for keys in drawn}) == 3


def test_a_class_that_is_added_takes_the_place_of_one_at_most_and_an_image_likewise() -> None:
    config = CurateConfig(classes_per_domain=5, max_images=4)
    before = set(curate(make(trained(dict.fromkeys("abcdefgh", 8))), config).retained.keys)
    more_classes = set(curate(make(trained(dict.fromkeys("abcdefghi", 8))), config).retained.keys)
    assert len({key[0] for key in before - more_classes}) <= 1
    more_images = set(curate(make(trained(dict.fromkeys("abcdefgh", 9))), config).retained.keys)
    for label in {key[0] for key in before}:
        assert sum(key[0] == label for key in before - more_images) <= 1


def test_only_the_domains_that_are_asked_for_are_kept() -> None:
    rows = trained({"a": 3}, "shoes") + trained({"b": 3}, "hats") + trained({"c": 3}, None)
    curated = curate(make(rows), CurateConfig(domains=("hats",)))
    assert set(curated.retained.domains) == {"hats"}
    assert set(why(curated).values()) == {"domain not chosen"}


def test_features_of_domains_that_are_not_asked_for_are_not_needed(tmp_path: Path) -> None:
    records = make(trained({"a": 2}, "shoes") + trained({"b": 2}, "hats"))
    store = make_store(tmp_path, {"b0": at(0), "b1": at(90)})
    config = CurateConfig(min_images=1, near_duplicate=0.9)
    with pytest.raises(MissingRowsError, match=r"no row for 2 of 4 images, the first of key 'a0'.*permafrost extract"):
        curate(records, config, store)
    assert curate(records, CurateConfig(domains=("hats",), min_images=1, near_duplicate=0.9), store).retained.keys == [
        "b0",
        "b1",
    ]


def crowd(tmp_path: Path, seed: int) -> tuple[list[Row], dict[str, npt.NDArray[np.float32]]]:
    """Rows with every kind of trouble, and features of which many are close."""
    rng = np.random.default_rng(seed)
    centre = rng.integers(60, size=190)  # of each image; some images of one centre are close, those of two never
    vectors = rng.normal(size=(60, 16))[centre] + rng.normal(0, 0.12, (190, 16))
    features = {f"i{n}": vector for n, vector in enumerate(vectors.astype(np.float16).astype(np.float32))}
    rows: list[Row] = []
    for number in range(220):
        n = int(rng.integers(190))
        label = centre[n] % 8 if rng.random() < 0.9 else rng.integers(8)
        split = str(rng.choice(["train", "query", "gallery", "spare"], p=[0.8, 0.05, 0.1, 0.05]))
        image = f"i{n}" if rng.random() < 0.97 else ""
        rows.append((f"k{number:03}", image, f"c{label}", ("shoes", "hats")[centre[n] % 2], split))
    return rows, features


@pytest.mark.parametrize("seed", range(4))
def test_all_rules_together_are_those_of_a_plain_loop(tmp_path: Path, seed: int) -> None:
    rows, features = crowd(tmp_path, seed)
    failed = ["i3", "i77"]
    store = make_store(tmp_path, features, failed=failed)
    config = CurateConfig(min_images=3, near_duplicate=0.97)
    curated = curate(make(rows), config, store)

    def close(one: str, other: str) -> bool:
        a, b = features[one].astype(np.float64), features[other].astype(np.float64)
        return bool(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b) >= 0.97)

    train = sorted(row for row in rows if row[4] == "train")
    test = [row for row in rows if row[4] in ("query", "gallery")]
    reasons = {}
    stored: list[Row] = []
    for row in train:
        key, image, label, domain, _ = row
        copies = [other for other in train if other[1] == image]
        if not image or image in failed:
            reasons[key] = "unreadable"
        elif any(image == other[1] for other in test):
            reasons[key] = "bytes of a test image"
        elif any(other[1] and other[1] not in failed and close(image, other[1]) for other in test):
            reasons[key] = "near-duplicate of a test image"
        elif any(other[2:4] != (label, domain) for other in copies):
            reasons[key] = "copies with different labels"
        elif key != min(other[0] for other in copies):
            reasons[key] = "byte-identical copy"
        elif any(other[2:4] == (label, domain) and close(image, other[1]) for other in stored):
            reasons[key] = "near-duplicate in its class"
        else:
            stored.append(row)
    large = [row for row in stored if sum(other[2:4] == row[2:4] for other in stored) >= 3]
    reasons |= {row[0]: "class too small" for row in stored if row not in large}
    assert why(curated) == reasons
    assert curated.retained.keys == [row[0] for row in large]
    assert len(set(reasons.values())) >= 6


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_near_duplicates_do_not_depend_on_the_block(tmp_path: Path, block: int) -> None:
    rng = np.random.default_rng(1)
    features = {f"i{n}": rng.normal(1, 0.5, 4).astype(np.float32) for n in range(60)}
    store = make_store(tmp_path, features)
    digests = [digest_of(key) for key in features]
    vectors = store.read(digests).astype(np.float64)  # as they are stored, in float16
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T

    result = twins_among(store, digests[:40], digests[40:], 0.98, block=block)
    expected = {row: int(similarity[row, 40:].argmax()) for row in range(40) if similarity[row, 40:].max() >= 0.98}
    assert {row: twin.position for row, twin in result.items()} == expected
    assert 5 < len(expected) < 40

    stored: list[int] = []
    stands: dict[int, int] = {}
    for row in range(60):
        near = [item for item in stored if similarity[row, item] >= 0.98]
        if near:
            stands[row] = max(near, key=lambda item: similarity[row, item])
        else:
            stored.append(row)
    assert {row: t.position for row, t in twins_within(store, digests, 0.98, block=block).items()} == stands
    assert 5 < len(stands) < 55


def test_looking_for_near_duplicates_takes_no_more_memory_for_more_rows() -> None:
    def peak(rows: int) -> int:
        features = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float16)
        digests = [row.to_bytes(4, "big") for row in range(rows)]
        store: Any = SimpleNamespace(read=lambda some: features[[int.from_bytes(one, "big") for one in some]])
        tracemalloc.start()
        assert len(twins_within(store, digests, 0.999, block=256)) < rows / 10
        assert len(twins_among(store, digests, digests[:500], 0.999, block=256)) >= 500
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(4000) < 1.5 * peak(1000)


def test_the_order_of_the_rows_changes_nothing(tmp_path: Path) -> None:
    rows, features = crowd(tmp_path, 9)
    store = make_store(tmp_path, features)
    config = CurateConfig(min_images=2, max_images=4, classes_per_domain={"hats": 2}, near_duplicate=0.98, seed=5)
    once = curate(make(rows), config, store)
    assert {"class not drawn", "image not drawn"} < set(why(once).values())
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        again = curate(make([rows[place] for place in order]), config, store)
        assert again.retained.table.equals(once.retained.table)
        assert again.dropped == once.dropped


def test_what_was_curated_stays_as_it_is(tmp_path: Path) -> None:
    rows, features = crowd(tmp_path, 2)
    store = make_store(tmp_path, features)
    config = CurateConfig(min_images=2, max_images=4, classes_per_domain=5, near_duplicate=0.98)
    once = curate(make(rows), config, store)
    keys = set(once.retained.keys)
    again = curate(make([row for row in rows if row[0] in keys or row[4] != "train"]), config, store)
    assert again.retained.keys == once.retained.keys
    assert again.dropped == []


def test_what_cannot_be_curated_is_refused_with_the_reason() -> None:
    test_only = make([("q", "q", "c", None, "query")])
    with pytest.raises(RecordsError, match="nothing trains"):
        curate(test_only, LOOSE)
    with pytest.raises(RecordsError, match=r"none of 2 training images is kept \(2 class too small\)"):
        curate(make(trained({"a": 2})), CurateConfig())
    with pytest.raises(ValueError, match="near_duplicate compares features"):
        curate(test_only, CurateConfig(near_duplicate=0.9))
    shoes = make(trained({"a": 3}, "shoes"))
    with pytest.raises(RecordsError, match=r"curate\.domains: .* has no domain 'shoe'.*Did you mean 'shoes'"):
        curate(shoes, CurateConfig(domains=("shoe",)))
    with pytest.raises(RecordsError, match=r"curate\.classes_per_domain: .* has no domain 'cars'.*It has: shoes"):
        curate(shoes, CurateConfig(classes_per_domain={"cars": 3}))
    with pytest.raises(RecordsError, match=r"the training set has no domain 'shoes'\. It has: none"):
        curate(make(trained({"a": 3})), CurateConfig(domains=("shoes",)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("min_images = 0", "curate: min_images is at least 1, got 0"),
        ("max_images = 2", "curate: max_images is the most that a class keeps.* got 2 and 3"),
        ("classes_per_domain = 0", "curate: classes_per_domain must be at least 1, got 0"),
        ("classes_per_domain = { cars = 0 }", "at least 1, got 0; to leave a domain out"),
        ("near_duplicate = 98", r"curate: near_duplicate is a cosine similarity, in \(0, 1\], got 98"),
        ("near_duplicates = 0.98", r"curate\.near_duplicates: unknown key; did you mean near_duplicate\?"),
        ("seed = -1", "curate: seed is at least 0, got -1"),
    ],
)
def test_what_is_wrong_in_curate_is_named(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(f"{SMALL_RUN}[curate]\n{line}\n")


def test_a_run_file_says_how_to_curate() -> None:
    text = '[curate]\ndomains = ["cars"]\nclasses_per_domain = { cars = 10 }\nmax_images = 20\nnear_duplicate = 0.98\n'
    expected = CurateConfig(domains=("cars",), classes_per_domain={"cars": 10}, max_images=20, near_duplicate=0.98)
    assert parse_config(SMALL_RUN + text).curate == expected
    assert parse_config(SMALL_RUN).curate == CurateConfig()


@pytest.mark.parametrize("ending", WRITERS)
def test_a_written_table_reads_as_its_source_did(tmp_path: Path, ending: str) -> None:
    columns = {
        "path": [str(draw(tmp_path / f"{n}.png", n)) for n in range(8)],
        "product": [f"p{n // 2}" for n in range(8)],
        "domain": ["photo", None] * 4,
        "split": ["train"] * 6 + ["query", "gallery"],
        "colour": ["red", "deep, blue", None, "007"] * 2,
        "label": ["x", "y"] * 4,
        "words": ["a soft cup", None] * 4,
    }
    write_table(tmp_path / f"source{ending}", pa.table(columns))
    names = ("colour", "product", "label")
    source = TableConfig(path=str(tmp_path / f"source{ending}"), label="product", attributes=names, tags="words")
    retained = curate(read_records(source), LOOSE).retained
    write_table(tmp_path / f"curated{ending}", training_table(retained))
    again = read_records(
        TableConfig(
            path=str(tmp_path / f"curated{ending}"),
            label="label",
            attributes=("colour", "product", "attributes.label"),
            tags="tags",
        )
    )
    for name in ("key", "digest", "label", "domain", "split", "tags"):
        assert again.table[name].to_pylist() == retained.table[name].to_pylist()
    for name, other in zip(names, ("colour", "product", "attributes.label"), strict=True):
        assert again.attribute(other) == retained.attribute(name)
