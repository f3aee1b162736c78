from collections import Counter

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from stages.records import Records

ROLES = {
    "train": ("train",),
    "validation_query": (),
    "validation_gallery": (),
    "query": ("query", "both"),
    "gallery": ("both", "gallery"),
}
ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b", "c"]),
        st.sampled_from([None, "art", "photo"]),
        st.sampled_from(["train", "query", "gallery", "both", "none", None]),
        st.sampled_from([None, b"1" * 32, b"2" * 32, b"3" * 32]),
    ),
    max_size=12,
)


def _records(rows: list[tuple[str | None, str | None, str | None, bytes | None]]) -> Records:
    label, domain, split, digest = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Records(
        pa.table(
            {
                "key": pa.array([str(row) for row in range(len(rows))], pa.string()),
                "label": pa.array(label, pa.string()),
                "domain": pa.array(domain, pa.string()),
                "split": pa.array(split, pa.string()),
                "digest": pa.array(digest, pa.binary(32)),
            }
        ),
        ROLES,
    )


@given(ROWS)
def test_counts_are_what_counting_by_hand_gives(
    rows: list[tuple[str | None, str | None, str | None, bytes | None]],
) -> None:
    named = [None if label is None else (domain, label) for label, domain, _, _ in rows]
    of_role = {role: [n for n, row in enumerate(rows) if row[2] in values] for role, values in ROLES.items()}
    searched = Counter(named[n] for n in of_role["gallery"])
    searching = {named[n] for n in of_role["query"]}
    sizes = Counter(name for name in named if name is not None)
    digests = [row[3] for row in rows if row[3]]
    trained = {rows[n][3] for n in of_role["train"]}
    to_find = [searched[named[n]] - (n in of_role["gallery"]) for n in of_role["query"]]
    assert _records(rows).counts() == {
        "records": len(rows),
        "classes": len(sizes),
        **{role: len(places) for role, places in of_role.items()},
        "classes of one image": [*sizes.values()].count(1),
        "distractors": sum(named[n] is None or named[n] not in searching for n in of_role["gallery"]),
        "queries with nothing in the gallery": to_find.count(0),
        "records of no role": sum(row[2] in (None, "none") for row in rows),
        "byte-identical copies": len(digests) - len(set(digests)),
        "queries whose bytes are trained on": sum(
            rows[n][3] is not None and rows[n][3] in trained for n in of_role["query"]
        ),
        "unreadable": len(rows) - len(digests),
    }


@given(ROWS)
def test_distinct_classes_are_those_of_the_records(
    rows: list[tuple[str | None, str | None, str | None, bytes | None]],
) -> None:
    records = _records(rows)
    assert len(records.distinct_classes()) == len(set(records.classes))
    assert {label for label, _ in records.distinct_classes()} == set(records.labels)
