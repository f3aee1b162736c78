"""What is said where classes are few: before the fit, by a threshold, by an export; and which paths remove images."""

import re
from pathlib import Path

import pytest

from tests.typed import PCA_RUN, finished, permafrost


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("few"), PCA_RUN)


def test_no_rate_is_advised_where_the_classes_are_too_few(folder: Path) -> None:
    refused = permafrost("threshold", "run.toml", cwd=folder)
    assert refused.returncode == 1
    validate, search = map(int, re.findall(r"of 12 classes (\d+) validate and (\d+) search", refused.stderr)[0])
    wanted = min(-(-12 * 5 // validate), -(-12 * 10 // search))
    assert f"about {wanted} in all" in refused.stderr
    done = permafrost("search", "run.toml", "images/class 0/0.png", "--fmr", "0.05", cwd=folder)
    assert done.returncode == 1
    assert "whatever the rate" in done.stderr
    assert "Run `permafrost threshold" not in done.stderr


def test_a_note_comes_before_the_fit_and_a_line_before_a_closed_form(folder: Path) -> None:
    (folder / "head.toml").write_text(f'{PCA_RUN}[[heads]]\nname = "d"\nrecipe = "default"\ndim = 2\n')
    done = permafrost("run", "head.toml", cwd=folder)
    assert done.returncode == 0, done.stderr
    note, line = done.stderr.index("and choosing takes 5"), done.stderr.index("computing a closed form of ")
    assert note < line
    assert "validation_query" not in done.stderr


def test_an_export_without_a_threshold_says_so_and_its_images_go_by_the_paths_that_search_prints(folder: Path) -> None:
    done = permafrost("export", "run.toml", "-o", "bundle", "--all", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "no threshold goes along" in done.stderr
    searched = permafrost("search", "run.toml", "images/class 0/0.png", "--all", "-k", "1", cwd=folder)
    assert "--all" not in searched.stderr
    assert "; --head chooses otherwise" in searched.stderr
    path = searched.stdout.splitlines()[1].split("  ")[-1]
    removed = permafrost("remove", "bundle", path, cwd=folder)
    assert removed.stdout.startswith("bundle: snapshot 2, 1 image removed"), removed.stderr
    assert permafrost("remove", "bundle", "absent.png", cwd=folder).returncode == 1
    logged = permafrost("--log-format", "time", "publish", "bundle", cwd=folder).stdout
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\S+ info: bundle: snapshot 2 is searched\n", logged)
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no image")
    refused = permafrost("add", "bundle", "broken", "--publish", cwd=folder)
    assert refused.returncode == 1
    assert refused.stdout == (
        "bundle: none was added, since 1 image failed, more than --max-failures allows; snapshot 2 stays the newest\n"
    )
