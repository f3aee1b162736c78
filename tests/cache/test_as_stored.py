"""What a store's dtype cannot hold, by the numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest

from cache import RowOutcome
from cache.rows import as_stored

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("views", [(), (3,)])
def test_a_row_fails_where_rounding_turns_it_and_others_keep_their_bytes(views: tuple[int, ...]) -> None:
    scales = 10.0 ** np.arange(-12, 5)
    rows = (RNG.normal(size=(len(scales), *views, 64)) * scales.reshape(-1, *(1 for _ in views), 1)).astype(np.float32)
    rows[scales > 1e-3, ..., 8:] *= 1e-9  # most numbers of a row may vanish beside the others
    block, outcomes = as_stored(rows, np.dtype("float16"), [RowOutcome()] * len(rows), "net")
    rounded = rows.astype(np.float16).astype(np.float64)
    apart = np.linalg.norm(rounded - rows, axis=-1) / np.linalg.norm(rows.astype(np.float64), axis=-1)
    lost = apart.reshape(len(rows), -1).max(axis=1) > 0.01
    assert lost.tolist() == [scale < 5e-6 for scale in scales]
    assert [outcome.status == "failed" for outcome in outcomes] == lost.tolist()
    assert np.array_equal(block[~lost], rows[~lost].astype(np.float16))
    assert np.isnan(block[lost]).all()
    assert "too small for float16" in outcomes[0].error


def test_zeros_and_what_failed_before_stay_as_they_are() -> None:
    rows = np.array([[0.0, 0.0], [1e-9, 0.0], [1.0, 1e-9]])
    given = [RowOutcome(), RowOutcome("failed", error="no image"), RowOutcome(error="a note")]
    block, outcomes = as_stored(rows, np.dtype("float16"), given, "net")
    assert outcomes == given
    assert block[[0, 2]].tolist() == [[0, 0], [1, 0]]


def test_a_number_that_float32_cannot_hold_fails_there_too() -> None:
    rows = np.array([[1e-50, 2e-50], [1e50, 0], [1e-30, 2e-30]])
    _, outcomes = as_stored(rows, np.dtype("float32"), [RowOutcome()] * 3, "net")
    assert [outcome.error for outcome in outcomes] == [
        "net gave numbers of at most 2e-50, too small for float32: scale them, or store another dtype",
        "net gave 1e+50, past the largest float32",
        "",
    ]
