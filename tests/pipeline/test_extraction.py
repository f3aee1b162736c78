"""What stage 1 says about the images."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier

import pytest
from PIL import Image

from cache import digest_file, digests
from pipeline.config import parse_config
from pipeline.dataset import open_run, run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from tests.pictures import draw_folder


def test_images_of_one_colour_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = draw_folder(tmp_path / "images", {"a": 4, "b": 4})
    Image.new("I;16", (9, 9)).save(images / "b/black.png")
    config = parse_config(
        f'artifacts = "{tmp_path}/artifacts"\n[dataset]\nkind = "folder"\npath = "{images}"\n'
        '[[backbones]]\nkind = "pca"\ndim = 2\nsize = 4\n'
    )
    run = run_of(config, Display(quiet=True))
    for expected in ("1 images decode to one colour, and say nothing: b/black.png", ""):
        capsys.readouterr()
        extract_features(run, Hardware())
        assert capsys.readouterr().err.strip() == expected


def test_files_are_hashed_by_as_many_workers_as_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_folder(tmp_path / "images", {"a": 12, "b": 12})
    dataset = f'[dataset]\nkind = "folder"\npath = "{images}"\n'
    (tmp_path / "run.toml").write_text(f'artifacts = "artifacts"\n{dataset}[[backbones]]\nkind = "pca"\n')
    together = Barrier(3, timeout=20)  # passes three threads at a time, and none that is alone

    def read(path: str) -> bytes:
        together.wait()
        return digest_file(path)

    monkeypatch.setattr(digests, "digest_file", read)
    run = open_run(tmp_path / "run.toml", quiet=True, workers=3)
    assert run.records.digests == [digest_file(uri) for uri in run.records.uris]
