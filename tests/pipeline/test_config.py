import re
from importlib.resources import files
from pathlib import Path

import pytest

from cache.errors import ConfigError
from pipeline.config import parse_config, read_config
from stages.datasets import TableConfig
from stages.extraction import BundledConfig, PcaConfig
from stages.training import ArcFaceConfig, LinearHeadConfig
from tests.typed import SMALL_RUN

ROOT = Path(__file__).parent.parent.parent


def test_a_run_file_becomes_frozen_dataclasses_with_their_own_defaults() -> None:
    config = parse_config(SMALL_RUN + '[[backbones]]\nkind = "pca"\n')
    assert config.datasets == (TableConfig(path="labels.csv", label=("a", "b")),)
    assert config.backbones == (BundledConfig(name="efficientnet_lite0"), PcaConfig())
    (head,) = config.heads
    assert head.recipe.head == LinearHeadConfig(dim=32)
    assert head.recipe.loss == ArcFaceConfig(subcenters=3)
    assert config.seed == 0
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("subcenters", "subcentres"),
            r"heads\[0\]\.loss\.subcentres: unknown key for kind = 'arcface'; did you mean subcenters\?",
        ),
        (("dim = 32", "dimm = 32"), r"heads\[0\]\.dimm: unknown key for kind = 'linear'; did you mean dim\?"),
        (("label =", "lable ="), r"dataset\.lable: unknown key for kind = 'table'; did you mean label\?"),
        (('path = "labels.csv"', ""), r"dataset\.path: this key is needed"),
        (("artifacts", "artefacts"), r"artefacts: unknown key; did you mean artifacts\?"),
        (('"efficientnet_lite0"', '"efficientnet_lite9"'), r"backbones\[0\]\.name: .*efficientnet_lite0"),
        (('kind = "bundled"', 'kind = "boundled"'), r"backbones\[0\]: .*'bundled'"),
        (('kind = "bundled"\n', ""), r"backbones\[0\]: this needs kind = \.\.\."),
        (("dim = 32", "dim = 0"), r"heads\[0\]: dim is the size of an embedding, at least 1, got 0"),
        (("dim = 32", 'dim = "many"'), r"heads\[0\]\.dim: "),
        (("subcenters = 3", "subcenters = 0"), r"heads\[0\]\.loss: subcenters"),
        (('name = "small"', 'name = "raw"'), r"heads\[0\]: a head's name .* is not 'raw'"),
        (('name = "small"', 'name = "../up"'), r"heads\[0\]: a head's name"),
        (("[dataset]", '[retrieval]\nmetrics = ["mpp@5"]\n[dataset]'), r"retrieval: .*Did you mean .mmp@k"),
        (("[dataset]", "[extraction]\nmax_failures = 2.0\n[dataset]"), r"extraction: max_failures is a share"),
        (("[dataset]", "[dataset"), "is not TOML"),
        (("[dataset]", "seed = -1\n[dataset]"), "seed is at least 0, got -1"),
        (("[dataset]", "[retrieval]\nmetrics = []\n[dataset]"), "retrieval: metrics must name at least one"),
        (("[dataset]", '[dataset]\nquery = "q"\ngallery = "g"'), "heads and pca learn from train"),
        (('path = "labels.csv"\nlabel = ["a", "b"]', 'kind = "folder"\npath = "."'), "lies in the folder of images"),
        (("[[heads]]", '[[backbones]]\nkind = "bundled"\nname = "efficientnet_lite0"\n[[heads]]'), "are the same"),
    ],
)
def test_what_is_wrong_is_named_by_its_dotted_path(change: tuple[str, str], message: str) -> None:
    assert change[0] in SMALL_RUN
    with pytest.raises(ConfigError, match=message):
        parse_config(SMALL_RUN.replace(*change))


def test_two_heads_of_one_name_are_refused() -> None:
    again = SMALL_RUN[SMALL_RUN.index("[[heads]]") :]
    with pytest.raises(ConfigError, match="two heads are called 'small'"):
        parse_config(SMALL_RUN + again)


def test_a_path_may_hold_two_variables_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERMAFROST_DATA", "/photos")
    config = parse_config(SMALL_RUN.replace('"labels.csv"', '"${PERMAFROST_DATA}/labels.csv"'))
    assert config.datasets[0].path == "/photos/labels.csv"
    for other in ("${HOME}/labels.csv", "$PERMAFROST_DATA/labels.csv"):
        with pytest.raises(ConfigError, match="are the only variables that a path may hold"):
            parse_config(SMALL_RUN.replace('"labels.csv"', f'"{other}"'))
    monkeypatch.delenv("PERMAFROST_DATA")
    with pytest.raises(ConfigError, match=r"PERMAFROST_DATA is not set.*export PERMAFROST_DATA="):
        parse_config(SMALL_RUN.replace('"labels.csv"', '"${PERMAFROST_DATA}/labels.csv"'))


def test_two_dollars_in_a_path_are_one() -> None:
    text = SMALL_RUN.replace('"labels.csv"', '"$$5/a$${b}$$/labels.csv"')
    assert parse_config(text).datasets[0].path == "$5/a${b}$/labels.csv"
    with pytest.raises(ConfigError, match=r"Write \$\$ for a dollar sign"):
        parse_config(SMALL_RUN.replace('"labels.csv"', '"$5/labels.csv"'))


def test_a_dollar_outside_a_path_is_text() -> None:
    config = parse_config(SMALL_RUN.replace('["a", "b"]', '"$price"'))
    assert config.dataset == TableConfig(path="labels.csv", label="$price")


def test_a_run_file_that_does_not_exist_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="permafrost init"):
        read_config(tmp_path / "run.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "runs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_run_file_of_the_repository_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERMAFROST_DATA", "/data")
    monkeypatch.setenv("PERMAFROST_WEIGHTS", "/weights")
    config = read_config(path)
    assert {head.recipe.head.dim for head in config.heads} <= {0, 64, 512}  # 0: the size of the feature


def test_the_demo_is_installed_with_the_package() -> None:
    text = files("pipeline").joinpath("presets/demo.toml").read_text(encoding="utf-8")
    assert [type(backbone) for backbone in parse_config(text).backbones] == [BundledConfig, PcaConfig]
    assert re.search("drawn, not photographs", text)
