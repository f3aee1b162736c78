"""The finished run of these tests, and its report."""

from __future__ import annotations

import pytest

from pipeline.commands.report import Contents, contents_of, report_page
from pipeline.config import parse_config
from pipeline.dataset import run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.scores import score_run
from pipeline.vectors import find_vectors
from pipeline.views.report.measured import Measured, measure
from tests.pictures import draw, write_table
from tests.toys.reports import HOSTILE, QUIET, RUN, Ran, Reader, read


@pytest.fixture(scope="package")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("report")
    rows = []
    for group in range(2 * len(HOSTILE)):
        for number in range(8):
            split = "query" if number < 2 else "gallery" if number < 5 else "train"
            name = f"{group}_{number}.png"
            draw(folder / name, 40 * group + (0, 1, 0, 2, 3, 1, 2, 3)[number])  # some queries find their own picture
            label, domain = HOSTILE[group // 2], "one <b>" if group % 2 else "two & more"
            rows.append({"path": name, "label": label, "domain": domain, "split": split})
    (folder / "bad.png").write_bytes(b"no image")
    rows.append({"path": "bad.png", "label": "x", "domain": "one <b>", "split": "gallery"})
    rows.append({"path": "0_0.png", "label": "alone", "domain": "one <b>", "split": "query"})
    rows[-1]["path"] = str(draw(folder / "alone.png", 999).name)
    write_table(folder / "labels.csv", rows)
    (folder / "run.toml").write_text(RUN.format(folder=folder))
    config = parse_config((folder / "run.toml").read_text())
    run = run_of(config, QUIET, folder / "run.toml")
    extract_features(run, Hardware())
    vectors = find_vectors(run, train=True)
    score_run(run, vectors)
    return Ran(folder, run, vectors)


@pytest.fixture(scope="package")
def contents(ran: Ran) -> Contents:
    return contents_of(ran.run, ran.vectors, 12, health=True)


@pytest.fixture(scope="package")
def measured(ran: Ran) -> list[Measured]:
    return measure(ran.run, ran.vectors)


@pytest.fixture(scope="package")
def text(contents: Contents) -> str:
    return report_page(contents)


@pytest.fixture(scope="package")
def reader(text: str) -> Reader:
    return read(text)
