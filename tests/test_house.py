"""The house itself: what is public, which way imports point, what is pinned."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.pictures import draw_folder
from tests.public_surface import FLAGS, PUBLIC
from tests.typed import permafrost

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_are_these(package: str) -> None:
    module = import_module(package)
    assert module.__all__ == PUBLIC[package]
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_commands_and_their_flags_are_these() -> None:
    from pipeline.cli import COMMANDS, load_command

    flags = {
        name: {max(option.opts, key=len) for option in load_command(name).params if option.opts[0].startswith("-")}
        for name in COMMANDS
    }
    assert flags == FLAGS


@pytest.mark.parametrize(
    "package", ["cache", *(f"stages.{room}" for room in ("analysis", "curation", "ranking", "records", "retrieval"))]
)
def test_this_loads_without_torch(package: str) -> None:
    script = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


HEAVY = ("torch", "timm", "open_clip", "sklearn", "faiss")
LOADS = f"""
import contextlib, io, sys
from pathlib import Path
from pipeline.cli import app
from pipeline.config import read_config
runs = sorted(Path({str(ROOT)!r}, "runs").glob("*.toml"))
assert len(runs) > 9
for run in runs:
    read_config(run)
print("parsing:", *sorted({{*{HEAVY}}} & {{*sys.modules}}))
for command in (["run"], ["score"], ["inspect"], ["report", "--queries", "2"]):
    with contextlib.redirect_stdout(io.StringIO()):
        app(args=[command[0], "run.toml", *command[1:]], standalone_mode=False)
    print(f"{{command[0]}}:", *sorted({{"torch", "timm", "open_clip"}} & {{*sys.modules}}))
"""


def test_run_files_are_parsed_and_finished_runs_read_without_the_heavy_libraries(tmp_path: Path) -> None:
    run = '[[backbones]]\nkind = "pca"\ndim = 8\nsize = 16\n[[heads]]\nname = "lda"\nkind = "lda"\ndim = 4\n'
    trained = '[[heads]]\nname = "small"\ndim = 4\nloss = { kind = "cosface" }\ntraining = { epochs = 1 }\n'
    draw_folder(tmp_path / "images", {f"class {number}": 6 for number in range(12)})
    (tmp_path / "run.toml").write_text(
        f'artifacts = "out"\n[dataset]\nkind = "folder"\npath = "images"\nqueries_per_class = 2\n{run}{trained}'
    )
    assert permafrost("run", "run.toml", cwd=tmp_path).returncode == 0
    variables = {"PYTHONPATH": str(ROOT), "PERMAFROST_DATA": "/data", "PERMAFROST_WEIGHTS": "/weights"}
    loaded = subprocess.run(
        [sys.executable, "-c", LOADS], cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True
    )
    assert loaded.stdout == "parsing:\nrun:\nscore:\ninspect:\nreport:\n", loaded.stderr


def test_the_lock_names_packages_and_versions_only_and_is_what_is_installed() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert not [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+( ; [a-z_ \"=0-9]+)?", line)
    ]
    pinned = dict(line.split(" ; ")[0].split("==") for line in lines)
    assert (pinned["torch"], pinned["torchvision"]) == ("2.15.0", "0.29.2")  # a pair that imports together
    for name in ("torch", "torchvision"):
        assert version(name).split("+")[0] == pinned[name]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *declared["project"]["dependencies"],
        *declared["project"]["optional-dependencies"]["bundled"],
        *declared["dependency-groups"]["dev"],
    ]
    locked = {name.lower().replace("_", "-") for name in pinned}
    assert {re.split(r"[<>=!~\[]", name)[0].lower().replace("_", "-") for name in wanted} <= locked


def test_torch_and_torchvision_import_together() -> None:
    script = "import torchvision, open_clip; torchvision.ops.nms"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT).returncode == 0


def test_every_source_file_is_readable_in_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for package in ("cache", "stages", "pipeline")
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_no_variable_has_a_name_that_says_nothing() -> None:
    empty = {"of", "found", "said", "told", "asked", "kept", "here"}
    bound = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("cache", "stages", "pipeline", "benchmarks", "tests")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.arg) and node.arg in empty)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in empty)
    ]
    assert bound == []
