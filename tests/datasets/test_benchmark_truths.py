"""Benchmarks whose ground truth says more than a label, or that merge several."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import read_plain_pickle
from stages.records import Records
from tests.benchmark_truths import GLDV2, NAMES, QUERIES, TRUTHS, UNED, gldv2, instre, met, sharded, uned
from tests.layouts import parts, put, read, rows, tell


def column(records: Records, name: str) -> dict[str, object]:
    """What an attribute that is a JSON list says, for each record that has it."""
    values = zip(records.keys, records.attribute(name), strict=True)
    return {key: json.loads(value) for key, value in values if value is not None}


@pytest.mark.parametrize("place", ["", "metadata"])
def test_gldv2_keeps_both_solutions_beside_one_label(tmp_path: Path, place: str) -> None:
    records = read("gldv2", gldv2(tmp_path, place))
    assert records.keys == GLDV2
    assert [uri.removeprefix(f"{tmp_path}/") for uri in records.uris] == [sharded(name) for name in GLDV2]
    assert sharded(GLDV2[0]) == "train/a/a/a/aaa0000000000001.jpg"
    # The query of two landmarks is labelled with the one that two of its three images show.
    assert records.labels == ["7", "7", "9", "7", "8", "8", "5", None, "8", "5", None]
    assert parts(records) == {"train": GLDV2[:3], "query": GLDV2[8:10], "gallery": GLDV2[3:7]}
    assert [records.splits[at] for at in (7, 10)] == ["query_distractor"] * 2
    assert column(records, "relevant") == {GLDV2[7]: [], GLDV2[8]: GLDV2[3:6], GLDV2[9]: GLDV2[6:7], GLDV2[10]: []}
    assert column(records, "landmarks") == {GLDV2[7]: [], GLDV2[8]: ["8", "7"], GLDV2[9]: [], GLDV2[10]: ["6"]}
    assert records.attribute("usage") == [None] * 7 + ["Ignored", "Private", "Public", "Ignored"]
    assert records.counts()["distractors"] == 1  # of landmark 7 there is no query


def test_gldv2_without_its_train_folder_can_be_scored(tmp_path: Path) -> None:
    (gldv2(tmp_path) / "train").rename(tmp_path.parent / f"{tmp_path.name}-train")
    assert parts(read("gldv2", tmp_path)) == {"query": GLDV2[8:10], "gallery": GLDV2[3:7]}


def test_gldv2_names_the_table_that_is_missing_or_wrong(tmp_path: Path) -> None:
    (gldv2(tmp_path) / "train_clean.csv").unlink()
    with pytest.raises(RecordsError, match=r"has no train_clean\.csv and no metadata/train_clean\.csv.*Common Visual"):
        read("gldv2", tmp_path)
    gldv2(tmp_path)
    tell(tmp_path / "retrieval_solution_v2.1.csv", "id,images,Usage\nab,None,Ignored")
    with pytest.raises(RecordsError, match=r"an id must be that of an image, .*, got 'ab'"):
        read("gldv2", tmp_path)


@pytest.mark.parametrize(("truth", "images"), [("ground_truth", "images/"), (".", "")])
def test_met_searches_the_exhibits_that_it_trains_on_and_sets_other_queries_apart(
    tmp_path: Path, truth: str, images: str
) -> None:
    records = read("met", met(tmp_path, truth, images))
    assert rows(records, tmp_path) == [
        ("MET/34/0.jpg", "34", "exhibit", f"{images}MET/34/0.jpg"),
        ("MET/34/1.jpg", "34", "exhibit", f"{images}MET/34/1.jpg"),
        ("MET/5/0.jpg", "5", "exhibit", f"{images}MET/5/0.jpg"),
        ("test_met/v.jpg", "5", "validation_query", f"{images}test_met/v.jpg"),
        ("test_noart/w.jpg", None, "validation_query_distractor", f"{images}test_noart/w.jpg"),
        ("test_met/t.jpg", "34", "query", f"{images}test_met/t.jpg"),
        ("test_other/u.jpg", None, "query_distractor", f"{images}test_other/u.jpg"),
    ]
    exhibits = records.keys[:3]
    assert parts(records) == {
        "train": exhibits,
        "validation_query": ["test_met/v.jpg"],
        "validation_gallery": exhibits,
        "query": ["test_met/t.jpg"],
        "gallery": exhibits,
    }
    assert records.attribute("origin") == [None, None, None, "test_met", "test_noart", "test_met", "test_other"]


def test_met_names_an_entry_that_is_not_as_it_should_be(tmp_path: Path) -> None:
    (met(tmp_path) / "ground_truth/MET_database.json").write_text('[{"path": "MET/1/0.jpg"}]')
    with pytest.raises(RecordsError, match=r"MET_database\.json, entry 1: expected an object with id, path, got"):
        read("met", tmp_path)
    (tmp_path / "ground_truth/MET_database.json").write_text("{}")
    with pytest.raises(RecordsError, match="must be a list of objects, got dict"):
        read("met", tmp_path)


def test_uned_merges_its_domains_and_each_image_has_all_the_roles_it_is_listed_for(tmp_path: Path) -> None:
    records = read("uned", uned(tmp_path))
    assert len(records) == 4 + 4 + 4  # Met's index is its training set
    assert parts(records) == {
        "train": ["cars/car_ims/000001.jpg", "met/MET/34/0.jpg", "met/MET/5/0.jpg", UNED["gldv2/train"][0][0]],
        "validation_query": ["cars/car_ims/000002.jpg", "met/test_met/v.jpg", UNED["gldv2/val"][0][0]],
        "validation_gallery": ["cars/car_ims/000002.jpg", "met/MET/5/0.jpg", UNED["gldv2/val"][0][0]],
        "query": [
            *("cars/car_ims/000003.jpg", "cars/car_ims/000004.jpg"),
            *("met/test_met/t.jpg", UNED["gldv2/test"][0][0]),
        ],
        "gallery": [
            *("cars/car_ims/000003.jpg", "cars/car_ims/000004.jpg"),
            *("met/MET/34/0.jpg", "met/MET/5/0.jpg", UNED["gldv2/index"][0][0]),
        ],
    }
    by_key = {key: (label, split, uri) for key, label, split, uri in rows(records, tmp_path)}
    assert by_key["met/MET/5/0.jpg"] == ("5", "train+validation_gallery+gallery", "images/met/MET/5/0.jpg")
    assert by_key["met/MET/34/0.jpg"][1] == "train+gallery"
    assert by_key["cars/car_ims/000003.jpg"][1] == "query+gallery"
    assert sorted(set(map(str, records.domains))) == ["cars", "gldv2", "met"]
    assert column(records, "landmarks") == {UNED["gldv2/test"][0][0]: ["4", "2"]}
    assert by_key[UNED["gldv2/test"][0][0]][0] == "4"


def test_uned_names_a_missing_list_a_missing_domain_and_a_contradiction(tmp_path: Path) -> None:
    (uned(tmp_path) / "images/cars").rename(tmp_path / "cars")
    with pytest.raises(RecordsError, match=r"has no images/cars/\. .*UnED"):
        read("uned", tmp_path)
    (tmp_path / "cars").rename(tmp_path / "images/cars")
    (tmp_path / "info_files/met/index.json").write_text('[{"path": "met/MET/5/0.jpg", "class_id": 6}]')
    with pytest.raises(RecordsError, match=r"met/MET/5/0\.jpg is of \['6'\], and of \['5'\] before"):
        read("uned", tmp_path)
    (tmp_path / "info_files/met/index.json").unlink()
    with pytest.raises(RecordsError, match=r"has no info_files/met/index\.json"):
        read("uned", tmp_path)


def test_uned_finds_file_names_that_an_unpacker_escaped(tmp_path: Path) -> None:
    listed = ["rp2k/all/train/中a/0.jpg", "rp2k/all/test/é/1.jpg", "rp2k/all/test/国/2.jpg"]
    for at, split in enumerate(("train", "val", "test")):
        (tmp_path / "info_files/rp2k").mkdir(parents=True, exist_ok=True)
        text = json.dumps([{"path": listed[at], "class_id": at}])
        (tmp_path / f"info_files/rp2k/{split}.json").write_text(text)
    put(tmp_path / "images", "rp2k/all/train/#U4e2da/0.jpg", "rp2k/all/test/#U00e9/1.jpg", listed[2])
    records = read("uned", tmp_path)
    assert records.keys == listed
    assert [uri.removeprefix(f"{tmp_path}/images/rp2k/all/") for uri in records.uris] == [
        *("train/#U4e2da/0.jpg", "test/#U00e9/1.jpg", "test/国/2.jpg")
    ]


def test_instre_queries_are_boxes_with_their_positives_by_key(tmp_path: Path) -> None:
    root = instre(tmp_path, [([1, 2], [10, 20, 110, 220]), ([3], [0.4, 1.6, 30, 40])])
    records = read("instre", root, missing_images="record")
    assert rows(records, tmp_path) == [
        *(
            (key, key.rpartition("/")[0], "gallery", key)
            for key in ("INSTRE-S1/01a_canada_book/014.jpg", "INSTRE-M/01/107.jpg", "INSTRE-S2/01_house/003.jpg")
        ),
        (
            *("INSTRE-S1/01a_canada_book/013.jpg", "INSTRE-S1/01a_canada_book", "query"),
            "box:10,20,110,220:INSTRE-S1/01a_canada_book/013.jpg",
        ),
        (
            *("INSTRE-S2/01_house/001.jpg", "INSTRE-S2/01_house", "query"),
            "box:0,2,30,40:INSTRE-S2/01_house/001.jpg",
        ),
    ]
    assert parts(records) == {"query": records.keys[3:], "gallery": records.keys[:3]}
    assert column(records, "relevant") == {records.keys[3]: records.keys[:2], records.keys[4]: [records.keys[2]]}


def test_instre_counts_its_positives_from_one(tmp_path: Path) -> None:
    for place in (0, 4):
        with pytest.raises(RecordsError, match=r"01a_canada_book/013\.jpg is no box and places in 1 to 3"):
            read("instre", instre(tmp_path, [([place], [1, 2, 3, 4])]), missing_images="record")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["roxford5k", "rparis6k"])
@pytest.mark.parametrize("arrays", [False, True])
def test_revisited_truths_are_kept_by_key_and_labels_outline_them(
    tmp_path: Path, kind: str, arrays: bool, protocol: int
) -> None:
    truths = [{name: np.array(value) if arrays else value for name, value in truth.items()} for truth in TRUTHS]
    held = {"imlist": NAMES, "qimlist": QUERIES, "gnd": truths}
    (tmp_path / f"gnd_{kind}.pkl").write_bytes(pickle.dumps(held, protocol))
    put(tmp_path, *(f"jpg/{name}.jpg" for name in (*NAMES, *QUERIES)))
    records = read(kind, tmp_path, missing_images="record")
    assert rows(records, tmp_path) == [
        # Python rounds a half to the even number, and so does Pillow's crop, which the protocol was made with.
        (QUERIES[0], "all_souls", "query", f"box:136,34,648,956:jpg/{QUERIES[0]}.jpg"),
        (QUERIES[1], "ashmolean", "query", f"box:0,0,10,21:jpg/{QUERIES[1]}.jpg"),
        (NAMES[0], "all_souls", "gallery", f"jpg/{NAMES[0]}.jpg"),
        (NAMES[1], "all_souls", "gallery", f"jpg/{NAMES[1]}.jpg"),
        (NAMES[2], "ashmolean", "gallery", f"jpg/{NAMES[2]}.jpg"),
        (NAMES[3], None, "gallery", f"jpg/{NAMES[3]}.jpg"),  # of two landmarks
        (NAMES[4], None, "gallery", f"jpg/{NAMES[4]}.jpg"),  # junk of one, relevant to none
    ]
    assert column(records, "easy") == {QUERIES[0]: [NAMES[0]], QUERIES[1]: []}
    assert column(records, "hard") == {QUERIES[0]: [NAMES[1], NAMES[3]], QUERIES[1]: [NAMES[2], NAMES[3]]}
    assert column(records, "junk") == {QUERIES[0]: [NAMES[4]], QUERIES[1]: []}
    assert parts(records) == {"query": QUERIES, "gallery": NAMES}


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([], "must hold a dict with imlist, qimlist and gnd"),
        ({"imlist": NAMES, "qimlist": QUERIES, "gnd": TRUTHS[:1]}, "qimlist has 2 queries and gnd 1"),
        ({"imlist": NAMES, "qimlist": QUERIES, "gnd": [{"bbx": []}] * 2}, "entry 1: expected an object with bbx, easy"),
        (
            {"imlist": NAMES[:3], "qimlist": QUERIES, "gnd": TRUTHS},
            r"hard of all_souls_000013 must be places in imlist",
        ),
        ({"imlist": NAMES, "qimlist": QUERIES, "gnd": [{**TRUTHS[0], "bbx": [1]}] * 2}, r"bbx of .* got \[1\]"),
    ],
)
def test_a_revisited_truth_that_does_not_fit_is_named(tmp_path: Path, held: object, message: str) -> None:
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(held))
    put(tmp_path, *(f"jpg/{name}.jpg" for name in (*NAMES, *QUERIES)))
    with pytest.raises(RecordsError, match=message):
        read("roxford5k", tmp_path)


class Malicious:
    """Pickled, it is a call of what it was made with."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_a_program_is_refused_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    touched = tmp_path / "touched"
    for call in ((Path.touch, touched), (exec, f"open({str(touched)!r}, 'w')"), (eval, "1"), (getattr, "", "join")):
        (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({"imlist": [Malicious(*call)]}, protocol))
        with pytest.raises(RecordsError, match=r"it names \w+\.[\w.]+, and only numbers, text, containers and numpy"):
            read_plain_pickle(tmp_path / "gnd_roxford5k.pkl")
    assert not touched.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_reads_as_it_was_written(tmp_path: Path, protocol: int) -> None:
    held = {"a": [1, 2.5, "é", b"\xff", None, True], "b": (np.arange(6).reshape(2, 3), np.float64(0.1)), "c": {1, 2}}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(held, protocol))
    content = read_plain_pickle(tmp_path / "p.pkl")
    assert content["a"] == held["a"]
    assert content["c"] == held["c"]
    np.testing.assert_array_equal(content["b"][0], [[0, 1, 2], [3, 4, 5]])
    assert content["b"][1] == 0.1


def test_a_pickle_of_python_2_reads_with_its_texts_and_arrays(tmp_path: Path) -> None:
    # What Python 2 wrote for {'imlist': ['a'], 'junk': array([1, 2])}: byte strings, and numpy under its older name.
    (tmp_path / "p.pkl").write_bytes(
        b"\x80\x02}q\x00(U\x06imlistq\x01]q\x02U\x01aq\x03aU\x04junkq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
        b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02\x85cnumpy\ndtype\nq\x08U\x02i4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x01\x00\x00\x00\x02\x00\x00\x00tbu."
    )
    content = read_plain_pickle(tmp_path / "p.pkl")
    assert content["imlist"] == ["a"]
    assert content["junk"].tolist() == [1, 2]


def test_a_damaged_pickle_says_so(tmp_path: Path) -> None:
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(NAMES)[:-5])
    with pytest.raises(RecordsError, match=r"p\.pkl cannot be read as a pickle of plain data"):
        read_plain_pickle(tmp_path / "p.pkl")
