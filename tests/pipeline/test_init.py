from pathlib import Path

import pytest

from cache.errors import PermafrostError, RecordsError
from pipeline.commands.init import init
from pipeline.config import read_config
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
