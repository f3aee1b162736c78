import pickle

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cache.digest_list import DigestIndex, Digests, as_digests, joined_digests

# Few first words, so that different digests share theirs; and none at all.
DIGESTS = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(lambda two: bytes([two[0]] * 8 + [two[1]] * 24))
LISTS = st.lists(st.one_of(DIGESTS, st.just(b"")), max_size=20)


@given(LISTS)
def test_a_list_of_digests_reads_like_the_list_it_was_made_from(listed: list[bytes]) -> None:
    digests = as_digests(listed)
    assert digests == listed
    assert listed == digests
    assert [*digests] == [digests[at] for at in range(len(digests))] == listed
    assert digests[1:-1] == listed[1:-1]
    assert digests != [*listed, b""]
    assert pickle.loads(pickle.dumps(digests[2:])) == listed[2:]


@given(LISTS)
def test_digests_go_through_an_arrow_column_and_back(listed: list[bytes]) -> None:
    column = as_digests(listed).column()
    assert column.to_pylist() == [digest or None for digest in listed]
    assert Digests.from_column(column) == listed
    assert Digests.from_column(column.slice(1)) == listed[1:]
    assert Digests.from_column(pa.chunked_array([column, column])) == listed * 2


def test_a_column_in_one_piece_is_not_copied() -> None:
    column = pa.chunked_array([as_digests([b"a" * 32, b"b" * 32]).column()])
    assert Digests.from_column(column).words.ctypes.data == column.chunk(0).buffers()[1].address


@given(LISTS)
def test_each_digest_once_is_what_a_dict_makes_of_them(listed: list[bytes]) -> None:
    assert as_digests(listed).unique() == list(dict.fromkeys(listed))
    assert as_digests(listed).readable() == [digest for digest in listed if digest]


@given(LISTS, LISTS)
def test_a_digest_is_found_at_its_first_place(listed: list[bytes], wanted: list[bytes]) -> None:
    index = DigestIndex(as_digests(listed))
    expected = [listed.index(digest) if digest and digest in listed else -1 for digest in wanted]
    assert index.find(wanted).tolist() == index.find(as_digests(wanted)).tolist() == expected


@given(st.lists(LISTS, max_size=4))
def test_lists_are_joined_in_their_order(parts: list[list[bytes]]) -> None:
    assert joined_digests([*map(as_digests, parts)]) == [digest for part in parts for digest in part]
