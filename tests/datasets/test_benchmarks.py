"""Benchmarks whose ground truth is a label: each is read from a miniature of the layout it is distributed in."""

import json
import re
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from scipy.io import savemat

from cache import parse_source
from cache.errors import ConfigError, RecordsError
from pipeline.config import parse_config
from stages.datasets import DatasetConfig
from stages.datasets.benchmarks.benchmark import BenchmarkConfig
from stages.records import read_records
from tests.layouts import parts, put, read, rows, tell

KINDS = get_args(get_args(DatasetConfig)[0])
BENCHMARKS = sorted(
    kind for config in KINDS if issubclass(config, BenchmarkConfig) for kind in get_args(get_type_hints(config)["kind"])
)
RUN = 'artifacts = "a"\n[dataset]\nkind = "sop"\npath = "x"\n[[backbones]]\nkind = "pca"\n'


def sop(root: Path) -> Path:
    tell(
        root / "Ebay_train.txt",
        """image_id class_id super_class_id path
        1 1 1 bicycle_final/111085122871_0.JPG
        2 1 1 bicycle_final/111085122871_1.JPG""",
    )
    tell(
        root / "Ebay_test.txt",
        """image_id class_id super_class_id path
        59552 11319 2 cabinet_final/110715681235_0.JPG
        59553 11319 2 cabinet_final/110715681235_1.JPG
        59554 11320 2 cabinet_final/110805681235_0.JPG""",
    )
    put(root, *(f"bicycle_final/111085122871_{n}.JPG" for n in range(2)))
    put(root, *(f"cabinet_final/{n}.JPG" for n in ("110715681235_0", "110715681235_1", "110805681235_0")))
    return root


def test_sop_trains_on_one_list_and_tests_the_other_by_leave_one_out(tmp_path: Path) -> None:
    records = read("sop", sop(tmp_path))
    tested = [f"cabinet_final/{n}.JPG" for n in ("110715681235_0", "110715681235_1", "110805681235_0")]
    assert parts(records) == {
        "train": ["bicycle_final/111085122871_0.JPG", "bicycle_final/111085122871_1.JPG"],
        "query": tested,
        "gallery": tested,
    }
    assert records.labels == ["1", "1", "11319", "11319", "11320"]
    assert records.attribute("super_class") == ["bicycle"] * 2 + ["cabinet"] * 3
    assert [Path(uri).relative_to(tmp_path).as_posix() for uri in records.uris] == records.keys
    assert records.counts()["queries with nothing in the gallery"] == 1


def test_the_run_file_overrides_the_roles_of_a_benchmark(tmp_path: Path) -> None:
    records = read("sop", sop(tmp_path), query="train", gallery=("train", "test"))
    assert {role: len(keys) for role, keys in parts(records).items()} == {"query": 2, "gallery": 5}


def test_class_disjoint_drops_the_splits_of_a_benchmark(tmp_path: Path) -> None:
    records = read("sop", sop(tmp_path), split="class-disjoint", test_share=1.0, validation_share=0.0)
    assert sorted(map(str, records.splits)) == ["distractor", "gallery", "gallery", "query", "query"]


def test_a_run_file_needs_only_the_kind_and_the_path(tmp_path: Path) -> None:
    sop(tmp_path / "sop")
    config = parse_config(
        f'artifacts = "a"\n[dataset]\nkind = "sop"\npath = "{tmp_path}/sop"\n[[backbones]]\nkind = "pca"\n'
        '[[heads]]\nname = "small"\ndim = 8\nloss = { kind = "arcface" }\n'
    )
    assert len(read_records(config.dataset).split("train")) == 2


def test_a_kind_that_there_is_not_is_answered_with_those_there_are() -> None:
    assert len(BENCHMARKS) == 15
    with pytest.raises(ConfigError, match=r"dataset: kind must be one of .*'sop'.*, got 'sopp'"):
        parse_config(RUN.replace('"sop"', '"sopp"'))


@pytest.mark.parametrize("kind", BENCHMARKS)
def test_a_benchmark_that_is_not_there_says_what_was_looked_for_and_who_distributes_it(
    tmp_path: Path, kind: str
) -> None:
    with pytest.raises(RecordsError, match=rf"has no \S+.*kind = '{kind}' reads the files of .+ of .+; path names"):
        read(kind, tmp_path)
    with pytest.raises(RecordsError, match=rf"nowhere does not exist, .*kind = '{kind}' reads"):
        read(kind, tmp_path / "nowhere")


def test_a_missing_list_or_image_folder_is_named(tmp_path: Path) -> None:
    root = sop(tmp_path)
    (root / "cabinet_final").rename(root / "elsewhere")
    with pytest.raises(
        RecordsError, match=rf"{re.escape(str(root))} has no cabinet_final/\. .*Stanford Online Products"
    ):
        read("sop", root)
    (root / "Ebay_test.txt").unlink()
    with pytest.raises(RecordsError, match=r"has no Ebay_test\.txt\. .*Stanford"):
        read("sop", root)


def test_a_line_of_too_few_words_is_named(tmp_path: Path) -> None:
    tell(sop(tmp_path) / "Ebay_test.txt", "image_id class_id super_class_id path\n59552 11319 2")
    with pytest.raises(RecordsError, match=r"Ebay_test\.txt, line 2: expected 4 words, got '59552 11319 2'"):
        read("sop", tmp_path)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_line_ends_with_a_line_feed_and_a_word_with_a_space_alone(tmp_path: Path, ends: str) -> None:
    names = [
        f"bicycle_final/{number}a{between}b.JPG" for number, between in enumerate("\u2028\u2029\x85\xa0\x0b\x1c\r ")
    ]
    names += ["bicycle_final/end\u2028"]
    (sop(tmp_path) / "Ebay_train.txt").write_text(
        "header" + ends + "".join(f"{number} \t 7 1 {name} {ends}" for number, name in enumerate(names)), newline=""
    )
    put(tmp_path, *names)
    assert parts(read("sop", tmp_path))["train"] == names


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('label = "x"', r"dataset\.label: unknown key for kind = 'sop'; other kinds take it"),
        ('split = "part"', r"dataset\.split: must be 'class-disjoint', got 'part'"),
        (
            "crop = true",
            r"dataset\.crop: unknown key for kind = 'sop'; other kinds take it \(.*cub200.*\), so leave it out",
        ),
        ("atributes = []", r"dataset\.atributes: unknown key for kind = 'sop'; did you mean attributes\?"),
    ],
)
def test_a_key_that_a_kind_does_not_take_is_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(RUN.replace('path = "x"', f'path = "x"\n{line}'))


def test_an_attribute_that_a_benchmark_has_not_is_refused(tmp_path: Path) -> None:
    assert len(read("sop", sop(tmp_path), attributes=("super_class",))) == 5
    with pytest.raises(RecordsError, match="'sop' has no attribute 'colour'; it has super_class"):
        read("sop", tmp_path, attributes=("colour",))


@pytest.mark.parametrize(("listed", "images"), [("Eval", "Img/"), (".", "")])
def test_inshop_has_queries_and_a_gallery_of_items_that_it_does_not_train_on(
    tmp_path: Path, listed: str, images: str
) -> None:
    names = [
        "img/WOMEN/Dresses/id_00000002/02_1_front.jpg",
        "img/MEN/Denim/id_00000080/01_1_front.jpg",
        "img/MEN/Denim/id_00000080/01_2_side.jpg",
    ]
    tell(
        tmp_path / listed / "list_eval_partition.txt",
        f"""3
        image_name item_id evaluation_status
        {names[0]}      id_00000002 train
        {names[1]}  id_00000080 query
        {names[2]}  id_00000080 gallery""",
    )
    put(tmp_path, *(f"{images}{name}" for name in names))
    records = read("inshop", tmp_path)
    assert rows(records, tmp_path) == [
        (names[0], "id_00000002", "train", f"{images}{names[0]}"),
        (names[1], "id_00000080", "query", f"{images}{names[1]}"),
        (names[2], "id_00000080", "gallery", f"{images}{names[2]}"),
    ]
    assert parts(records) == {"train": names[:1], "query": names[1:2], "gallery": names[2:]}
    assert records.attribute("gender") == ["WOMEN", "MEN", "MEN"]
    assert records.attribute("category") == ["Dresses", "Denim", "Denim"]


def test_inshop_refuses_a_part_it_does_not_know(tmp_path: Path) -> None:
    tell(tmp_path / "list_eval_partition.txt", "1\nimage_name item_id evaluation_status\nimg/a.jpg id_1 val")
    put(tmp_path, "img/a.jpg")
    with pytest.raises(RecordsError, match=r"img/a\.jpg is in 'val'; expected train, query or gallery"):
        read("inshop", tmp_path)


def cub200(root: Path) -> Path:
    tell(root / "classes.txt", "1 001.Black_footed_Albatross\n100 100.Brown_Pelican\n101 101.White_Pelican")
    tell(
        root / "images.txt", "1 001.Black_footed_Albatross/a.jpg\n2 100.Brown_Pelican/b.jpg\n3 101.White_Pelican/c.jpg"
    )
    tell(root / "image_class_labels.txt", "1 1\n2 100\n3 101")
    tell(root / "bounding_boxes.txt", "1 60.0 27.0 325.0 304.0\n2 0.0 1.5 2.0 3.0\n3 10.0 20.0 30.0 40.0")
    put(root / "images", "001.Black_footed_Albatross/a.jpg", "100.Brown_Pelican/b.jpg", "101.White_Pelican/c.jpg")
    return root


def test_cub_trains_on_the_first_hundred_classes(tmp_path: Path) -> None:
    records = read("cub200", cub200(tmp_path))
    birds = ["001.Black_footed_Albatross", "100.Brown_Pelican", "101.White_Pelican"]
    keys = [f"{bird}/{letter}.jpg" for bird, letter in zip(birds, "abc", strict=True)]
    splits = ["train", "train", "test"]
    assert rows(records, tmp_path) == [
        (key, bird, split, f"images/{key}") for key, bird, split in zip(keys, birds, splits, strict=True)
    ]
    assert parts(records) == {"train": keys[:2], "query": keys[2:], "gallery": keys[2:]}


def test_cub_is_cut_to_its_boxes_on_request(tmp_path: Path) -> None:
    records = read("cub200", cub200(tmp_path), crop=True, missing_images="record")
    sources = [parse_source(uri) for uri in records.uris]
    assert [source.box for source in sources] == [(60, 27, 385, 331), (0, 2, 2, 4), (10, 20, 40, 60)]
    assert sources[0].path == str(tmp_path / "images/001.Black_footed_Albatross/a.jpg")
    (tmp_path / "bounding_boxes.txt").write_text("1 60.0 27.0 325.0 wide\n")
    with pytest.raises(RecordsError, match=r"bounding_boxes\.txt, image 1: expected a number, got 'wide'"):
        read("cub200", tmp_path, crop=True)
    (tmp_path / "bounding_boxes.txt").write_text("2 60.0 27.0 325.0 304.0\n")
    with pytest.raises(RecordsError, match=r"image 1 has no box"):
        read("cub200", tmp_path, crop=True)


def test_cub_refuses_an_image_of_no_class(tmp_path: Path) -> None:
    (cub200(tmp_path) / "image_class_labels.txt").write_text("1 1\n2 100\n")
    with pytest.raises(RecordsError, match="image 3 has no class"):
        read("cub200", tmp_path)


MODELS = np.array([f"Model {number} 2012" for number in range(1, 197)], dtype=object)


def annotations(image: str, listed: list[tuple[str, int]], **more: int) -> np.ndarray:
    names = [image, "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", *more]
    structs = np.empty((1, len(listed)), dtype=[(name, object) for name in names])
    for at, (name, number) in enumerate(listed):
        structs[0, at] = (name, 30, 52, 246, 147, number, *more.values())
    return structs


def test_cars_trains_on_the_first_98_models_whichever_half_they_were_in(tmp_path: Path) -> None:
    names = [f"car_ims/00000{n}.jpg" for n in (1, 2, 3)]
    listed = annotations("relative_im_path", list(zip(names, (1, 98, 99), strict=True)), test=1)
    savemat(tmp_path / "cars_annos.mat", {"annotations": listed, "class_names": MODELS})
    put(tmp_path, *names)
    records = read("cars196", tmp_path)
    assert rows(records, tmp_path) == [
        (names[0], "001 Model 1 2012", "train", names[0]),
        (names[1], "098 Model 98 2012", "train", names[1]),
        (names[2], "099 Model 99 2012", "test", names[2]),
    ]
    assert parts(records) == {"train": names[:2], "query": names[2:], "gallery": names[2:]}
    cropped = read("cars196", tmp_path, crop=True, missing_images="record")
    # Columns 30 to 246 counted from 1, both in the box, are 217 columns, the first of which is the 29th from 0.
    assert cropped.uris == [f"box:29,51,246,147:{tmp_path}/{name}" for name in names]


@pytest.mark.parametrize(("kit", "deeper"), [("devkit/", ""), ("", "cars_test/")])
def test_cars_of_the_devkit_are_the_two_halves_together(tmp_path: Path, kit: str, deeper: str) -> None:
    (tmp_path / "devkit").mkdir()
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": MODELS})
    savemat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": annotations("fname", [("00001.jpg", 196)])})
    savemat(
        tmp_path / f"{kit}cars_test_annos_withlabels.mat",
        {"annotations": annotations("fname", [("00001.jpg", 98), ("00002.jpg", 196)])},
    )
    put(tmp_path, "cars_train/00001.jpg", f"cars_test/{deeper}00001.jpg", f"cars_test/{deeper}00002.jpg")
    assert rows(read("cars196", tmp_path), tmp_path) == [
        ("cars_train/00001.jpg", "196 Model 196 2012", "test", "cars_train/00001.jpg"),
        ("cars_test/00001.jpg", "098 Model 98 2012", "train", f"cars_test/{deeper}00001.jpg"),
        ("cars_test/00002.jpg", "196 Model 196 2012", "test", f"cars_test/{deeper}00002.jpg"),
    ]


def test_cars_annotations_that_do_not_fit_are_named(tmp_path: Path) -> None:
    put(tmp_path, "car_ims/000001.jpg")
    path = tmp_path / "cars_annos.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file, but cut off")
    with pytest.raises(RecordsError, match=r"cars_annos\.mat cannot be read as a MATLAB file"):
        read("cars196", tmp_path)
    savemat(path, {"annotations": annotations("fname", [("000001.jpg", 1)]), "class_names": MODELS})
    with pytest.raises(RecordsError, match="no field 'relative_im_path'; they have fname, bbox_x1"):
        read("cars196", tmp_path)
    savemat(path, {"class_names": MODELS})
    with pytest.raises(RecordsError, match="no variable 'annotations'"):
        read("cars196", tmp_path)
    listed = annotations("relative_im_path", [("car_ims/000001.jpg", 197)])
    savemat(path, {"annotations": listed, "class_names": MODELS})
    with pytest.raises(RecordsError, match="of class 197, and there are 196 class names"):
        read("cars196", tmp_path)


def test_products10k_searches_for_test_images_among_those_of_training(tmp_path: Path) -> None:
    tell(tmp_path / "train.csv", "name,class,group\n1.jpg,0,7\n2.jpg,0,7\n3.jpg,1,9")
    tell(tmp_path / "test_kaggletest.csv", "name,class,Usage\n1.jpg,1,Public")
    put(tmp_path, "train/1.jpg", "train/2.jpg", "train/3.jpg", "test/1.jpg")
    records = read("products10k", tmp_path)
    trained = ["train/1.jpg", "train/2.jpg", "train/3.jpg"]
    assert parts(records) == {"train": trained, "query": ["test/1.jpg"], "gallery": trained}
    assert rows(records, tmp_path)[-1] == ("test/1.jpg", "1", "test", "test/1.jpg")
    assert records.attribute("group") == ["7", "7", "9", "9"]
    tell(tmp_path / "test_kaggletest.csv", "name\n1.jpg")
    with pytest.raises(RecordsError, match=r"test_kaggletest\.csv has no column 'class'. It has: name"):
        read("products10k", tmp_path)


@pytest.mark.parametrize("top", ["all/", ""])
def test_rp2k_is_a_folder_a_product(tmp_path: Path, top: str) -> None:
    put(
        tmp_path,
        "artifacts/sheet.jpg",
        *(f"{top}{name}" for name in ("train/加多宝/0.jpg", "test/加多宝/1.jpg", "test/加多宝/2.jpg")),
    )
    records = read("rp2k", tmp_path)
    assert rows(records, tmp_path) == [
        ("train/加多宝/0.jpg", "加多宝", "train", f"{top}train/加多宝/0.jpg"),
        ("test/加多宝/1.jpg", "加多宝", "test", f"{top}test/加多宝/1.jpg"),
        ("test/加多宝/2.jpg", "加多宝", "test", f"{top}test/加多宝/2.jpg"),
    ]
    tested = ["test/加多宝/1.jpg", "test/加多宝/2.jpg"]
    assert parts(records) == {"train": ["train/加多宝/0.jpg"], "query": tested, "gallery": tested}
    assert set(read("rp2k", tmp_path, split="class-disjoint").splits) == {"train"}  # the one class there is


def test_inaturalist_is_split_by_species(tmp_path: Path) -> None:
    names = [f"train_val2018/Aves/{n}.jpg" for n in ("2761/a", "2761/b", "2762/c", "2762/d")]
    for file, numbers in (("train2018", (0, 2)), ("val2018", (1, 3))):
        images = [{"id": 10 + n, "file_name": names[n], "width": 1} for n in numbers]
        entries = [{"id": n, "image_id": 10 + n, "category_id": 2761 + n // 2} for n in numbers]
        (tmp_path / f"{file}.json").write_text(json.dumps({"images": images, "annotations": entries}))
    tell(tmp_path / "Inat_dataset_splits/Inaturalist_train_set1.txt", f"{names[0]}\n{names[1]}")
    tell(tmp_path / "Inat_dataset_splits/Inaturalist_test_set1.txt", f"{names[3]}\n{names[2]}")
    put(tmp_path, *names)
    records = read("inat2018", tmp_path)
    assert rows(records, tmp_path) == [
        (names[0], "2761", "train", names[0]),
        (names[1], "2761", "train", names[1]),
        (names[3], "2762", "test", names[3]),
        (names[2], "2762", "test", names[2]),
    ]
    assert parts(records) == {"train": names[:2], "query": [names[3], names[2]], "gallery": [names[3], names[2]]}
    assert records.attribute("supercategory") == ["Aves"] * 4
    tell(tmp_path / "Inat_dataset_splits/Inaturalist_test_set1.txt", "train_val2018/Aves/2762/x.jpg")
    with pytest.raises(RecordsError, match=r"lists train_val2018/Aves/2762/x\.jpg, which neither"):
        read("inat2018", tmp_path)
    (tmp_path / "val2018.json").write_text('{"images": [{"id": 1}], "annotations": []}')
    with pytest.raises(RecordsError, match=r"val2018\.json, images, entry 1: expected an object with id, file_name"):
        read("inat2018", tmp_path)
    (tmp_path / "val2018.json").write_text("{")
    with pytest.raises(RecordsError, match=r"val2018\.json is not JSON"):
        read("inat2018", tmp_path)


@pytest.mark.parametrize(("lists", "images"), [("", ""), ("meta_data/", "images/"), ("", "Food2k_complete/")])
def test_food2k_has_three_lists(tmp_path: Path, lists: str, images: str) -> None:
    tell(tmp_path / f"{lists}train_finetune.txt", "0/a.jpg 0\n1999/b.jpg 1999")
    tell(tmp_path / f"{lists}val_finetune.txt", "0/c.jpg 0")
    tell(tmp_path / f"{lists}test_finetune.txt", "0/d.jpg 0\n0/e.jpg 0")
    put(tmp_path, *(f"{images}{name}.jpg" for name in ("0/a", "1999/b", "0/c", "0/d", "0/e")))
    records = read("food2k", tmp_path)
    assert parts(records) == {
        "train": ["0/a.jpg", "1999/b.jpg"],
        "validation_query": ["0/c.jpg"],
        "validation_gallery": ["0/c.jpg"],
        "query": ["0/d.jpg", "0/e.jpg"],
        "gallery": ["0/d.jpg", "0/e.jpg"],
    }
    assert rows(records, tmp_path)[1] == ("1999/b.jpg", "1999", "train", f"{images}1999/b.jpg")


def test_m4d35k_is_all_for_training_and_a_domain_is_the_first_folder(tmp_path: Path) -> None:
    names = [
        "products-10k/train/1.jpg",
        "google_landmark_recognition_2021/train/0/1/2/0123456789abcdef.jpg",
        "deepfashion/train/a.jpg",
        "stanford_cars/cars_train/00001.jpg",
    ]
    tell(tmp_path / "m4d-35k_train.csv", "img_path,label\n" + "\n".join(f"{name},{n}" for n, name in enumerate(names)))
    put(tmp_path, *names)
    records = read("m4d35k", tmp_path)
    assert rows(records, tmp_path) == [(name, str(n), "train", name) for n, name in enumerate(names)]
    assert records.domains == ["products-10k", "google_landmark_recognition_2021", "deepfashion", "stanford_cars"]
    assert parts(records) == {"train": names}
    (tmp_path / "stanford_cars").rename(tmp_path / "cars")
    with pytest.raises(RecordsError, match=r"has no stanford_cars/\. kind = 'm4d35k' reads the files of M4D-35k"):
        read("m4d35k", tmp_path)
