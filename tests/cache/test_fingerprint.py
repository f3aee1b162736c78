import hashlib
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import digest_bytes, digest_file, fingerprint
from cache.fingerprint import JSON, canonical_json

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_the_fingerprint_is_the_sha256_of_one_spelling() -> None:
    spelled = '{"a":[1,0.5,null],"b":"\\u00e9"}'
    assert fingerprint({"b": "é", "a": [1, 0.5, None]}) == hashlib.sha256(spelled.encode()).hexdigest()


@given(st.dictionaries(st.text(), plain, min_size=1))
def test_the_order_of_keys_does_not_change_a_fingerprint(value: dict[str, JSON]) -> None:
    assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [1, -math.inf]}])
def test_what_is_not_finite_has_no_fingerprint(value: JSON) -> None:
    with pytest.raises(ValueError, match="finite"):
        canonical_json(value)


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": Path("x")}, b"x"])
def test_what_json_would_change_on_the_way_has_no_fingerprint(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)  # type: ignore[arg-type]


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert digest_file(tmp_path / "file") == digest_bytes(content) == hashlib.sha256(content).digest()
