"""Files that break image pipelines, through every reader: the same result wherever the bytes lie."""

import csv
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cache import parse_source
from stages.datasets import FolderConfig, ParquetConfig, SourceConfig, TableConfig, WebDatasetConfig
from stages.extraction import DecodeError, PreprocessConfig, TimmConfig, decode, extract, load_backbone
from stages.records import Records, read_records
from tests.pictures import write_table

STORED, UPRIGHT = "lossless_orientation6.png", "lossless_upright.png"


class Hostile(NamedTuple):
    """The hostile files, and whether each decodes."""

    folder: Path
    decodes: dict[str, bool]


@pytest.fixture(scope="module")
def hostile(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    listed = photographs / "hostile/expected.csv"
    if not listed.is_file():
        pytest.skip("PERMAFROST_DATA holds no hostile/expected.csv")
    with listed.open(newline="", encoding="utf-8") as file:
        decodes = {row["path"]: row["expect"] == "ok" for row in csv.DictReader(file)}
    folder = tmp_path_factory.mktemp("hostile")
    for name in decodes:
        shutil.copyfile(listed.parent / name, folder / name)
    upright = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    Image.fromarray(upright).save(folder / UPRIGHT)
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(folder / STORED, exif=exif)
    return Hostile(folder, decodes | {STORED: True, UPRIGHT: True})


def in_a_folder(hostile: Hostile, to: Path) -> tuple[SourceConfig, dict[str, str]]:
    shutil.copytree(hostile.folder, to / "images/hostile")
    return FolderConfig(path=str(to / "images")), {f"hostile/{name}": name for name in hostile.decodes}


def in_a_table(hostile: Hostile, to: Path) -> tuple[SourceConfig, dict[str, str]]:
    table = write_table(to / "t.csv", [{"path": name, "label": "x"} for name in hostile.decodes])
    config = TableConfig(path=str(table), label="label", root=str(hostile.folder))
    return config, {name: name for name in hostile.decodes}


def in_a_shard(hostile: Hostile, to: Path) -> tuple[SourceConfig, dict[str, str]]:
    keys = {}
    with tarfile.open(to / "s.tar", "w") as file:
        for at, name in enumerate(hostile.decodes):
            member = f"{at}/{name}" if "." in name else f"{at}/{name}.jpg"  # without an extension it is no member
            keys[f"s/{member.rpartition('.')[0]}"] = name
            file.add(hostile.folder / name, member)
            label = tarfile.TarInfo(f"{member.rpartition('.')[0]}.cls")
            label.size = 1
            file.addfile(label, io.BytesIO(b"x"))
    return WebDatasetConfig(path=str(to / "s.tar"), label="cls"), keys


def in_parquet(hostile: Hostile, to: Path) -> tuple[SourceConfig, dict[str, str]]:
    rows = [{"bytes": (hostile.folder / name).read_bytes(), "path": name} for name in hostile.decodes]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(
        pa.table({"image": pa.array(rows, kind), "label": ["x"] * len(rows)}), to / "t.parquet", row_group_size=9
    )
    config = ParquetConfig(path=str(to / "t.parquet"), label="label")
    return config, {name: name for name in hostile.decodes}


READERS = [in_a_folder, in_a_table, in_a_shard, in_parquet]
Reader = Callable[[Hostile, Path], tuple[SourceConfig, dict[str, str]]]


def read(reader: Reader, hostile: Hostile, to: Path) -> dict[str, str]:
    """The URI of each hostile file, by its name."""
    config, names = reader(hostile, to)
    records = read_records(config)
    assert sorted(records.keys) == sorted(names)
    return {names[key]: uri for key, uri in zip(records.keys, records.uris, strict=True)}


def decoded(uri: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    source = parse_source(uri)
    return decode(source.read(), box=source.box)


@pytest.mark.parametrize("reader", READERS)
def test_every_hostile_file_decodes_or_fails_as_listed_through_every_reader(
    hostile: Hostile, tmp_path: Path, reader: Reader
) -> None:
    uris = read(reader, hostile, tmp_path)
    assert hostile.decodes.keys() == uris.keys()
    assert len(uris) > 35
    for name, uri in uris.items():
        if hostile.decodes[name]:
            assert decoded(uri).shape[2] == 3
        else:
            with pytest.raises(DecodeError, match=r"^[^\n]{4,200}$"):
                decoded(uri)


@pytest.mark.parametrize("reader", READERS)
def test_a_turned_twin_is_upright_and_the_bomb_is_refused_by_its_size(
    hostile: Hostile, tmp_path: Path, reader: Reader
) -> None:
    uris = read(reader, hostile, tmp_path)
    np.testing.assert_array_equal(decoded(uris[STORED]), decoded(uris[UPRIGHT]))
    photo, twin = (
        decoded(uris[name]).astype(int) for name in ("exif_orientation6.jpg", "exif_orientation6_upright.jpg")
    )
    assert np.abs(photo - twin).max() < 20  # compressed in two ways
    with pytest.raises(DecodeError, match=r"^too large: "):
        decoded(uris["bomb_20000x20000.png"])


@pytest.mark.slow
def test_the_features_of_hostile_files_are_the_same_through_every_reader(hostile: Hostile, tmp_path: Path) -> None:
    backbone = load_backbone(TimmConfig(name="test_resnet", weights="random", preprocess=PreprocessConfig(size=32)))
    features: list[dict[bytes, bytes]] = []
    for reader in READERS:
        folder = tmp_path / reader.__name__
        folder.mkdir()
        config, names = reader(hostile, folder)
        records: Records = read_records(config)
        store = extract(records, backbone, folder, batch_size=1)  # so that rounding is the same in any order
        bad = {
            names[records.keys[records.digests.index(failure.digest)]]: failure.outcome for failure in store.failures()
        }
        assert set(bad) == {name for name in names.values() if not hostile.decodes[name]}
        assert {outcome.status for outcome in bad.values()} == {"failed"}
        assert all(outcome.error for outcome in bad.values())
        good = store.digests()
        features.append({digest: row.tobytes() for digest, row in zip(good, store.read(good), strict=True)})
    assert len(features[0]) > 20
    assert features[0] == features[1] == features[2] == features[3]
