"""What the README says, typed as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import parse_config
from stages.datasets.drawn import draw_catalogue
from tests.public_surface import FLAGS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_run_file_can_be_read() -> None:
    text, *_ = blocks("toml")
    config = parse_config(text)
    assert [head.name for head in config.heads] == ["best64", "arcface64"]


PAGES = (
    "README",
    "backbones",
    "datasets",
    "heads",
    "how-it-works",
    "indexes",
    "losses",
    "multilabel",
    "scores",
    "trust",
)


@pytest.mark.parametrize("page", PAGES)
def test_every_table_of_the_documents_can_be_read(page: str) -> None:
    text = README if page == "README" else (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    tables = re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert tables
    for table in tables:
        rest = "" if "[dataset]" in table else '[dataset]\nkind = "folder"\npath = "images"\n'
        rest += "" if "[[backbones]]" in table else '[[backbones]]\nkind = "bundled"\n'
        where = "" if table.startswith("artifacts") else 'artifacts = "a"\n'
        parse_config(f"{where}{table}\n{rest}")


def test_the_readme_is_read_in_five_minutes_and_every_document_is_in_the_index() -> None:
    assert len(README.splitlines()) <= 150
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - set(re.findall(r"\]\(([\w.-]+)\)", index)) == {
        "README.md"
    }


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_every_link_of_the_documents_leads_to_a_file(page: str) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
        assert ((ROOT / page).parent / link).exists(), link


def test_the_table_of_commands_has_every_command() -> None:
    table = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    assert {name.split()[-1] for row in rows for name in re.findall(r"`([^`]+)`", row)} >= FLAGS.keys()


def test_every_command_and_target_exists() -> None:
    commands = set(
        re.findall(r"permafrost ([a-z][a-z-]+)", " ".join([*blocks("bash"), *re.findall(r"`([^`\n]+)`", README)]))
    )
    assert commands <= FLAGS.keys()
    assert FLAGS.keys() <= set(re.findall(r"[a-z-]+", README))
    makefile = (ROOT / "Makefile").read_text()
    for target in set(
        re.findall(r"make ([a-z][a-z-]+)", " ".join([*blocks("bash"), *re.findall(r"`(make[^`\n]+)`", README)]))
    ):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_ci_calls_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert [line for line in script if line.startswith("make")] == ["make check"]
    assert "make check" in "".join(blocks("bash")).splitlines()


@pytest.mark.slow
def test_the_library_example_runs_and_its_head_beats_nothing_less_than_chance(tmp_path: Path) -> None:
    draw_catalogue(tmp_path / "artifacts/demo/catalogue", instances=40, views=4, size=64)
    (code,) = blocks("python")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert set(values) == {"mmp@5", "map@r", "hit@1", "recall@10", "map"}
    assert values["hit@1"] > 3 / 47  # 16 classes, 3 gallery images each, chance of one draw


@pytest.mark.slow
def test_make_alone_prints_the_targets() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for target in ("demo", "extract", "train-heads", "score", "run", "test", "check"):
        assert re.search(rf"^{target} +\S", done.stdout, re.MULTILINE), target
