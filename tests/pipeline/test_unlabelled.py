"""Images without labels: extracted and searched; heads and scores, which need labels, are not in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import RecordsError
from pipeline.commands.extract import extract
from pipeline.commands.run import run
from pipeline.commands.score import score
from pipeline.commands.search import search
from pipeline.commands.train_heads import train_heads
from tests.pictures import draw

RUN = """
artifacts = "artifacts/x"
dataset = { kind = "folder", path = "images" }
backbones = [{ kind = "bundled" }]
"""


def test_a_flat_folder_is_extracted_and_searched_with_raw_features_whatever_heads_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        draw(tmp_path / f"images/{number}.png", number)
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(RUN)
    run("run.toml")
    assert "splits made" not in "".join(capsys.readouterr())
    for command in (score, train_heads):
        with pytest.raises(RecordsError, match=r"none of the 4 images has a label.*permafrost search"):
            command("run.toml", quiet=True)
    Path("run.toml").write_text(RUN + '[[heads]]\nname = "default64"\nrecipe = "default"\n')
    extract("run.toml", quiet=True)
    capsys.readouterr()
    search("run.toml", ["images/2.png"], head="raw", k=1, quiet=True)
    assert "images/2.png" in capsys.readouterr().out.splitlines()[1]
    with pytest.raises(RecordsError, match="there is no training image"):
        search("run.toml", ["images/2.png"], quiet=True)
