from cache import Identity, Provenance


def test_differences_name_each_dotted_key_with_both_values() -> None:
    stored = Identity({"preprocess": {"size": 224, "mean": [0.5]}, "weights": "ab", "old": 1})
    wanted = Identity({"preprocess": {"size": 384, "mean": [0.5]}, "weights": "ab", "new": {}})
    assert stored.differences(wanted) == [
        "new: stored (absent), wanted {}",
        "old: stored 1, wanted (absent)",
        "preprocess.size: stored 224, wanted 384",
    ]
    assert stored.differences(stored) == []


def test_an_identity_survives_its_file() -> None:
    identity = Identity({"a": {"b": [1, 2.5, None, True, "é"]}})
    again = Identity.from_json(identity.to_json())
    assert again == identity
    assert again.fingerprint == identity.fingerprint
    assert identity.short == identity.fingerprint[:8]


def test_provenance_lists_what_is_installed_and_no_time() -> None:
    provenance = Provenance.here("cpu", ["numpy", "no-such-distribution"])
    assert set(provenance.versions) == {"numpy", "python"}
    assert provenance.to_json() == Provenance.here("cpu", ["numpy"]).to_json()
