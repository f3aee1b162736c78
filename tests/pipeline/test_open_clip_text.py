"""Words to a backbone that has a text tower of its own: tiny models of open_clip, with random weights from a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from cache.errors import SettingsError, WeightsError
from pipeline.config import parse_config
from pipeline.dataset import run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.searcher import Searcher
from pipeline.vectors import find_vectors
from tests.pictures import draw_folder

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


def searcher_of(folder: Path, file: str, settings: str = "projection = true") -> Searcher:
    backbone = f'[[backbones]]\nkind = "open_clip"\nname = "tiny"\nweights = "{folder / file}"\n{settings}\n'
    preprocess = "preprocess = { mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }\n"
    config = parse_config(
        f'artifacts = "{folder}/out"\n[dataset]\nkind = "folder"\npath = "{folder}/images"\nqueries_per_class = 1\n'
        f"{backbone}{preprocess}"
    )
    run = run_of(config, Display(quiet=True))
    extract_features(run, Hardware())
    return Searcher.of_run(run, find_vectors(run)[0])


def test_words_are_embedded_as_the_models_own_text_tower_embeds_them(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "configs/tiny.json")
    torch.manual_seed(3)
    model = open_clip.create_model("tiny", pretrained_text=False).eval()
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    save_file(model.visual.state_dict(), tmp_path / "tower.safetensors")
    draw_folder(tmp_path / "images", {f"class {number}": 3 for number in range(6)})
    words = ["a red mug", "a blue shoe"]
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("tiny")(words), normalize=True).numpy()
    searcher = searcher_of(tmp_path, "whole.safetensors")
    np.testing.assert_allclose(searcher.embed_text(words), expected, atol=1e-6)
    (written,) = (tmp_path / "out/searchers").rglob("searcher.json")
    assert Searcher.open(written.parent).find(expected, 2) == searcher.find(searcher.embed_text(words), 2)
    with pytest.raises(SettingsError, match="before the projection into the space of words: set projection = true"):
        searcher_of(tmp_path, "whole.safetensors", "").embed_text(words)
    with pytest.raises(SettingsError, match="pooled tokens are not among words"):
        searcher_of(tmp_path, "whole.safetensors", 'pooling = "mean"').embed_text(words)
    with pytest.raises(WeightsError, match="missing"):
        searcher_of(tmp_path, "tower.safetensors").embed_text(words)
