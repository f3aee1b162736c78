"""Paths of a run file are relative to its folder, wherever one stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import ConfigError
from pipeline.commands.init import init
from pipeline.config import read_config
from stages.extraction import TimmConfig
from stages.records import read_records
from tests.pictures import draw_folder

RUN = """
artifacts = "../artifacts/x"
dataset = { kind = "folder", path = "../images" }
backbones = [{ kind = "bundled" }]
"""


def test_relative_paths_are_seen_from_the_folder_of_the_run_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/run.toml").write_text(f"\ufeff{RUN}")
    for stand, artifacts in ((tmp_path, "artifacts/x"), (tmp_path / "runs", "../artifacts/x")):
        monkeypatch.chdir(stand)
        config = read_config(Path("runs/run.toml") if stand == tmp_path else "run.toml")
        assert (config.artifacts, Path(config.datasets[0].path).resolve()) == (artifacts, tmp_path / "images")


@pytest.mark.parametrize("key", ["artifacts", "path"])
def test_a_path_that_is_there_only_from_where_one_stands_says_how_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    (tmp_path / "runs").mkdir()
    value, wanted = ("artifacts/x", "../artifacts/x") if key == "artifacts" else ("images", "../images")
    (tmp_path / value).mkdir(parents=True)
    (tmp_path / "runs/run.toml").write_text(RUN.replace(f'"{wanted}"', f'"{value}"'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"{key} = '{value}' is relative to the folder .* write {key} = '{wanted}'"):
        read_config("runs/run.toml")
    (tmp_path / "runs" / value).mkdir(parents=True)
    read_config("runs/run.toml")


def test_init_writes_paths_as_its_run_file_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_folder(tmp_path / "shop", {f"c{number}": 3 for number in range(6)})
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    init(Path("shop"), Path("runs/run.toml"))
    config = read_config("runs/run.toml")
    assert (config.datasets[0].path, config.artifacts) == ("shop", "runs/artifacts/shop")
    monkeypatch.chdir(tmp_path / "runs")
    assert len(read_records(read_config("run.toml").datasets)) == 18


def test_random_weights_are_no_path(tmp_path: Path) -> None:
    text = RUN.replace('kind = "bundled"', 'kind = "timm", name = "test_resnet", weights = "random"')
    (tmp_path / "run.toml").write_text(text)
    (backbone,) = read_config((tmp_path / "run.toml").absolute()).backbones
    assert isinstance(backbone, TimmConfig)
    assert backbone.weights == "random"
