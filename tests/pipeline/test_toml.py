from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run_files import write_toml

plain = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text())
values = st.recursive(
    plain,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_what_is_written_reads_back_as_it_was(table: dict[str, Any]) -> None:
    assert tomllib.loads(write_toml(table)) == table


def test_a_run_file_looks_like_one() -> None:
    table = {
        "name": "x",
        "none": None,
        "heads": [{"name": "a", "loss": {"kind": "arcface"}, "sizes": [1, 2]}],
        "n": 1.5,
    }
    assert write_toml(table) == (
        'name = "x"\nn = 1.5\n\n[[heads]]\nname = "a"\nsizes = [1, 2]\n\n[heads.loss]\nkind = "arcface"\n'
    )


def test_what_toml_has_no_word_for_is_refused() -> None:
    with pytest.raises(TypeError, match="TOML holds"):
        write_toml({"a": {1, 2}})
