"""The reference of the run file: it lists every key that the parser takes, with the default that the parser gives."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cache.errors import ConfigError
from pipeline.cli import explain
from pipeline.commands.keys import keys
from pipeline.config import RunConfig, parse_config
from pipeline.keys import reference, tables

ROOT = Path(__file__).parents[2]


def test_the_document_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    keys()
    printed = capsys.readouterr().out
    assert (ROOT / "docs/run-file.md").read_text(encoding="utf-8") == printed, "permafrost keys > docs/run-file.md"


def test_every_key_of_the_schema_is_listed() -> None:
    schema = TypeAdapter(RunConfig).json_schema()
    names = {name for part in (schema, *schema["$defs"].values()) for name in part.get("properties", {})}
    listed = {key.name for table in tables() for key in table.keys}
    assert names - {"kind", "head"} <= listed  # kind stands in the headings; the keys of a head in [[heads]]


def test_every_key_has_a_meaning_and_a_table_of_kinds_lists_them_first() -> None:
    assert [(table.path, table.kind, key.name) for table in tables() for key in table.keys if not key.meaning] == []
    first, *kinds = [table for table in tables() if table.path == "heads.loss"]
    assert first.meaning.startswith("Kinds: `")
    assert [table.kind for table in kinds if f"`{table.kind}`" not in first.meaning] == []


def test_every_kind_of_the_schema_has_a_heading() -> None:
    definitions = TypeAdapter(RunConfig).json_schema()["$defs"].values()
    kinds = {part["properties"].get("kind", {}).get("const") for part in definitions if "properties" in part}
    assert kinds - {None} <= {table.kind for table in tables()}


FREE = ("sweep.over", "backbones.kwargs", "retrieval.similar")  # tables of any keys


def _used(value: Any, path: str) -> Iterator[tuple[str, str]]:
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict) or path in FREE:
            continue
        for key, inner in entry.items():
            yield path, key
            yield from _used(inner, f"{path}.{key}".lstrip("."))


@pytest.mark.parametrize("run_file", sorted((ROOT / "runs").glob("*.toml")), ids=lambda path: path.stem)
def test_what_the_run_files_say_is_listed(run_file: Path) -> None:
    listed = {(table.path, key.name) for table in tables() for key in table.keys}
    used = {pair for pair in _used(tomllib.loads(run_file.read_text(encoding="utf-8")), "") if pair[1] != "kind"}
    assert used <= listed


def test_defaults_are_those_of_a_file_that_names_none() -> None:
    config = parse_config(
        'artifacts = "out"\ndataset = { kind = "folder", path = "images" }\nbackbones = [{ kind = "pca" }]'
    )
    for table, parsed in (("extraction", config.extraction), ("curate", config.curate)):
        (listed,) = (entry for entry in tables() if entry.path == table)
        for key in listed.keys:
            if key.default:
                assert tomllib.loads(f"value = {key.default}")["value"] == _plain(getattr(parsed, key.name))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_one_section_with_what_is_inside() -> None:
    assert "# The run file" not in reference("heads.loss")
    assert reference("heads.loss").startswith("## `[heads.loss]`\n\nKinds: `adacos`, ")
    assert "[heads.loss.miner]" in reference("heads.loss")
    assert "[heads.optimizer]" not in reference("heads.loss")


def test_a_section_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"no table 'head.loss'; there are dataset, .*heads.loss") as raised:
        keys("head.loss")
    assert explain(raised.value)[1] == 2


RUN_FILE = """
artifacts = "out"
max_failures = 0.5
[dataset]
kind = "folder"
path = "images"
[[backbones]]
kind = "pca"
pretrained = true
[[heads]]
name = "a"
dim = 3
loss = { kind = "arcface", margin_cos = 0.2 }
[extraction]
max_failure = 0.5
"""


def test_a_key_in_the_wrong_place_is_told_the_table_or_the_kinds_that_have_it() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(RUN_FILE)
    message = str(raised.value)
    for problem in (
        "  max_failures: unknown key; it belongs in [extraction]",
        "  extraction.max_failure: unknown key; did you mean max_failures?",
        "  backbones[0].pretrained: unknown key for kind = 'pca'; other kinds take it (open_clip, timm)",
        "unknown key for kind = 'arcface'; did you mean margin_rad? margin_cos is of cosface, elastic",
    ):
        assert problem in message
