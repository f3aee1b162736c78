"""Images in object storage: the same records, digests and features as of the same files on a local disk."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache import DigestCache, ImageSource, parse_source
from cache.errors import RecordsError, UnreachableError
from stages.datasets import FolderConfig, ParquetConfig, TableConfig, WebDatasetConfig
from stages.datasets.config import SourceConfig
from stages.extraction import extract
from stages.records import Records, read_records
from tests.object_servers import BUCKET, Quirks
from tests.pictures import draw_folder
from tests.toys.extraction import toy_backbone


@pytest.fixture
def stored(bucket: str, tmp_path: Path) -> Path:
    """The folder that the server of the bucket has its objects in."""
    return tmp_path / "server" / BUCKET


def described(config: SourceConfig) -> list[tuple[str, str | None, bytes]]:
    records = read_records(config)
    return list(zip(records.keys, records.labels, records.digests, strict=True))


def features(records: Records, folder: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return extract(records, toy_backbone(), folder).read(records.digests)


def test_a_folder_of_images(bucket: str, stored: Path, tmp_path: Path) -> None:
    images = draw_folder(stored / "images", {"cup": 3, "mug/red": 2})
    (images / "cup/notes.txt").write_text("not an image")
    far, near = FolderConfig(path=f"{bucket}/images"), FolderConfig(path=str(images))
    assert described(far) == described(near)
    one, other = (features(read_records(c), tmp_path / n) for c, n in ((far, "far"), (near, "near")))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(RecordsError, match="holds no image"):
        read_records(FolderConfig(path=f"{bucket}/none"))


@pytest.mark.parametrize("root", [True, False], ids=["root", "addresses in the table"])
def test_a_table_whose_images_are_far(bucket: str, stored: Path, tmp_path: Path, root: bool) -> None:
    draw_folder(stored / "images", {"cup": 3, "mug": 2})
    names = [f"{name}/{number}.png" for name, count in (("cup", 3), ("mug", 2)) for number in range(count)]
    before = "" if root else f"{bucket}/images/"
    rows = [f"{before}{name},{name.partition('/')[0]}\n" for name in names]
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(rows))
    records = read_records(
        TableConfig(path=str(tmp_path / "labels.csv"), label="label", root=f"{bucket}/images" if root else None)
    )
    assert records.uris == [f"{bucket}/images/{name}" for name in names]
    assert {*records.digests} == {digest for *_, digest in described(FolderConfig(path=str(stored / "images")))}
    (stored / "images/mug/1.png").unlink()
    with pytest.raises(RecordsError, match=r"mug/1\.png"):
        read_records(TableConfig(path=str(tmp_path / "labels.csv"), label="label", root=f"{bucket}/images"))


def test_members_of_tars_are_read_by_range(bucket: str, stored: Path, tmp_path: Path, quirks: Quirks) -> None:
    images = draw_folder(tmp_path / "images", {"cup": 4})
    (stored / "shards").mkdir()
    with tarfile.open(stored / "shards/00000.tar", "w") as tar:
        for path in sorted(images.rglob("*.png")):
            tar.add(path, path.name)
            entry = tarfile.TarInfo(f"{path.stem}.cls")
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"3"))
    far, near = (WebDatasetConfig(path=where, label="cls") for where in (f"{bucket}/shards", str(stored / "shards")))
    assert described(far) == described(near)
    records = read_records(far)
    assert records.uris[0].startswith("bytes:")
    assert records.uris[0].endswith(f":{bucket}/shards/00000.tar")
    assert parse_source(records.uris[0]).read() == (images / "cup/0.png").read_bytes()


def test_cells_of_parquet_are_read_without_the_whole_file(bucket: str, stored: Path, tmp_path: Path) -> None:
    images = sorted(draw_folder(tmp_path / "images", {"cup": 4}).rglob("*.png"))
    table = pa.table({"image": [path.read_bytes() for path in images], "label": ["a", "b", "a", "b"]})
    pq.write_table(table, stored / "train.parquet", row_group_size=2)
    far, near = (
        ParquetConfig(path=where, image="image", label="label")
        for where in (f"{bucket}/train.parquet", str(stored / "train.parquet"))
    )
    assert described(far) == described(near)
    source = ImageSource(f"{bucket}/train.parquet", cell=(1, 1, "image"))
    assert source.read() == images[3].read_bytes()
    pq.write_table(table.take([3, 2, 1, 0]), stored / "train.parquet", row_group_size=2)
    assert source.read() == images[0].read_bytes()


def test_a_digest_is_remembered_until_the_object_changes(
    bucket: str, stored: Path, tmp_path: Path, quirks: Quirks
) -> None:
    draw_folder(stored / "images", {"cup": 3})
    uris = [f"{bucket}/images/cup/{number}.png" for number in range(3)]
    cache = DigestCache(tmp_path / "digests.sqlite")
    first = cache.digests(uris)
    quirks.requests.clear()
    assert DigestCache(tmp_path / "digests.sqlite").digests(uris) == first
    assert {method for method, _ in quirks.requests} == {"HEAD"}
    (stored / "images/cup/1.png").write_bytes((stored / "images/cup/0.png").read_bytes())
    assert [one.digest for one in cache.digests(uris)] == [first[0].digest, first[0].digest, first[2].digest]


def test_an_image_that_is_not_there_is_a_row_and_a_server_that_is_not_an_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (missing,) = DigestCache().digests([f"{bucket}/none.jpg"])
    assert missing.error == "cannot be read: No such object"
    with pytest.raises(UnreachableError, match="there is no such bucket"):
        DigestCache().digests(["s3://no-such-bucket/a.jpg"])
