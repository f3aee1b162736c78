"""What every storage must hold: inherit a contract and give it a fixture ``storage``.

A storage that several processes can open inherits :class:`SharedStorageContract`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import random
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier as BarrierType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.storage import Storage

_SPAWN = multiprocessing.get_context("spawn")
# The last: each implementation inherits the tests, and examples do not depend on which one runs them.
UNTIMED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
_KEYS = st.sampled_from(["a", "b", "c/a", "c/b", "c/d/a", "cc/a"])
_STEPS = st.tuples(st.sampled_from(["put", "put_new", "delete"]), _KEYS, st.binary(max_size=20))


class StorageContract:
    """The tests that an implementation of :class:`cache.storage.Storage` inherits."""

    @pytest.fixture
    def storage(self) -> Storage:
        raise NotImplementedError

    def test_a_missing_key_is_file_not_found(self, storage: Storage) -> None:
        for ask in (storage.read, storage.size, storage.map):
            with pytest.raises(FileNotFoundError):
                ask("no/such")
        storage.delete("no/such")
        assert storage.list() == storage.list("no/") == []

    @pytest.mark.parametrize("key", ["/a", "../a", "a/../b", "a//b", "a/", "./a"])
    def test_what_is_not_a_key_is_refused(self, storage: Storage, key: str) -> None:
        with pytest.raises(ValueError, match="a key is a relative path"):
            storage.put(key, b"x")

    def test_a_prefix_is_text_and_keys_come_sorted(self, storage: Storage) -> None:
        for key in ("rows/10.p", "rows/9.p", "rowsets/1", "z", "rows/sub/1"):
            storage.put(key, b"")
        assert storage.list("rows/") == ["rows/10.p", "rows/9.p", "rows/sub/1"]
        assert storage.list("row") == ["rows/10.p", "rows/9.p", "rows/sub/1", "rowsets/1"]
        assert storage.list("rows/1") == ["rows/10.p"]

    def test_put_new_keeps_what_is_there(self, storage: Storage) -> None:
        assert storage.put_new("a/b", b"first")
        assert not storage.put_new("a/b", b"second")
        assert storage.read("a/b") == b"first"
        storage.put("a/b", b"third")
        assert storage.read("a/b") == b"third"

    @settings(
        max_examples=20,
        deadline=None,
        suppress_health_check=UNTIMED,
    )
    @given(st.lists(_STEPS, max_size=8))
    def test_it_does_what_a_dictionary_does(self, storage: Storage, steps: list[tuple[str, str, bytes]]) -> None:
        for key in storage.list():
            storage.delete(key)
        model: dict[str, bytes] = {}
        for verb, key, content in steps:
            if verb == "put":
                storage.put(key, content)
                model[key] = content
            elif verb == "put_new":
                assert storage.put_new(key, content) == (key not in model)
                model.setdefault(key, content)
            else:
                storage.delete(key)
                model.pop(key, None)
            assert storage.list() == sorted(model)
            assert storage.list("c/") == sorted(name for name in model if name.startswith("c/"))
        for key, content in model.items():
            assert storage.read(key) == content
            assert storage.size(key) == len(content)
            mapped = storage.map(key)
            assert mapped is None or bytes(mapped) == content

    @settings(
        max_examples=20,
        deadline=None,
        suppress_health_check=UNTIMED,
    )
    @given(st.binary(max_size=30), st.integers(0, 40), st.none() | st.integers(0, 40))
    def test_a_range_is_a_slice(self, storage: Storage, content: bytes, start: int, stop: int | None) -> None:
        storage.put("key", content)
        assert storage.read("key", start, stop) == content[start:stop]

    def test_it_can_be_pickled(self, storage: Storage) -> None:
        storage.put("a", b"1")
        assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"

    def test_a_map_keeps_the_bytes_it_was_made_of(self, storage: Storage) -> None:
        storage.put("a", b"old")
        mapped = storage.map("a")
        storage.put("a", b"new")
        assert mapped is None or bytes(mapped) == b"old"

    def test_what_is_below_a_prefix_is_a_storage_of_its_own(self, storage: Storage) -> None:
        for key in ("a/b/c", "a/bc", "a/d"):
            storage.put(key, key.encode())
        inner = storage.below("a").below("b")
        inner.put("new", b"1")
        assert (storage.below("a").list(), inner.list()) == (["b/c", "b/new", "bc", "d"], ["c", "new"])
        assert (inner.read("c"), storage.read("a/b/new")) == (b"a/b/c", b"1")
        assert inner.address("c") == storage.address("a/b/c")
        assert storage.below("none").list() == []


class SharedStorageContract(StorageContract):
    """The tests of a storage whose bytes other processes read and write too."""

    @pytest.mark.slow
    def test_of_processes_that_race_exactly_one_wins_each_key(self, storage: Storage) -> None:
        racers, rounds = 3, 20
        barrier = _SPAWN.Barrier(racers)
        pipes = [_SPAWN.Pipe(duplex=False) for _ in range(racers)]
        processes = [
            _SPAWN.Process(target=_race, args=(storage, barrier, pipe[1], number, rounds))
            for number, pipe in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        wins = [pipe[0].recv() for pipe in pipes]
        for process in processes:
            process.join()
        for turn in range(rounds):
            (winner,) = [number for number in range(racers) if wins[number][turn]]
            assert storage.read(f"race/{turn}") == _content(winner)
        assert storage.list() == sorted(f"race/{turn}" for turn in range(rounds))

    @pytest.mark.slow
    def test_killed_in_put_leaves_the_old_bytes_or_the_new(self, storage: Storage) -> None:
        whole = {_content(number) for number in range(2)}
        storage.put("key", _content(0))
        rng = random.Random(0)
        for _ in range(3):
            receiver, sender = _SPAWN.Pipe(duplex=False)
            process = _SPAWN.Process(target=_put_for_ever, args=(storage, sender))
            process.start()
            receiver.recv()
            process.join(rng.uniform(0.0, 0.05))
            process.kill()
            process.join()
            assert storage.read("key") in whole
            assert storage.list() == ["key"]


def _content(number: int) -> bytes:
    return bytes([number]) * 300_000


def _race(storage: Storage, barrier: BarrierType, pipe: Connection, number: int, rounds: int) -> None:
    wins = []
    for turn in range(rounds):
        barrier.wait()
        wins.append(storage.put_new(f"race/{turn}", _content(number)))
        assert storage.size(f"race/{turn}") == len(_content(number))  # the loser too finds the whole bytes
    pipe.send(wins)


def _put_for_ever(storage: Storage, pipe: Connection) -> None:
    pipe.send("running")
    for number in itertools.cycle((1, 0)):
        storage.put("key", _content(number))
