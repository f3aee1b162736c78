"""What the command line says of an error: a setting that cannot be is explained, a mistake of ours is not hidden."""

from pathlib import Path

import pytest

from cache.errors import ConfigError, SettingsError
from pipeline.cli import explain
from tests.pictures import draw_folder
from tests.typed import CATALOGUE, PCA_RUN, permafrost


def test_a_setting_that_cannot_be_is_a_message_and_status_1() -> None:
    assert explain(SettingsError("k must be at least 1, got 0")) == ("k must be at least 1, got 0", 1)
    assert explain(ConfigError("run.toml: unknown key")) == ("run.toml: unknown key", 2)
    assert explain(FileNotFoundError(2, "No such file", "a.jpg"))[1] == 1


def test_a_bare_value_error_is_unexpected() -> None:
    text, status = explain(ValueError("operands could not be broadcast together"))
    assert text.startswith("ValueError: operands could not be broadcast together. This should not happen")
    assert status == 1


@pytest.mark.parametrize(
    "typed",
    [
        "init absent -o new.toml",
        "init . -o absent/run.toml",
        *(f"{name} absent" for name in ("plan", "extract", "run", "score", "report", "inspect", "verify", "compact")),
        *(f"{name} absent" for name in ("threshold", "health", "publish", "gallery-sizes", "sweep", "table")),
        "serve absent --port 0",
        "search absent absent.jpg",
        "search run.toml absent.jpg",
        "export absent -o out",
        "features absent -o out.parquet",
        "curate absent -o out.csv",
        "compare absent absent",
        "encode absent . -o v.parquet",
        "encode bundle absent -o v.parquet",
        "add absent .",
        "add bundle absent",
        "remove absent key",
        "extract run.toml",
        "plan table.toml",
        "plan shards.toml",
        "plan benchmark.toml",
    ],
)
def test_a_path_where_nothing_is_is_status_2_wherever_it_stands(typed: str, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/bundle.json").write_text("{}")
    (tmp_path / "run.toml").write_text(PCA_RUN)  # its images are not there
    for name, path in (("table", "absent.csv"), ("webdataset", "absent.tar"), ("cars196", "absent")):
        dataset = f'kind = "{name}"\npath = "{path}"'
        file = {"table": "table", "webdataset": "shards", "cars196": "benchmark"}[name]
        text = PCA_RUN.replace('kind = "folder"\npath = "images"', dataset).replace("queries_per_class = 2\n", "")
        (tmp_path / f"{file}.toml").write_text(text)
    done = permafrost(*typed.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "absent" in done.stderr or "images" in done.stderr
    assert "should not happen" not in done.stderr


def test_weights_where_nothing_is_are_status_2(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", {"cup": 4, "jug": 4})
    (tmp_path / "run.toml").write_text(CATALOGUE.replace('weights = "random"', 'weights = "absent.safetensors"'))
    done = permafrost("extract", "run.toml", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "there is no weights file" in done.stderr
    assert "absent.safetensors" in done.stderr
