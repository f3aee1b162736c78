from pathlib import Path

import pytest

from cache.errors import PermafrostError, RecordsError
from pipeline.commands.init import init
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.progress import Display
from pipeline.run_files import with_recipe
from pipeline.scores import score_run
from stages.records import read_records
from stages.records.guess import guess_dataset
from tests.pictures import draw, draw_folder, write_table


def test_a_folder_of_classes_gets_a_run_file_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_folder(tmp_path / "shop", {f"c{number}": 10 for number in range(10)} | {"alone": 1})
    monkeypatch.chdir(tmp_path)
    init(Path("shop"), Path("run.toml"), force=False)
    text = Path("run.toml").read_text()
    config = read_config("run.toml")
    records = read_records(config.datasets)
    assert config.artifacts == "artifacts/shop"
    assert config.datasets[0].queries_per_class == 2  # 4 test classes of 10: a fifth of each searches
    assert len(records.split("query")) == 8
    assert "1 classes have one image" in text
    assert "ViT-B-16-SigLIP2" in text
    assert "dinov3" in text
    with pytest.raises(PermafrostError, match=r"exists.*--force"):
        init(Path("shop"), Path("run.toml"), force=False)
    init(Path("shop"), Path("run.toml"), force=True)


def test_a_folder_with_a_dollar_in_its_name_gets_a_run_file_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_folder(tmp_path / "for $5 ${each}", {f"c{number}": 10 for number in range(10)})
    monkeypatch.chdir(tmp_path)
    init(Path("for $5 ${each}"), Path("run.toml"))
    assert len(read_records(read_config("run.toml").datasets)) == 100


def table_of(folder: Path, rows: list[dict[str, str]]) -> Path:
    for row in rows:
        for name in row.values():
            if name.endswith(".png"):
                draw(folder / name, hash(name) % 1000)
    return write_table(folder / "t.csv", rows)


def test_label_image_and_attributes_are_guessed_by_name_and_by_content(tmp_path: Path) -> None:
    rows = [
        {"no": str(n), "photo": f"i/{n}.png", "maker": "ab"[n % 2], "product_id": f"p{n // 3}", "note": f"text {n}"}
        for n in range(30)
    ]
    guess, records = guess_dataset(table_of(tmp_path, rows))
    assert guess.keys["image"] == "photo"
    assert guess.keys["label"] == "product_id"
    assert guess.keys["attributes"] == ["maker"]
    assert len(set(records.labels)) == 10
    assert "10 classes, 3.0 images each" in guess.remarks["label"]


@pytest.mark.parametrize("name", ["product", "SKU"])
def test_a_product_is_the_label_before_its_category(name: str, tmp_path: Path) -> None:
    rows = [{"path": f"{n}.png", "category": "ab"[n % 2], name: f"p{n // 3}"} for n in range(12)]
    assert guess_dataset(table_of(tmp_path, rows))[0].keys["label"] == name


def test_split_columns_become_roles(tmp_path: Path) -> None:
    rows = [
        {"path": f"{n}.png", "label": f"p{n // 3}", "split": ["train", "train", "val", "test"][n // 3 % 4]}
        for n in range(24)
    ]
    guess, records = guess_dataset(table_of(tmp_path, rows))
    assert {key: guess.keys[key] for key in ("train", "validation", "query", "gallery")} == {
        "train": "train",
        "validation": "val",
        "query": "test",
        "gallery": "test",
    }
    assert "leave-one-out" in guess.remarks["gallery"]
    assert len(records.split("query")) == 6


def test_splits_of_unclear_names_are_made_instead_and_it_says_so(tmp_path: Path) -> None:
    rows = [{"path": f"{n}.png", "label": f"p{n // 4}", "split": "ab"[n % 2]} for n in range(40)]
    guess, records = guess_dataset(table_of(tmp_path, rows))
    assert guess.keys["split"] == "class-disjoint"
    assert "is not clear (a, b)" in guess.remarks["split"]
    assert len(records.split("query")) == 4


def test_known_classes_among_the_queries_are_pointed_out(tmp_path: Path) -> None:
    draw_folder(tmp_path / "s", {f"{part}/{name}": 4 for part in ("train", "test") for name in "abcdef"})
    guess, _ = guess_dataset(tmp_path / "s")
    assert guess.keys["split"] == "folder"
    assert any("6 of 6 query classes are trained on too" in warning for warning in guess.warnings)


def test_images_beside_the_tables_folder_are_found(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", {"a": 4, "b": 4})
    (tmp_path / "tables").mkdir()
    rows = [{"path": f"images/{name}/{n}.png", "label": name} for name in "ab" for n in range(4)]
    guess, _ = guess_dataset(write_table(tmp_path / "tables/t.csv", rows))
    assert Path(str(guess.keys["root"])) == tmp_path


def test_copies_are_counted(tmp_path: Path) -> None:
    draw_folder(tmp_path / "s", dict.fromkeys("abcdefgh", 3))
    (tmp_path / "s/a/copy.png").write_bytes((tmp_path / "s/b/0.png").read_bytes())
    guess, _ = guess_dataset(tmp_path / "s")
    assert any("1 images are byte-identical copies" in warning for warning in guess.warnings)


def test_a_table_without_a_column_that_repeats_is_refused(tmp_path: Path) -> None:
    rows = [{"path": f"{n}.png", "name": f"n{n}"} for n in range(5)]
    with pytest.raises(RecordsError, match="no column can be the label"):
        guess_dataset(table_of(tmp_path, rows))


def test_names_with_dollars_quotes_and_line_breaks_get_a_run_file_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a$b").mkdir()
    rows = [
        {"path": f"{n}.png", 'the "label"\nof it': f"p{n // 4}", "split": ["a\nb", "'\x7f"][n % 2]} for n in range(40)
    ]
    table = table_of(tmp_path / "a$b", rows)
    monkeypatch.chdir(tmp_path)
    init(table.relative_to(tmp_path), Path("run.toml"))
    config = read_config("run.toml")
    assert config.datasets[0].path == "a$b/t.csv"
    records = read_records(config.datasets)
    assert set(records.labels) == {f"p{n}" for n in range(10)}
    assert 'label = "the \\"label\\"\\nof it"' in Path("run.toml").read_text()


def test_split_folders_win_over_what_lies_beside_them_and_it_is_said(tmp_path: Path) -> None:
    layout = {f"{part}/{name}": 4 for part in ("train", "test") for name in ("a" if part == "train" else "b")}
    draw_folder(tmp_path / "s", layout | {"__MACOSX/train/a": 1, "annotations/a": 1})
    guess, records = guess_dataset(tmp_path / "s")
    assert (guess.keys["split"], guess.keys["train"], guess.keys["query"]) == ("folder", "train", "test")
    assert sorted(set(records.labels)) == ["a", "b"]  # type: ignore[type-var]
    assert len(records.split("train", "query")) == 8
    assert "images in annotations, beside the splits, take no part in the run" in guess.warnings


def test_classes_that_are_called_like_splits_are_classes(tmp_path: Path) -> None:
    draw_folder(tmp_path / "toys", {"train": 3, "test": 3, "car": 3})
    guess, records = guess_dataset(tmp_path / "toys")
    assert "split" not in guess.keys
    assert sorted(set(records.labels)) == ["car", "test", "train"]  # type: ignore[type-var]


def test_init_opens_every_image_and_says_which_do_not_open(tmp_path: Path) -> None:
    draw_folder(tmp_path / "s", {"a": 3, "b": 3})
    (tmp_path / "s/a/page.jpg").write_bytes(b"<html>")
    guess, _ = guess_dataset(tmp_path / "s")
    assert "1 files do not open as images; the first is 'a/page.jpg' (cannot identify image file)" in guess.warnings


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_images_without_labels_get_a_run_file_without_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for number in range(6):
        draw(tmp_path / f"images/{number}.png", number)
    rows = [{"path": f"images/{number}.png"} for number in range(6)]
    images = Path("images") if kind == "folder" else write_table(tmp_path / "t.csv", rows).relative_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    init(images, Path("run.toml"))
    config = read_config("run.toml")
    records = read_records(config.datasets)
    assert config.heads == ()
    assert len(records.split("gallery")) == 6
    assert "# Heads learn from labels" in Path("run.toml").read_text()
    with pytest.raises(RecordsError, match="none of the 6 images has a label"):
        score_run(run_of(config, Display(quiet=True)), [])


def test_init_takes_the_default_recipe_on_the_blocks_of_one_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_folder(tmp_path / "shop", {f"c{number}": 3 for number in range(6)})
    monkeypatch.chdir(tmp_path)
    init(Path("shop"), Path("run.toml"))
    config, preset = read_config("run.toml"), with_recipe({"name": "x", "recipe": "default", "dim": 64})
    assert getattr(config.backbones[0], "blocks", None) == (-2, -1)
    assert [(head.name, head.backbones) for head in config.heads] == [("default64", "all"), ("default512", "all")]
    assert config.heads[0].recipe.head.kind == preset["kind"]


def test_what_the_table_has_and_what_is_used_stand_in_one_sentence(tmp_path: Path) -> None:
    rows = [
        {"path": f"{n}.png", "label": f"p{n // 4}" + " " * (n % 2), "domain": ["photo", "art"][n // 2 % 2]}
        for n in range(24)
    ]
    guess, records = guess_dataset(table_of(tmp_path, rows))
    assert guess.remarks["label"] == (
        "12 classes, 2.0 images each, of 12 spellings in the table, where spaces around a label and its Unicode form "
        "differ, of 6 labels, each counted in every domain"
    )
    assert records.counts()["classes"] == 12


def test_a_root_is_named_where_the_paths_of_a_table_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_folder(tmp_path / "far/away", {f"c{number}": 3 for number in range(8)})
    rows = [{"path": f"c{n // 3}/{n % 3}.png", "label": f"c{n // 3}"} for n in range(24)]
    table = write_table(tmp_path / "t.csv", rows)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordsError, match=r"none of the 24 images that t.csv names is in \..*--root FOLDER"):
        init(Path(table.name))
    init(Path(table.name), root=Path("far/away"))
    config = read_config("run.toml").datasets[0]
    assert len(read_records(config)) == 24
    with pytest.raises(RecordsError, match="far is a folder"):
        init(Path("far"), Path("other.toml"), root=Path("far"))


def test_values_of_attributes_and_domains_that_look_missing_are_noted(tmp_path: Path) -> None:
    rows = [
        {"path": f"{n}.png", "label": f"p{n // 4}", "domain": ["photo", "NA"][n // 20], "colour": ["red", "nan"][n % 2]}
        for n in range(24)
    ]
    guess, records = guess_dataset(table_of(tmp_path, rows))
    assert guess.keys["attributes"] == ["colour"]
    for start in ("12 images have the colour 'nan', which looks", "4 images have the domain 'NA', which looks"):
        assert any(note.startswith(start) for note in records.notes)
