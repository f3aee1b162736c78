"""Images in tar shards: samples, what they say, and every way a shard can be wrong."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from cache import digest_bytes
from cache.errors import RecordsError
from stages.datasets import WebDatasetConfig
from stages.records import Records, read_records

Members = Sequence[tuple[str, bytes]]


def tar(path: Path, members: Members, kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as file:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def sample(key: str, image: bytes = b"jpeg", **fields: object) -> Members:
    """What img2dataset writes for an image."""
    return [(f"{key}.jpg", image), (f"{key}.json", json.dumps(fields).encode()), (f"{key}.txt", b" a caption\n")]


def shard(path: Path, *keys: str, **fields: object) -> Path:
    return tar(
        path, [member for key in keys for member in sample(key, key.encode(), **{"label": f"of {key}"} | fields)]
    )


def config(path: Path, **changes: object) -> WebDatasetConfig:
    return WebDatasetConfig(**{"path": str(path), "label": "label"} | changes)  # type: ignore[arg-type]


def columns(path: Path, **changes: object) -> dict[str, list[str | None]]:
    table: dict[str, list[str | None]] = config(path, **changes).read().table.to_pydict()
    return table


def test_shards_as_img2dataset_writes_them(tmp_path: Path) -> None:
    shard(tmp_path / "00000.tar", "000000000", "000000001", url="https://example.org/é.jpg")
    shard(tmp_path / "00001.tar", "000010000")
    for name in ("00000.parquet", "00000_stats.json", "._00001.tar", ".hidden/00002.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not a shard")
    rows = columns(tmp_path, tags="txt", attributes=("url",))
    assert rows["key"] == ["00000/000000000", "00000/000000001", "00001/000010000"]
    assert rows["label"] == ["of 000000000", "of 000000001", "of 000010000"]
    assert rows["tags"] == ["a caption"] * 3
    assert rows["attributes.url"] == ["https://example.org/é.jpg"] * 2 + [None]
    assert not {"split", "domain"} & rows.keys()
    records = read_records(config(tmp_path))
    assert records.digests == [digest_bytes(key) for key in (b"000000000", b"000000001", b"000010000")]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_are_taken_apart_as_webdataset_does(tmp_path: Path, kind: int) -> None:
    long = "d" * 90 + "/" + "k" * 120 if kind != tarfile.USTAR_FORMAT else "d" * 90 + "/" + "k" * 60
    members = [
        ("./a b/é\n1.PNG", b"1"),
        ("./a b/é\n1.cls", b"7\n"),
        ("a b/._é\n1.png", b"of a Mac"),
        ("README", b"no extension"),
        ("x.seg.png", b"a mask"),
        ("x.webp", b"2"),
        ("x.cls", b"8"),
        (long + ".bmp", b""),
        (long + ".cls", b"9"),
    ]
    source = config(tar(tmp_path / "s.tar", members, kind), label="cls").read()
    (note,) = source.notes
    assert note.startswith(
        "members of the shards left out, as they belong to no sample: 1 without an extension, 1 hidden"
    )
    assert note.endswith(f"the first is 'a b/._é\\n1.png' in {tmp_path / 's.tar'}")
    rows = source.table.to_pydict()
    assert rows["key"] == ["s/a b/é\n1", "s/x", f"s/{long}"]
    assert rows["label"] == ["7", "8", "9"]
    records = read_records(config(tmp_path / "s.tar", label="cls"))
    assert records.digests == [digest_bytes(content) for content in (b"1", b"2", b"")]
    assert columns(tmp_path / "s.tar", label="cls", image="seg.png")["problem"][1] is None


def test_members_of_a_sample_need_not_be_neighbours(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("b.cls", b"y"), ("a.cls", b"x")]
    assert columns(tar(tmp_path / "s.tar", members), label="cls")["label"] == ["x", "y"]


def test_a_folder_a_pattern_and_one_shard_name_the_same_images(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(2):
            shard(tmp_path / f"{split}/{number:05}.tar", f"k{number}")
    whole = columns(tmp_path, split="file")
    assert whole["key"] == ["test/00000/k0", "test/00001/k1", "train/00000/k0", "train/00001/k1"]
    assert whole["split"] == ["test", "test", "train", "train"]
    assert columns(Path(f"{tmp_path}/*/0000[0-9].tar"))["uri"] == whole["uri"]
    assert columns(Path(f"{tmp_path}/**/*.tar"))["uri"] == whole["uri"]
    assert columns(tmp_path / "train/00001.tar")["uri"] == whole["uri"][3:]


def test_the_split_can_be_the_name_of_the_shard_or_a_field(tmp_path: Path) -> None:
    for name in ("imagenet-train-000003", "val_12", "test-00000-of-00005", "gallery"):
        shard(tmp_path / f"{name}.tar", "a", split="of the field", domain="shop")
    assert columns(tmp_path, split="file")["split"] == ["gallery", "imagenet-train", "test", "val"]
    assert columns(tmp_path)["split"] == ["of the field"] * 4
    assert columns(tmp_path)["domain"] == ["shop"] * 4
    assert "split" not in config(tmp_path, split="class-disjoint").read().table.column_names


def test_labels_are_joined_and_numbers_are_text(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", "k", brand="Acme", model=7, price=None, on=True, tags=["x"])
    assert columns(tmp_path, label=("brand", "model"))["label"] == ["Acme/7"]
    assert columns(tmp_path, label=("brand", "price"))["label"] == [None]
    assert columns(tmp_path, label=("on", "txt"))["label"] == ["true/a caption"]
    with pytest.raises(RecordsError, match=r"member 'k.json': the column 'tags' holds \['x'\]; a value must be text"):
        columns(tmp_path, label="tags")


def test_a_key_of_their_own_must_differ_across_shards(tmp_path: Path) -> None:
    for name in ("0", "1"):
        shard(tmp_path / f"{name}.tar", "k", id="7")
    assert columns(tmp_path)["key"] == ["0/k", "1/k"]
    with pytest.raises(RecordsError, match=r"0\.tar, sample 'k' and .*1\.tar, sample 'k' have the same key '7'\. Keys"):
        read_records(config(tmp_path, key="id"))


def test_a_sample_without_a_label_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", "a", "b")
    tar(tmp_path / "test.tar", [*sample("c", label="x"), *sample("d")])
    with pytest.raises(RecordsError, match=r"test\.tar, sample 'd' \(key 'test/d'\) is in query .* has no label"):
        read_records(config(tmp_path, split="file", train="train", query="test", gallery="test"))


def test_a_sample_without_an_image_is_refused_or_recorded(tmp_path: Path) -> None:
    tar(tmp_path / "s.tar", [*sample("a", label="x"), *sample("b", label="x")[1:], *sample("c", b"more", label="x")])
    message = r"s\.tar, sample 'b' \(key 's/b'\) has no image: the sample has no member with .* only json, txt .*record"
    with pytest.raises(RecordsError, match=message):
        read_records(config(tmp_path))
    records: Records = read_records(config(tmp_path, missing_images="record"))
    assert records.unreadable().keys == ["s/b"]
    assert records.digests == [digest_bytes(b"jpeg"), b"", digest_bytes(b"more")]


def test_an_extension_of_two_parts_is_named_with_what_to_say(tmp_path: Path) -> None:
    tar(tmp_path / "s.tar", [("a.v2.jpg", b"jpeg"), ("a.json", b'{"label": "x"}')])
    with pytest.raises(RecordsError, match=r"only json, v2\.jpg \(.*: say image = 'v2\.jpg', or rename"):
        read_records(config(tmp_path))
    assert read_records(config(tmp_path, image="v2.jpg")).digests == [digest_bytes(b"jpeg")]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], r"s\.tar holds no sample: it is an empty tar"),
        ([("README", b"")], "holds no sample"),
        ([("../x.jpg", b"")], r"s\.tar, member '\.\./x\.jpg': a name must lie within the tar"),
        ([("a/../x.jpg", b"")], "must lie within the tar"),
        ([("/etc/x.jpg", b"")], r"member '/etc/x\.jpg': a name must lie within the tar"),
        (
            [("a.jpg", b""), ("a.jpg", b"")],
            r"s\.tar, member 'a\.jpg': a second one of this name. Was the shard appended",
        ),
        ([("a.jpg", b""), ("./a.JPG", b"")], "a second one of this name"),
        (
            [("a.jpg", b""), ("a.png", b""), ("a.json", b'{"label": 1}')],
            r"sample 'a' has the images 'a\.jpg' and 'a\.png': say which",
        ),
        ([("a.jpg", b""), ("a.json", b"{")], r"s\.tar, member 'a\.json' cannot be read as json"),
        ([("a.jpg", b""), ("a.json", b"[1]")], "it is list, not an object"),
        ([("a.jpg", b""), ("a.json", b"[" * 10**6)], "cannot be read as json"),
        ([("a.jpg", b""), ("a.json", b'{"label": "\\ud800"}')], "cannot be read as json"),
        ([("a.jpg", b""), ("a.cls", b"\xff")], r"member 'a\.cls' cannot be read as cls"),
        (
            [("a.jpg", b""), ("a.json", b'{"lable": 1}')],
            r"has no sample whose json \(or cls, txt\) says 'label'\. Did you mean 'lable'\? It has: lable",
        ),
        ([("\udcff.jpg", b"")], "its name is not UTF-8"),
    ],
)
def test_a_wrong_shard_is_refused_by_its_member(tmp_path: Path, members: Members, message: str) -> None:
    tar(tmp_path / "s.tar", members, tarfile.GNU_FORMAT)
    with pytest.raises(RecordsError, match=message):
        config(tmp_path).read()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as file:
        file.addfile(tarfile.TarInfo("a.jpg"))
        entry = tarfile.TarInfo("b.jpg")
        entry.type, entry.linkname = kind, "a.jpg"
        file.addfile(entry)
    with pytest.raises(RecordsError, match=r"s\.tar, member 'b\.jpg': it is no file but a link or a device"):
        config(tmp_path).read()


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as file:
        entry = tarfile.TarInfo("GNUSparseFile.0/a.jpg")
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg"}
        entry.pax_headers["GNU.sparse.realsize"] = "100000"
        content = b"1\n99999\n1\n".ljust(512, b"\0") + b"x"
        entry.size = len(content)
        file.addfile(entry, io.BytesIO(content))
    with pytest.raises(RecordsError, match=r"member 'a\.jpg': it is stored sparse"):
        config(tmp_path).read()


@pytest.mark.parametrize(("suffix", "mode"), [(".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz")])
def test_a_compressed_shard_is_refused_whatever_its_name(tmp_path: Path, suffix: str, mode: str) -> None:
    shard(tmp_path / "a.tar", "a")
    with tarfile.open(tmp_path / f"b{suffix}", mode) as file:  # type: ignore[call-overload]
        file.addfile(tarfile.TarInfo("b.jpg"))
    for path in (tmp_path, tmp_path / f"b{suffix}"):
        with pytest.raises(RecordsError, match=rf"b\{suffix} is compressed, .*: unpack it"):
            config(path).read()
    (tmp_path / f"b{suffix}").rename(tmp_path / "b.tar")
    with pytest.raises(RecordsError, match=r"b\.tar is compressed with"):
        config(tmp_path).read()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_wherever_a_shard_is_cut_it_is_refused_and_never_shorter(tmp_path: Path, form: int) -> None:
    members = [*sample("a", b"1" * 700, label="x"), ("k" * 150 + ".jpg", b"2" * 600), *sample("c", label="y")]
    whole = tar(tmp_path / "s.tar", members, form).read_bytes()
    with tarfile.open(tmp_path / "s.tar") as file:
        end = file.getmembers()[-1].offset_data + 512
    for length in range(0, end + 1, 64):
        (tmp_path / "s.tar").write_bytes(whole[:length])
        with pytest.raises(RecordsError, match=r"s\.tar (cannot be read as a tar|is cut off|holds no sample)"):
            config(tmp_path).read()
    for length in (end + 512, end + 1024, len(whole)):
        (tmp_path / "s.tar").write_bytes(whole[:length])
        assert len(columns(tmp_path)["key"]) == 3
    (tmp_path / "s.tar").write_bytes(whole[: end - 512 - 1])
    with pytest.raises(RecordsError, match=r"is cut off .*'c\.(json|txt)'"):
        config(tmp_path).read()


def test_the_member_that_is_cut_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", [("a.jpg", b"1" * 100), ("b.jpg", b"2" * 5000)])
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(
        RecordsError,
        match=r"s\.tar is cut off in its member 'b\.jpg', which should end at byte 6,536; the file has 4,000\. Copy",
    ):
        config(tmp_path).read()


def test_a_damaged_header_and_a_second_tar_behind_the_first_are_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", [("a.jpg", b"1"), ("b.jpg", b"2")])
    whole = path.read_bytes()
    path.write_bytes(whole[:1024] + b"\x07" * 512 + whole[1536:])
    with pytest.raises(RecordsError, match=r"damaged after its member 'a\.jpg': no header of a member at byte 1,024"):
        config(tmp_path).read()
    path.write_bytes(whole + whole)
    with pytest.raises(RecordsError, match=r"goes on behind its end, after its member 'b\.jpg': it is several tars"):
        config(tmp_path).read()
    path.write_text("words, " * 200)
    with pytest.raises(RecordsError, match=r"s\.tar cannot be read as a tar"):
        config(tmp_path).read()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("gone", "gone does not exist, seen from"),
        ("no-*.tar", r"no-\*\.tar matches no file"),
        ("{00000..00009}.tar", "does not exist, seen from .* Braces are not expanded: write a pattern"),
        ("", r"holds no file that ends in \.tar"),
    ],
)
def test_a_path_without_shards_says_so(tmp_path: Path, where: str, message: str) -> None:
    with pytest.raises(RecordsError, match=message):
        config(tmp_path / where).read()


def test_a_webdataset_needs_a_label() -> None:
    with pytest.raises(ValueError, match="a webdataset needs label: the field of each sample's json, or the extension"):
        WebDatasetConfig(path="shards")
