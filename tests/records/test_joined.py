"""Several datasets in one: what is one dataset's stays its own, and all galleries are searched."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache import digest_bytes
from cache.errors import ConfigError, RecordsError, SettingsError
from pipeline.config import parse_config
from stages.curation import CurateConfig, curate
from stages.curation.tables import training_table
from stages.datasets import FolderConfig, ParquetConfig, SourceConfig, TableConfig, WebDatasetConfig
from stages.datasets.table import write_table as write_columns
from stages.extraction import PcaConfig, extract, fit_pca_basis, load_backbone
from stages.extraction.decode import decode
from stages.records import Records, read_records
from stages.records.splits import ROLES
from stages.retrieval import evaluate
from tests.pictures import draw, draw_folder, write_table

SHOES = [
    {"path": "0.png", "key": "a", "label": "x", "split": "test", "colour": "red"},
    {"path": "1.png", "key": "b", "label": "x", "split": "index", "colour": ""},
    {"path": "2.png", "key": "c", "label": "y", "split": "train", "colour": "blue"},
]
HATS = [
    {"path": "0.png", "key": "a", "label": "x", "split": "train", "domain": "hats", "size": "7"},
    {"path": "1.png", "key": "b", "label": "z", "split": "train", "domain": "shoes", "size": "8"},
    {"path": "2.png", "key": "c", "label": "x", "split": "test", "domain": "", "size": "9"},
]


def two(folder: Path) -> tuple[SourceConfig, SourceConfig]:
    """Two tables whose keys, labels and splits are the same words with other meanings."""
    for number in range(3):
        draw(folder / f"shoes/{number}.png", number)
        draw(folder / f"hats/{number}.png", 10 + number)
    shoes = TableConfig(
        path=str(write_table(folder / "shoes/t.csv", SHOES)),
        name="shoes",
        label="label",
        attributes=("colour",),
        train="train",
        query="test",
        gallery="index",
    )
    hats = TableConfig(
        path=str(write_table(folder / "hats/t.csv", HATS)),
        name="hats",
        label="label",
        attributes=("size",),
        train="test",
        query=(),
        gallery="train",
    )
    return shoes, hats


def test_a_name_says_which_dataset_it_is_from(tmp_path: Path) -> None:
    records = read_records(two(tmp_path))
    assert records.keys == ["shoes/a", "shoes/b", "shoes/c", "hats/a", "hats/b", "hats/c"]
    assert records.labels == ["shoes/x", "shoes/x", "shoes/y", "hats/x", "hats/z", "hats/x"]
    assert [Path(uri).parent.name for uri in records.uris] == ["shoes"] * 3 + ["hats"] * 3


def test_the_domain_is_the_datasets_own_or_its_name(tmp_path: Path) -> None:
    assert read_records(two(tmp_path)).domains == ["shoes", "shoes", "shoes", "hats", "shoes", "hats"]


def test_labels_of_two_datasets_stay_apart_in_a_domain_that_they_share(tmp_path: Path) -> None:
    shoes, hats = two(tmp_path)
    write_table(tmp_path / "hats/t.csv", [row | {"domain": "shoes"} for row in HATS])
    records = read_records((shoes, hats))
    assert set(records.domains) == {"shoes"}
    assert len(set(records.classes)) == 4  # x and y of the one, x and z of the other


def test_a_split_that_searches_in_one_dataset_trains_in_the_other(tmp_path: Path) -> None:
    records = read_records(two(tmp_path))
    assert {role: records.split(role).keys for role in ROLES} == {
        "train": ["shoes/c", "hats/c"],
        "validation_query": [],
        "validation_gallery": [],
        "query": ["shoes/a"],
        "gallery": ["shoes/b", "hats/a", "hats/b"],
    }


def test_attributes_are_those_of_all_and_null_where_a_dataset_has_none(tmp_path: Path) -> None:
    records = read_records(two(tmp_path))
    assert records.attribute("colour") == ["red", None, "blue", None, None, None]
    assert records.attribute("size") == [None, None, None, "7", "8", "9"]


def test_splits_made_from_the_seed_are_those_of_the_dataset_alone(tmp_path: Path) -> None:
    classes = {f"c{number}": 5 for number in range(12)}
    parts = [
        FolderConfig(path=str(draw_folder(tmp_path / name, classes, seed)), name=name)
        for seed, name in enumerate(("left", "right"))
    ]
    joined = read_records(parts, seed=3)
    for config in parts:
        alone = read_records(config, seed=3)
        assert alone.split("query").keys
        for role in ROLES:
            expected = [f"{config.name}/{key}" for key in alone.split(role).keys]
            assert [key for key in joined.split(role).keys if key.startswith(f"{config.name}/")] == expected


def sketches_and_photographs(folder: Path, **settings: Any) -> list[FolderConfig]:
    """Two folders of the same twelve labels."""
    classes = {f"c{number}": 3 for number in range(12)}
    return [
        FolderConfig(path=str(draw_folder(folder / name, classes, seed)), name=name, **settings)
        for seed, name in enumerate(("photos", "sketches"))
    ]


def test_datasets_that_say_so_share_their_classes(tmp_path: Path) -> None:
    apart = read_records(sketches_and_photographs(tmp_path))
    assert apart.notes[-1].startswith("12 labels stand in several datasets, where they are classes apart")
    configs = sketches_and_photographs(tmp_path, classes_across_domains=True)
    records = read_records(configs)
    trained, tested = set(records.split("train").labels), set(records.split("query").labels)
    assert trained | tested < {f"c{number}" for number in range(12)}
    assert trained
    assert tested
    assert not trained & tested
    assert {(label, domain) for label in tested for domain in ("photos", "sketches")} == {
        *zip(records.split("query").labels, records.split("query").domains, strict=True)
    }
    (note,) = records.notes
    assert note.startswith("'photos', 'sketches': splits made by class from the seed: 6 train, 1 validate, 5 test; ")
    assert note.endswith("a label is one class in all 2 domains")


def test_datasets_that_share_classes_have_the_same_shares(tmp_path: Path) -> None:
    photos, sketches = sketches_and_photographs(tmp_path, classes_across_domains=True)
    with pytest.raises(SettingsError, match=r"'photos' and 'sketches' share their classes .* give both the same"):
        read_records([photos, replace(sketches, test_share=0.2)])


def test_one_dataset_of_a_sequence_is_read_as_it_is_alone(tmp_path: Path) -> None:
    shoes, _ = two(tmp_path)
    assert read_records([shoes]).table.equals(read_records(shoes).table)
    assert read_records([shoes]).keys == ["a", "b", "c"]


def test_an_image_of_two_datasets_is_one_row_and_is_counted(tmp_path: Path) -> None:
    shoes, hats = two(tmp_path)
    draw(tmp_path / "hats/2.png", 0)  # hats trains on the image that searches in shoes
    records = read_records((shoes, hats))
    assert records.counts()["byte-identical copies"] == 1
    assert records.counts()["queries whose bytes are trained on"] == 1
    basis = fit_pca_basis(PcaConfig(dim=2), [decode(Path(uri).read_bytes()) for uri in records.uris])
    store = extract(records, load_backbone(PcaConfig(dim=2), basis=basis), tmp_path / "features")
    assert len(store) == 5
    assert len(records.rows_in(store)) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "b"}, r"dataset 'hats': .*hats/t\.csv: row 1 and row 2 have the same key 'b'"),
        ({"path": "gone.png"}, r"dataset 'hats': row 1 \(key 'a'\) names .*gone\.png, which does not exist"),
        ({"split": "test", "label": ""}, r"dataset 'hats': .* row 1 \(key 'a'\) is in train \(split 'test'\)"),
    ],
)
def test_an_error_names_the_dataset_and_its_own_row(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    configs = two(tmp_path)
    write_table(tmp_path / "hats/t.csv", [HATS[0] | changes, *HATS[1:]])
    with pytest.raises(RecordsError, match=message):
        read_records(configs)


def test_a_dataset_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    shoes, hats = two(tmp_path)
    (tmp_path / "hats/t.csv").unlink()
    with pytest.raises(RecordsError, match=r"dataset 'hats': .*does not exist"):
        read_records((shoes, hats))


def test_how_many_files_are_digested_goes_up_over_all_datasets(tmp_path: Path) -> None:
    heard: list[int] = []
    read_records(two(tmp_path), on_progress=heard.append)
    assert heard == [1, 2, 3, 4, 5, 6]


def test_images_of_a_folder_of_shards_and_of_parquet_are_one_gallery_and_can_be_curated(tmp_path: Path) -> None:
    pictures = [draw(tmp_path / f"{number}.png", number).read_bytes() for number in range(4)]
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/00000.tar", "w") as file:
        for name, content in (("0.png", pictures[0]), ("0.cls", b"t"), ("1.png", pictures[1]), ("1.cls", b"t")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    (tmp_path / "cells").mkdir()
    images = [{"bytes": content, "path": None} for content in pictures[2:]]
    pq.write_table(
        pa.table({"image": images, "label": ["p", "p"], "split": ["train"] * 2}), tmp_path / "cells/a.parquet"
    )
    draw_folder(tmp_path / "folder", {"train/f": 2, "query/g": 1, "gallery/g": 1}, seed=50)
    tars = {"kind": "webdataset", "label": "cls", "split": "file", "query": (), "gallery": "tars"}
    records = read_records(
        [
            WebDatasetConfig(path=str(tmp_path / "tars"), name="tars", **tars),  # type: ignore[arg-type]
            ParquetConfig(path=str(tmp_path / "cells"), name="cells", label="label"),
            FolderConfig(path=str(tmp_path / "folder"), name="folder", split="folder"),
        ]
    )
    assert records.digests[:4] == [digest_bytes(content) for content in pictures]
    assert [len(records.split(role)) for role in ("train", "query", "gallery")] == [4, 1, 3]
    curated = curate(records, CurateConfig(min_images=2)).retained
    write_columns(tmp_path / "t.csv", training_table(curated))
    again = read_records(TableConfig(path=str(tmp_path / "t.csv"), label="label"))
    assert again.digests == curated.digests
    assert sum(uri.startswith("parquet:") for uri in again.uris) == 2


RUN = """
artifacts = "artifacts/x"
[[dataset]]
name = "shoes"
path = "shoes.csv"
label = "model"
train = []
query = "test"
gallery = "test"
[[dataset]]
name = "hats"
kind = "folder"
path = "hats"
[[backbones]]
kind = "pca"
"""


def test_a_run_file_says_dataset_several_times() -> None:
    config = parse_config(RUN)
    assert [(dataset.name, dataset.path, dataset.kind) for dataset in config.datasets] == [
        ("shoes", "shoes.csv", "table"),
        ("hats", "hats", "folder"),
    ]
    assert config.dataset == config.datasets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('path = "hats"', ""), r"dataset\[1\]\.path: this key is needed"),
        (
            ('label = "model"', 'lable = "model"'),
            r"dataset\[0\]\.lable: unknown key for kind = 'table'; did you mean label\?",
        ),
        (('kind = "folder"', 'kind = "foldr"'), r"dataset\[1\]: kind must be .*got 'foldr'"),
        (('name = "hats"', ""), r"dataset\[1\] \(hats\) has no name; each of several needs one"),
        (('name = "hats"', 'name = "shoes"'), r"dataset\[0\] and dataset\[1\] are both called 'shoes'"),
        (('name = "hats"', 'name = "a/b"'), r"dataset\[1\]: a dataset's name is made of .*got 'a/b'"),
        (('path = "hats"', 'path = "artifacts"'), r"lies in the folder of images \(artifacts\)"),
        (('path = "hats"', 'path = "hats"\nquery = "q"\ngallery = "g"'), "heads and pca learn from train"),
        (('path = "hats"', 'path = "${HOME}/hats"'), "are the only variables that a path may hold"),
    ],
)
def test_what_is_wrong_in_one_of_several_is_named_by_its_place(change: tuple[str, str], message: str) -> None:
    assert change[0] in RUN
    with pytest.raises(ConfigError, match=message):
        parse_config(RUN.replace(*change))


def test_no_dataset_is_refused() -> None:
    text = "dataset = []\n" + RUN[: RUN.index("[[dataset]]")] + RUN[RUN.index("[[backbones]]") :]
    with pytest.raises(ConfigError, match="a run needs a dataset"):
        parse_config(text)
    with pytest.raises(ValueError, match="a run needs a dataset"):
        read_records([])


def facts(records: Records) -> list[Any]:
    """All that training and scoring read of the records, but the names of the splits."""
    roles = [set(records.split(role).keys) for role in ROLES]
    named = zip(
        records.keys, records.uris, records.digests, records.labels, records.domains, records.attribute("n"),
        strict=True,
    )  # fmt: skip
    return [(*row, *(row[0] in keys for keys in roles)) for row in named]


def test_a_table_of_domains_taken_apart_and_joined_again_is_the_table(tmp_path: Path) -> None:
    rows = []
    for at in range(48):
        domain, kind, part = "abc"[at % 3], at // 3 % 4, ("train", "query", "gallery", "distractor")[at // 12]
        draw(tmp_path / f"{at}.png", at)
        rows.append(
            {"path": f"{at}.png", "key": f"{domain}/{at}", "label": f"{domain}/{kind}", "domain": domain}
            | {"split": part, "n": str(at)}
        )
    rows.sort(key=lambda row: row["domain"])
    whole = TableConfig(path=str(write_table(tmp_path / "all.csv", rows)), label="label", attributes=("n",))
    parts = []
    for name in "abc":
        own = [
            row | {"key": row["key"].removeprefix(f"{name}/"), "label": row["label"].removeprefix(f"{name}/")}
            for row in rows
            if row["domain"] == name
        ]
        path = write_table(tmp_path / f"{name}.csv", [{k: v for k, v in row.items() if k != "domain"} for row in own])
        parts.append(TableConfig(path=str(path), name=name, label="label", attributes=("n",)))
    one, joined = read_records(whole), read_records(parts)
    assert facts(joined) == facts(one)
    assert joined.counts() == one.counts()

    basis = fit_pca_basis(PcaConfig(dim=8), [decode(Path(uri).read_bytes()) for uri in one.uris])
    store = extract(one, load_backbone(PcaConfig(dim=8), basis=basis), tmp_path / "features")
    scores = [
        list(evaluate(store, queries=each.split("query"), gallery=each.split("gallery"))) for each in (one, joined)
    ]
    assert {score.domain for score in scores[0]} == {"all", "mean", "a", "b", "c"}
    assert scores[0] == scores[1]
