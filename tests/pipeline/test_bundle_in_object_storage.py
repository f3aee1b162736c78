"""A bundle at an address: the bytes and answers of the folder, changed by puts that never replace anything."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cache import ObjectStorage
from cache.errors import DamagedStoreError, MissingRowsError, StoreBusyError, StoreError, UnreachableError
from cache.lock import driver_lease
from cache.storage import storage_of
from pipeline.bundle import Bundle, current_number, is_bundle, read_snapshot
from pipeline.bundle.changes import add_images, publish, remove_images
from pipeline.bundle.export import export_bundle
from pipeline.bundle.snapshots import make_current, newest_number
from pipeline.dataset import open_run
from pipeline.encoder import Encoder
from pipeline.searcher import Searcher
from pipeline.service.snapshots import open_snapshots
from pipeline.vectors import find_vectors
from stages.datasets import FolderConfig
from tests.object_servers import BUCKET, Quirks
from tests.pictures import draw_folder
from tests.toys.stores import contents
from tests.typed import PCA_RUN, permafrost

RUN = PCA_RUN + '[[heads]]\nname = "lda"\nkind = "lda"\ndim = 3\n[retrieval]\nindex = { kind = "scalar" }\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the bundle ``near`` of its head, and new photos."""
    folder = tmp_path_factory.mktemp("shop")
    draw_folder(folder / "images", {f"class {number}": 6 for number in range(12)})
    draw_folder(folder / "photos", {"new": 3, "gone": 2}, seed=100_000)
    (folder / "run.toml").write_text(RUN)
    assert permafrost("run", "run.toml", cwd=folder).returncode == 0
    done = permafrost("export", "run.toml", "--head", "lda", "--thumbnails", "-o", "near", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def far(folder: Path, bucket: str, tmp_path: Path) -> str:
    """The same bundle at an address: what ``export`` puts there, as a test below says."""
    shutil.copytree(folder / "near", tmp_path / "server" / BUCKET / "shop")
    return f"{bucket}/shop"


def exported(folder: Path, where: str, head: str = "lda") -> Bundle:
    with contextlib.chdir(folder):
        run = open_run("run.toml", quiet=True)
        (vectors,) = (entry for entry in find_vectors(run) if entry.head == head)
        return export_bundle(run, vectors, where, thumbnails=True)


def add(bundle: Bundle, images: Path) -> int:
    return add_images(bundle, FolderConfig(path=str(images)), encoder=lambda: Encoder(bundle.embedder())).snapshot


def add_and_publish(bundle: Bundle, images: Path) -> None:
    add(bundle, images)
    publish(bundle)


class Killed(Exception):
    pass


def die_at_put(ending: str, patch: pytest.MonkeyPatch) -> None:
    """Let no put be done from that on of a key with this ``ending``."""
    real, dead = ObjectStorage.put_new, list[str]()

    def put_new(storage: ObjectStorage, key: str, content: bytes) -> bool:
        if dead or storage.address(key).endswith(ending):
            dead.append(key)
            raise Killed
        return real(storage, key, content)

    patch.setattr(ObjectStorage, "put_new", put_new)


# Exported and opened


def test_an_export_to_an_address_has_the_bytes_of_a_folder(
    folder: Path, bucket: str, quirks: Quirks, tmp_path: Path
) -> None:
    quirks.busy_after = {("PUT", "bundle.json"): 1, ("PUT", "vectors.npy"): 1}
    typed = permafrost("export", "run.toml", "--head", "lda", "--thumbnails", "-o", f"{bucket}/shop", cwd=folder)
    assert typed.returncode == 0, typed.stderr
    assert typed.stdout.startswith(f"{bucket}/shop: 20 images, pca lda,")
    assert contents(tmp_path / "server" / BUCKET / "shop") == contents(folder / "near")
    puts = Counter(path for method, path in quirks.requests if method == "PUT" and "/shop/" in path)
    assert {*puts.values()} == {1, 2}  # two, where the answer was an error
    order = [path for method, path in quirks.requests if method == "PUT" and "/shop/" in path]
    assert order[-1].endswith("/bundle.json")
    assert not list(folder.glob("s3:*"))


@pytest.mark.parametrize(
    "command",
    [
        ["search", "BUNDLE", "images/class 1/0.png", "photos/new/0.png", "--json"],
        ["encode", "BUNDLE", "photos", "-o", "vectors.parquet"],
        ["export", "BUNDLE", "--format", "export", "-o", "one.pt2"],
    ],
    ids=lambda command: command[0],
)
def test_commands_say_of_an_address_what_they_say_of_a_folder(folder: Path, far: str, command: list[str]) -> None:
    typed = []
    for name in ("near", far):
        done = permafrost(*(word.replace("BUNDLE", name) for word in command), cwd=folder)
        files = [(folder / word).read_bytes() for word in command[2:] if (folder / word).is_file()]
        typed.append((done.returncode, done.stdout, files, done.stderr.replace(name, "")))
        for word in ("vectors.parquet", "one.pt2"):
            (folder / word).unlink(missing_ok=True)
    assert typed[0] == typed[1]


def test_it_is_searched_to_the_same_bits_through_copies_that_are_verified(
    folder: Path, far: str, quirks: Quirks, tmp_path: Path
) -> None:
    images = [path.read_bytes() for path in sorted((folder / "images").rglob("*.png"))[:5]]
    wanted = Searcher.open(folder / "near").search(images, exact=True)
    assert Searcher.open(far).search(images, exact=True) == wanted
    np.testing.assert_array_equal(
        Encoder.load(far).encode(images).vectors, Encoder.load(folder / "near").encode(images).vectors
    )
    digest = read_snapshot(Bundle.open(far)).rows["digest"][0].as_py()
    assert Bundle.open(far).thumbnail(digest) == Bundle.open(folder / "near").thumbnail(digest)

    def large() -> list[str]:
        names = [path for method, path in quirks.requests if method == "GET" and path.endswith((".npy", "tensors"))]
        quirks.requests.clear()
        return names

    large()
    assert Searcher.open(far).search(images, exact=True) == wanted
    assert large() == []
    (copy,) = (tmp_path / "cache/bundles").rglob("vectors.npy")
    copy.write_bytes(b"\1" + copy.read_bytes()[1:])
    assert Searcher.open(far).search(images, exact=True) == wanted
    assert len(large()) == 1
    original = tmp_path / "server" / BUCKET / "shop/snapshots/1/vectors.npy"
    original.write_bytes(original.read_bytes()[:-1] + b"\1")
    copy.unlink()
    with pytest.raises(DamagedStoreError, match=rf"{far}/snapshots/1/vectors.npy is not as it was written"):
        Searcher.open(far)


def test_an_address_without_a_bundle_is_named(bucket: str) -> None:
    for opened in (Bundle.open, Searcher.open, Encoder.load):
        with pytest.raises(MissingRowsError, match=rf"{bucket}/none holds no bundle"):
            opened(f"{bucket}/none")


# Exports that end early, or meet


@pytest.mark.parametrize("ending", ["README.md", "vectors.npy", "bundle.json"])
def test_an_export_that_is_killed_leaves_no_bundle_and_is_finished_by_the_same_command(
    ending: str, folder: Path, bucket: str, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        die_at_put(ending, patch)
        with pytest.raises(Killed):
            exported(folder, f"{bucket}/shop")
    assert not is_bundle(f"{bucket}/shop")
    with pytest.raises(MissingRowsError):
        Bundle.open(f"{bucket}/shop")
    exported(folder, f"{bucket}/shop")
    assert contents(tmp_path / "server" / BUCKET / "shop") == contents(folder / "near")


def test_of_two_exports_to_one_address_the_second_is_refused(folder: Path, bucket: str, far: str) -> None:
    with pytest.raises(StoreError, match="is a bundle of these embeddings already"):
        exported(folder, far)
    with pytest.raises(StoreError, match="is a bundle of other embeddings already"):
        exported(folder, far, "raw")
    with (
        driver_lease(ObjectStorage(f"{bucket}/other")),
        pytest.raises(StoreBusyError, match=f"{bucket}/other is being written by process"),
    ):
        exported(folder, f"{bucket}/other")
    storage_of(bucket).put("half/README.md", b"of another")
    with pytest.raises(StoreError, match=rf"{bucket}/half/README.md is of another export"):
        exported(folder, f"{bucket}/half")
    assert storage_of(bucket).read("half/README.md") == b"of another"
    with pytest.raises(StoreError, match="is not empty, it has half"):
        exported(folder, bucket)


def test_a_server_that_replaces_what_is_there_gets_no_bundle(folder: Path, bucket: str, quirks: Quirks) -> None:
    quirks.conditional = "ignore"
    with pytest.raises(UnreachableError, match="let one key be created twice"):
        exported(folder, f"{bucket}/shop")
    assert storage_of(bucket).list() == []


# Changed


def test_it_changes_as_a_folder_does_and_no_key_is_put_twice(
    folder: Path, far: str, quirks: Quirks, tmp_path: Path
) -> None:
    near = str(shutil.copytree(folder / "near", tmp_path / "near"))
    quirks.busy_after = {("PUT", "/2/snapshot.json"): 1, ("PUT", "current/00000001.json"): 1}
    snapshots = []
    for where in (near, far):
        bundle = Bundle.open(where)
        assert add(bundle, folder / "photos") == 2
        assert (current_number(where), publish(bundle), current_number(where)) == (1, 2, 2)
        assert remove_images(bundle, where={"label": ["gone"]}) == (3, 2)
        assert publish(bundle, prune=True) == 3
        snapshots.append(read_snapshot(Bundle.open(where)))
    one, other = snapshots
    assert one.rows == other.rows
    np.testing.assert_array_equal(one.vectors, other.vectors)
    images = [path.read_bytes() for path in sorted((folder / "photos").rglob("*.png"))]
    assert Searcher.open(near).search(images) == Searcher.open(far).search(images)
    puts = Counter(path for method, path in quirks.requests if method == "PUT" and "/shop/" in path)
    assert sorted(puts.values())[-3:] == [1, 2, 2]  # those whose answer was an error
    server = tmp_path / "server" / BUCKET / "shop"
    assert {path.name for path in (server / "snapshots").iterdir()} == {"3"}
    assert {*contents(server / "thumbnails")} == {*contents(Path(near) / "thumbnails")}
    copied = shutil.copytree(server, tmp_path / "copied")  # to a local disk, where it goes on
    assert (current_number(copied), add(Bundle.open(copied), folder / "photos")) == (3, 4)
    assert (publish(Bundle.open(copied)), current_number(copied)) == (4, 4)


def test_commands_change_it(folder: Path, far: str) -> None:
    typed = permafrost("add", far, "photos", "--publish", cwd=folder)
    assert typed.stdout == f"{far}: snapshot 2, 5 images added, 0 were there; searched from now on\n"
    assert permafrost("remove", far, "new/0.png", cwd=folder).returncode == 0
    assert permafrost("publish", far, cwd=folder).stdout == f"{far}: snapshot 3 is searched\n"


@pytest.mark.parametrize("ending", ["rows.parquet", "vectors.npy", "snapshot.json", "current/00000001.json"])
def test_an_add_that_is_killed_changes_nothing_and_the_next_goes_on(ending: str, folder: Path, far: str) -> None:
    bundle, rows = Bundle.open(far), read_snapshot(Bundle.open(folder / "near")).rows
    with pytest.MonkeyPatch.context() as patch:
        die_at_put(ending, patch)
        with pytest.raises(Killed):
            add_and_publish(bundle, folder / "photos")
    assert read_snapshot(Bundle.open(far)).rows == rows
    remove_images(bundle, ["class 0/5.png"])  # another change, whose files are others
    add(bundle, folder / "photos")
    keys = {*rows["key"].to_pylist(), "gone/0.png", "gone/1.png", "new/0.png", "new/1.png", "new/2.png"}
    assert {*read_snapshot(bundle, publish(bundle)).rows["key"].to_pylist()} == keys - {"class 0/5.png"}


def test_a_writer_that_was_thought_dead_cannot_end_its_snapshot(folder: Path, far: str) -> None:
    storage, bundle = ObjectStorage(far), Bundle.open(far)
    storage.put("snapshots/2/rows.parquet", b"of a writer that is stopped")
    assert add(bundle, folder / "photos") == 3
    assert not storage.put_new("snapshots/2/snapshot.json", b"it goes on")
    assert publish(bundle) == newest_number(far) == current_number(far) == 3
    with pytest.raises(DamagedStoreError, match="its writer was killed"):
        read_snapshot(bundle, 2)
    assert remove_images(bundle, ["new/0.png"]) == (4, 1)


def test_what_is_searched_never_goes_back(folder: Path, far: str) -> None:
    bundle = Bundle.open(far)
    add(bundle, folder / "photos")
    publish(bundle)
    remove_images(bundle, ["new/0.png"])
    publish(bundle)
    make_current(far, 2)  # of a writer that was stopped before it published what was the newest then
    assert current_number(far) == 3


def test_a_second_writer_is_refused_by_name(far: str) -> None:
    with (
        driver_lease(ObjectStorage(far)),
        pytest.raises(StoreBusyError, match=f"{far} is being written by process"),
    ):
        publish(Bundle.open(far))


def test_a_listing_that_lags_hides_no_snapshot(folder: Path, far: str, quirks: Quirks) -> None:
    bundle = Bundle.open(far)
    add(bundle, folder / "photos")
    publish(bundle)
    quirks.not_listed = {".json"}
    assert (current_number(far), remove_images(bundle, ["new/0.png"])) == (2, (3, 1))
    assert (publish(bundle), current_number(far)) == (3, 3)


def test_what_is_published_is_served(folder: Path, far: str) -> None:
    events: list[str] = []
    snapshots = open_snapshots(far, on_change=events.append)
    snapshots.close()
    count = len(snapshots.current)
    bundle = Bundle.open(far)
    add(bundle, folder / "photos")
    snapshots.look()
    assert (len(snapshots.current), events) == (count, [])
    publish(bundle)
    snapshots.look()
    assert (len(snapshots.current), events) == (count + 5, ["opened"])
