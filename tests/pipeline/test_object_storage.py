"""A run whose artifacts lie in object storage: what it says and stores is what it is in a folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import LocalStorage
from cache.storage import storage_of
from tests.object_servers import localbucket
from tests.pictures import draw_folder
from tests.typed import PCA_RUN, permafrost

RUN = PCA_RUN + '[[heads]]\nname = "lda"\nkind = "lda"\ndim = 3\n' + '[retrieval]\nindex = { kind = "scalar" }\n'


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, localbucket(tmp_path_factory.mktemp("far") / "server", patch) as url:
        yield url


@pytest.fixture(scope="module")
def folder(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file whose artifacts are near, ``local.toml``, and one of artifacts that are far, both of them run."""
    folder = tmp_path_factory.mktemp("runs")
    draw_folder(folder / "images", {f"class {number}": 6 for number in range(12)})
    for name, artifacts in (("local", "artifacts"), ("far", f"{bucket}/shop")):
        (folder / name).mkdir()
        text = RUN.replace('artifacts = "artifacts"', f'artifacts = "{artifacts}"').replace('"images"', '"../images"')
        (folder / name / "run.toml").write_text(text)
        done = permafrost("run", "run.toml", "--json", cwd=folder / name)
        assert done.returncode == 0, done.stderr
        (folder / name / "out").write_text(done.stdout)
        assert permafrost("search", "run.toml", "../images/class 1/0.png", cwd=folder / name).returncode == 0
    return folder


def test_every_byte_is_the_same_as_in_a_folder(folder: Path, bucket: str) -> None:
    near, far = LocalStorage(folder / "local/artifacts"), storage_of(f"{bucket}/shop")
    keys = [key for key in near.list() if not key.endswith((".lock", "digests.sqlite"))]
    assert [key for key in far.list() if ".lock/" not in key] == keys
    assert {key.partition("/")[0] for key in keys} == {"embeddings", "features", "heads", "indexes", "scores"}
    assert [key for key in keys if near.read(key) != far.read(key)] == []
    assert (folder / "far/out").read_text() == (folder / "local/out").read_text()
    assert sorted(path.name for path in (folder / "far").iterdir()) == ["out", "run.toml"]


@pytest.mark.parametrize(
    "command",
    [
        ["score", "--json"],
        ["verify"],
        ["inspect", "--json"],
        ["search", "../images/class 1/0.png", "--json"],
        ["health"],
        ["plan"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_says_what_it_says_of_a_folder(folder: Path, bucket: str, command: list[str]) -> None:
    runs = [permafrost(command[0], "run.toml", *command[1:], cwd=folder / name) for name in ("local", "far")]
    assert [typed.returncode for typed in runs] == [0, 0], runs[1].stderr
    assert runs[1].stdout.replace(f"{bucket}/shop", "artifacts") == runs[0].stdout


@pytest.mark.parametrize(
    "command",
    [
        ["score", "RUN", "--json"],
        ["verify", "RUN"],
        ["inspect", "RUN", "--json"],
        ["search", "RUN", "../images/class 1/0.png", "--json"],
        ["plan", "RUN"],
        ["compare", "RUN:raw", "RUN:lda", "--metric", "mmp@5"],
        ["train-heads", "RUN"],
    ],
    ids=lambda command: command[0],
)
def test_a_run_file_may_be_at_an_address(folder: Path, bucket: str, command: list[str]) -> None:
    text = (folder / "far/run.toml").read_text().replace(f'"{bucket}/shop"', '"../shop"')
    storage_of(f"{bucket}/runs").put("run.toml", text.replace('"../images"', f'"{folder / "images"}"').encode())
    near, far = (
        permafrost(*(word.replace("RUN", name) for word in command), cwd=folder / "far")
        for name in ("run.toml", f"{bucket}/runs/run.toml")
    )
    assert (near.returncode, far.returncode) == (0, 0), far.stderr
    text = far.stdout.replace(f"{bucket}/runs/run.toml", "run.toml").replace(f"{folder}/", "../")
    assert text.split() == near.stdout.split()


def test_paths_of_a_run_file_at_an_address_are_seen_from_there(folder: Path, bucket: str) -> None:
    images, place = LocalStorage(folder / "images"), storage_of(f"{bucket}/all")
    for key in images.list():
        place.put(f"images/{key}", images.read(key))
    place.put("runs/run.toml", RUN.replace('"artifacts"', '"../out"').replace('"images"', '"../images"').encode())
    typed = permafrost("extract", f"{bucket}/all/runs/run.toml", cwd=folder)
    assert typed.returncode == 0, typed.stderr
    (chunk,) = [key for key in place.list("out/features/") if "/features/c/" in key]
    near = LocalStorage(folder / "local/artifacts")
    assert place.read(chunk) == near.read(chunk.removeprefix("out/"))


@pytest.mark.parametrize(
    ("address", "text", "message"),
    [
        ("s3://bucket/no.toml", "", "s3://bucket/no.toml does not exist"),
        ("s3://no-such-bucket/run.toml", "", "there is no such bucket"),
        ("s3://bucket", "", "names no run file: s3://bucket/run.toml would"),
        ("s3://bucket/a.toml", RUN.replace('"images"', '"../images"'), "leads out of the bucket"),
        ("s3://bucket/b.toml", RUN.replace('kind = "folder"', 'kind = "table"\nlabel = []'), "Copy the table here"),
        (
            "s3://bucket/c.toml",
            RUN.replace('kind = "pca"\ndim = 4\nsize = 8', 'kind = "timm"\nname = "x"\nweights = "w.pt"'),
            "copy the file",
        ),
    ],
    ids=["key", "bucket", "no key", "outside", "table", "weights"],
)
def test_a_run_file_at_an_address_that_cannot_be_used_is_one_message(
    folder: Path, bucket: str, address: str, text: str, message: str
) -> None:
    if text:
        storage_of(bucket).put(address.rpartition("/")[2], text.encode())
    typed = permafrost("run", address, cwd=folder / "far")
    assert typed.returncode in (1, 2)
    assert message in typed.stderr
    assert not list((folder / "far").glob("s3:*"))


def test_the_address_of_a_store_is_inspected_and_the_page_of_a_run_is_stored(folder: Path, bucket: str) -> None:
    typed = permafrost("inspect", f"{bucket}/shop/features", cwd=folder / "far")
    assert typed.stdout.startswith(f"{bucket}/shop/features/pca-")
    typed = permafrost("report", "run.toml", "--queries", "1", cwd=folder / "far")
    assert typed.stdout == f"{bucket}/shop/reports/run.html\n"
    assert storage_of(f"{bucket}/shop").read("reports/run.html").startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    "command",
    [
        ["compact", "run.toml"],
        ["export", "run.toml", "--format", "export", "--output", "s3://bucket/one.pt2"],
        ["features", "run.toml", "--output=s3://bucket/f.parquet"],
        ["init", "../images", "-o", "s3://bucket/run.toml"],
    ],
    ids=lambda command: command[0],
)
def test_what_needs_a_local_disk_is_refused_and_makes_no_folder(folder: Path, command: list[str]) -> None:
    typed = permafrost(*command, cwd=folder / "far")
    assert typed.returncode == 2
    assert "object storage" in typed.stderr
    assert not list((folder / "far").glob("s3:*"))


def test_what_is_neither_a_folder_nor_a_known_address_is_refused(folder: Path) -> None:
    (folder / "far/wrong.toml").write_text(RUN.replace('artifacts = "artifacts"', 'artifacts = "ftp://host/shop"'))
    typed = permafrost("extract", "wrong.toml", cwd=folder / "far")
    assert typed.returncode == 2
    assert "must be a local path" in typed.stderr
