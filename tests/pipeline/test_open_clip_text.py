"""Words to a backbone that has a text tower of its own: tiny models of open_clip, with random weights from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from cache.errors import SettingsError, WeightsError
from pipeline.bundle.export import export_bundle
from pipeline.config import parse_config
from pipeline.dataset import Run, run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.searcher import Searcher
from pipeline.service.app import create_app
from pipeline.service.snapshots import open_snapshots
from pipeline.vectors import find_chosen, find_vectors
from tests.pictures import draw_folder
from tests.service.serving import ask

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


def run_with(folder: Path, file: str, settings: str) -> Run:
    backbone = f'[[backbones]]\nkind = "open_clip"\nname = "tiny"\nweights = "{folder / file}"\n{settings}\n'
    preprocess = "preprocess = { mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }\n"
    config = parse_config(
        f'artifacts = "{folder}/out"\n[dataset]\nkind = "folder"\npath = "{folder}/images"\nqueries_per_class = 1\n'
        f"{backbone}{preprocess}"
    )
    run = run_of(config, Display(quiet=True))
    extract_features(run, Hardware())
    return run


def searcher_of(folder: Path, file: str, settings: str = "projection = true") -> Searcher:
    run = run_with(folder, file, settings)
    return Searcher.of_run(run, find_vectors(run)[0])


def draw_model(folder: Path) -> Any:
    """A tiny model whose weights, and those of its image tower alone, are files in ``folder``, beside some images."""
    (folder / "configs").mkdir()
    (folder / "configs/tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "configs/tiny.json")
    torch.manual_seed(3)
    model = open_clip.create_model("tiny", pretrained_text=False).eval()
    save_file(model.state_dict(), folder / "whole.safetensors")
    save_file(model.visual.state_dict(), folder / "tower.safetensors")
    draw_folder(folder / "images", {f"class {number}": 3 for number in range(6)})
    return model


def test_words_are_embedded_as_the_models_own_text_tower_embeds_them(tmp_path: Path) -> None:
    model = draw_model(tmp_path)
    words = ["a red mug", "a blue shoe"]
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("tiny")(words), normalize=True).numpy()
    searcher = searcher_of(tmp_path, "whole.safetensors")
    np.testing.assert_allclose(searcher.embed_text(words), expected, atol=1e-6)
    assert searcher.find(expected, 2) == searcher.find(searcher.embed_text(words), 2)
    with pytest.raises(SettingsError, match="before the projection into the space of words: set projection = true"):
        searcher_of(tmp_path, "whole.safetensors", "").embed_text(words)
    with pytest.raises(SettingsError, match="pooled tokens are not among words"):
        searcher_of(tmp_path, "whole.safetensors", 'pooling = "mean"').embed_text(words)
    with pytest.raises(WeightsError, match="missing"):
        searcher_of(tmp_path, "tower.safetensors").embed_text(words)


def test_both_features_come_of_one_forward_and_words_ask_the_projected_one(tmp_path: Path) -> None:
    model = draw_model(tmp_path)
    run = run_with(tmp_path, "whole.safetensors", 'projection = "both"')
    pooled, projected = find_vectors(run)
    assert (pooled.backbone, projected.backbone) == ("tiny", "tiny-projected")
    assert find_chosen(run, None).backbone == "tiny", "an image is searched for by the feature before the projection"
    assert find_chosen(run, None, text=True).backbone == "tiny-projected"
    alone = find_vectors(run_with(tmp_path, "whole.safetensors", "projection = true"))[0].store
    digests = run.records.digests
    both, one = (store.read(digests).astype(np.float32) for store in (projected.store, alone))
    np.testing.assert_allclose(both, one, atol=2e-3)
    assert not Searcher.of_run(run, pooled).takes_text

    words = ["a red mug"]
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("tiny")(words), normalize=True).numpy()
    export_bundle(run, projected, tmp_path / "bundle")
    export_bundle(run, pooled, tmp_path / "wordless")
    (tmp_path / "whole.safetensors").unlink()
    bundle = Searcher.open(tmp_path / "bundle")
    np.testing.assert_allclose(bundle.embed_text(words), expected, atol=1e-6)
    assert "Words are read by the text tower of tiny" in (tmp_path / "bundle/README.md").read_text()
    app = create_app(open_snapshots(tmp_path / "bundle", on_change=lambda _: None))
    (served,) = ask(app, "GET", "/search", params={"text": words[0], "k": 4}).json()["results"]
    wanted = bundle.find(expected, 4)[0]
    assert [match["key"] for match in served["matches"]] == [match.key for match in wanted]
    app = create_app(open_snapshots(tmp_path / "wordless", on_change=lambda _: None))
    answer = ask(app, "GET", "/search", params={"text": words[0]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "no_text")
    with pytest.raises(SettingsError, match="knows no text: search by a head of kind text, or by a projected feature"):
        Searcher.open(tmp_path / "wordless").embed_text(words)
