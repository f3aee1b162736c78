"""Miniatures of benchmarks whose ground truth says more than a label."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from tests.layouts import put, tell

UNED: dict[str, list[tuple[str, Any]]] = {
    "cars/train": [("cars/car_ims/000001.jpg", 0)],
    "cars/val": [("cars/car_ims/000002.jpg", 1)],
    "cars/test": [("cars/car_ims/000003.jpg", 2), ("cars/car_ims/000004.jpg", 2)],
    "met/train": [("met/MET/34/0.jpg", 34), ("met/MET/5/0.jpg", 5)],
    "met/val": [("met/test_met/v.jpg", 5)],
    "met/test": [("met/test_met/t.jpg", 34)],
    "met/small_index": [("met/MET/5/0.jpg", 5)],
    "met/index": [("met/MET/34/0.jpg", 34), ("met/MET/5/0.jpg", 5)],
    "gldv2/train": [("gldv2/images/train/a/a/a/aaa.jpg", 0)],
    "gldv2/val": [("gldv2/images/train/b/b/b/bbb.jpg", 1)],
    "gldv2/test": [("gldv2/images/test/c/c/c/ccc.jpg", [4, 2])],
    "gldv2/index": [("gldv2/images/index/d/d/d/ddd.jpg", 2)],
}


def sharded(name: str) -> str:
    folder, image = name.split("/")
    return f"{folder}/{image[0]}/{image[1]}/{image[2]}/{image}.jpg"


GLDV2 = [
    *("train/aaa0000000000001", "train/aaa0000000000002", "train/bbb0000000000003"),
    *("index/0120000000000001", "index/0120000000000002", "index/0120000000000003", "index/fff0000000000004"),
    *("test/abc0000000000001", "test/abc0000000000002", "test/abc0000000000003", "test/abc0000000000004"),
]


def gldv2(root: Path, place: str = "") -> Path:
    train, index, test = ([name.split("/")[1] for name in GLDV2 if name.startswith(f)] for f in ("tr", "in", "te"))
    tell(root / place / "train_clean.csv", f"landmark_id,images\n7,{train[0]} {train[1]}\n9,{train[2]}")
    landmarks = zip(index, (7, 8, 8, 5), strict=True)
    tell(root / place / "index_image_to_landmark.csv", "id,landmark_id\n" + "\n".join(f"{i},{n}" for i, n in landmarks))
    tell(
        root / place / "retrieval_solution_v2.1.csv",
        f"""id,images,Usage
        {test[0]},None,Ignored
        {test[1]},{index[0]} {index[1]} {index[2]},Private
        {test[2]},{index[3]},Public
        {test[3]},None,Ignored""",
    )
    tell(
        root / place / "recognition_solution_v2.1.csv",
        f"id,landmarks,Usage\n{test[0]},,Private\n{test[1]},8 7,Private\n{test[2]},,Public\n{test[3]},6,Public",
    )
    put(root, *map(sharded, GLDV2))
    return root


def met(root: Path, truth: str = "ground_truth", images: str = "images/") -> Path:
    exhibits: list[dict[str, object]] = [
        {"id": 34, "path": "MET/34/0.jpg"},
        {"id": 34, "path": "MET/34/1.jpg"},
        {"id": 5, "path": "MET/5/0.jpg"},
    ]
    val: list[dict[str, object]] = [
        {"path": "test_met/v.jpg", "MET_id": 5},
        {"path": "test_noart/w.jpg", "category": "dogs", "url": "x"},
    ]
    test: list[dict[str, object]] = [
        {"path": "test_met/t.jpg", "MET_id": 34, "photographer": "x"},
        {"path": "test_other/u.jpg", "category": "statues", "url": "x"},
    ]
    (root / truth).mkdir(exist_ok=True)
    for name, entries in (("MET_database", exhibits), ("valset", val), ("testset", test)):
        (root / truth / f"{name}.json").write_text(json.dumps(entries))
        put(root, *(f"{images}{entry['path']}" for entry in entries))
    return root


def uned(root: Path) -> Path:
    for name, entries in UNED.items():
        (root / "info_files" / name).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([{"path": path, "class_id": class_id} for path, class_id in entries])
        (root / f"info_files/{name}.json").write_text(text)
        put(root / "images", *(path for path, _ in entries))
    return root


def instre(root: Path, truths: list[tuple[list[int], list[float]]]) -> Path:
    names = ["INSTRE-S1/01a_canada_book/014.jpg", "INSTRE-M/01/107.jpg", "INSTRE-S2/01_house/003.jpg"]
    queries = ["INSTRE-S1/01a_canada_book/013.jpg", "INSTRE-S2/01_house/001.jpg"][: len(truths)]
    gnd = np.empty((1, len(truths)), dtype=[("ok", object), ("bbx", object)])
    for at, (positives, box) in enumerate(truths):
        gnd[0, at] = (np.array(positives, dtype=np.uint16), np.array([box]))
    cells = {"imlist": np.array([names], dtype=object), "qimlist": np.array([queries], dtype=object)}
    savemat(root / "gnd_instre.mat", cells | {"gnd": gnd})
    put(root, *names, *queries)
    return root


NAMES = ["all_souls_000001", "all_souls_000002", "ashmolean_000005", "oxford_003410", "oxford_000317"]
QUERIES = ["all_souls_000013", "ashmolean_000305"]
TRUTHS = [
    {"bbx": [136.5, 34.1, 648.5, 955.7], "easy": [0], "hard": [1, 3], "junk": [4]},
    {"bbx": [0.0, 0.0, 10.2, 20.9], "easy": [], "hard": [2, 3], "junk": []},
]
