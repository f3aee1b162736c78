"""The reference of the run file's keys, and what it says of a key that is in the wrong place."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from cache.errors import ConfigError
from pipeline.config import ExtractionConfig, RunConfig, parse_config
from pipeline.keys import every_key, reference
from stages.training import ArcFaceConfig, TrainingConfig
from tests.typed import RUN, in_process

ROOT = Path(__file__).parent.parent.parent


def test_the_page_of_keys_is_that_of_the_configuration() -> None:
    page = (ROOT / "docs/run-file.md").read_text(encoding="utf-8")
    assert page.partition("## ")[1:] != ("", "")
    made = "## " + page.partition("## ")[2]
    assert made.strip() == reference().strip(), "permafrost keys prints what follows the introduction"


@pytest.mark.parametrize(
    ("config", "section", "kind"),
    [
        (ExtractionConfig(), "extraction", ""),
        (TrainingConfig(), "heads.training", ""),
        (ArcFaceConfig(), "heads.loss", "arcface"),
    ],
)
def test_every_field_is_listed_with_its_default(config: object, section: str, kind: str) -> None:
    listed = {key.name: key for key in every_key() if (key.section, key.kind) == (section, kind)}
    assert is_dataclass(config)
    assert {field.name for field in fields(config)} - {"kind"} == listed.keys()
    for name, key in listed.items():
        value = getattr(config, name)
        if isinstance(value, (bool, int, float)):
            assert key.default == (str(value).lower() if isinstance(value, bool) else repr(value))


def test_every_key_of_a_run_file_is_listed() -> None:
    tables = {key.section for key in every_key()}
    assert {"", "dataset", "backbones", "heads", "heads.loss", "heads.optimizer", "heads.training"} <= tables
    assert {field.name for field in fields(RunConfig)} == {key.name for key in every_key() if not key.section}
    assert {"name", "recipe", "dim", "loss"} <= {key.name for key in every_key() if key.section == "heads"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_failures = 0.5", r"max_failures: unknown key; it belongs in \[extraction\]"),
        ("max_failure = 0.5", r"max_failure: unknown key; did you mean max_failures in \[extraction\]\?"),
        ("epochs = 3", r"epochs: unknown key; it belongs in \[heads.training\]"),
        ("extraction = { seed = 0 }", r"extraction.seed: unknown key; it belongs above every table"),
    ],
)
def test_a_key_in_the_wrong_table_is_sent_to_its_own(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(line + RUN)


def test_the_command_finds_keys_by_a_word(tmp_path: Path) -> None:
    done = in_process("keys", "max_failures", cwd=tmp_path)
    assert done.stdout.splitlines()[1].split() == ["[extraction]", "max_failures", "number", "0.01"]
