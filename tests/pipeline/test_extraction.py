"""What stage 1 says about the images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.config import parse_config
from pipeline.dataset import run_of
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
