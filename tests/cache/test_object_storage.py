import pickle
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import LocalStorage, Storage
from cache.errors import MissingExtraError, SettingsError, UnreachableError
from cache.object_storage import ObjectStorage
from cache.storage import storage_of
from tests.cache.storage_contract import SharedStorageContract
from tests.object_servers import Quirks, azurite


class TestObjectStorage(SharedStorageContract):
    @pytest.fixture
    def storage(self, bucket: str) -> Storage:
        return storage_of(f"{bucket}/some where/root")


class TestAzure(SharedStorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
        with azurite(tmp_path / "server", monkeypatch) as url:
            yield storage_of(f"{url}/root")


def test_a_whole_bucket_is_a_storage_too(bucket: str) -> None:
    storage = storage_of(bucket)
    assert storage.put_new("a/b", b"1")
    assert (storage.list(), storage.list("a"), storage.below("a").list()) == (["a/b"], ["a/b"], ["b"])


def test_an_address_is_a_storage_of_its_kind(bucket: str) -> None:
    assert storage_of("gs://a/b/") == ObjectStorage("gs://a/b")
    assert storage_of("az://a") == ObjectStorage("az://a")
    assert isinstance(storage_of("folder"), LocalStorage)
    for wrong in ("s3:/bucket/shop", "ftp://host/shop", Path("s3://bucket/shop")):
        with pytest.raises(SettingsError, match="must be a local path"):
            storage_of(wrong)
    with pytest.raises(SettingsError, match="s3://bucket/prefix"):
        storage_of("s3:///shop")


def test_a_pickled_storage_has_no_credentials(bucket: str) -> None:
    storage = storage_of(bucket)
    storage.put_new("a", b"1")
    assert b"secret-of-the-test" not in pickle.dumps(storage)


@pytest.mark.parametrize(("conditional", "message"), [("ignore", "created twice"), ("reject", "does not implement")])
def test_a_server_without_create_only_puts_is_refused_before_the_first_commit(
    bucket: str, quirks: Quirks, conditional: str, message: str
) -> None:
    quirks.conditional = conditional  # type: ignore[assignment]
    for _ in range(2):  # the second time too: a refusal is not forgotten
        with pytest.raises(UnreachableError, match=message):
            storage_of(f"{bucket}/shop").put_new("a", b"1")
    assert storage_of(bucket).list() == []


def test_a_place_is_probed_once_and_nothing_of_it_stays(bucket: str, quirks: Quirks) -> None:
    for key in "abc":
        assert storage_of(f"{bucket}/shop").put_new(key, b"1")
    probes = [path for method, path in quirks.requests if method == "PUT" and ".permafrost-probe" in path]
    assert len(probes) == 2
    assert storage_of(bucket).list() == ["shop/a", "shop/b", "shop/c"]


def test_a_put_that_was_done_though_its_answer_was_an_error_counts_as_ours(bucket: str, quirks: Quirks) -> None:
    storage = storage_of(bucket)
    quirks.busy_after = {("PUT", "/mine"): 1, ("PUT", "/theirs"): 1}
    assert storage.put_new("mine", b"1")
    storage.put("theirs", b"2")
    quirks.busy_before = {("PUT", "/theirs"): 1}
    assert not storage.put_new("theirs", b"1")
    assert storage.read("theirs") == b"2"


def test_throttling_is_waited_for_and_then_the_message_says_what_was_asked(bucket: str, quirks: Quirks) -> None:
    storage = storage_of(bucket)
    quirks.busy_before = {("PUT", "/a"): 2, ("GET", "/a"): 2, ("HEAD", "/a"): 2, ("DELETE", "/a"): 2}
    assert storage.put_new("a", b"12")
    assert (storage.read("a"), storage.size("a")) == (b"12", 2)
    storage.delete("a")
    assert storage.list() == []
    assert not any(quirks.busy_before.values())


def _unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _silent(listener: socket.socket) -> int:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return int(listener.getsockname()[1])


def test_what_cannot_be_reached_is_one_message(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        cases = [
            ("s3://no-such-bucket/shop", {}, "there is no such bucket"),
            (bucket, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{_unused_port()}"}, "does not answer"),
            (bucket, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{_silent(listener)}"}, "does not answer"),
        ]
        for url, variables, message in cases:
            with monkeypatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                with pytest.raises(UnreachableError, match=message) as caught:
                    storage_of(url).read("a")
                assert len(str(caught.value).splitlines()) == 1


def test_without_its_client_an_address_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'permafrost-retrieval\[objects\]'"):
        storage_of("s3://bucket/shop").list()
