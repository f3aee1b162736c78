"""What a run asks for and its records cannot give is refused before the first image is decoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pictures import draw, write_table
from tests.typed import permafrost

BEGIN = """artifacts = "artifacts"
[dataset]
kind = "table"
path = "labels.csv"
label = "label"
train = "train"
query = "test"
gallery = "test"
attributes = ["colour"]
[[backbones]]
kind = "timm"
name = "test_resnet"
weights = "random"
preprocess = { size = 32 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checks")
    rows = []
    for number in range(24):
        draw(folder / f"{number}.png", number)
        side = "train" if number < 12 else "test"
        rows.append({"path": f"{number}.png", "label": f"c{number // 3}", "split": side, "colour": "red", "x": "1"})
    write_table(folder / "labels.csv", rows)
    return folder


def heads(text: str) -> str:
    return f'[[heads]]\nname = "small"\n{text}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (heads('kind = "lda"\ndim = 64'), "small: dim is 64, but 12 images of 4 classes give lda at most 3"),
        (heads('kind = "ridge"\ndim = 4'), "small: dim is 4, but 12 images of 4 classes give ridge at most 3"),
        (heads('kind = "pca"\ndim = 12'), "small: dim is 12, but 12 images of 4 classes give pca at most 11"),
        (heads('kind = "average_pool"\ndim = 9999'), "small on test_resnet: dim is 9,999, but features of"),
        (heads('kind = "multilabel"'), "small: the attribute 'colour' has one value, 'red'"),
        (
            heads('kind = "posterior"\nattributes = { names = ["color"] }'),
            "no attribute 'color'. Did you mean 'colour'",
        ),
        (heads('kind = "multilabel"\ntask = "tags"'), "small: none of 12 training records has tags"),
        (heads('kind = "pca"\ndim = 2\nbackbones = ["other"]'), "names the backbone 'other'"),
        (heads('kind = "pca"\ndim = 2\ntraining = { minimum_class_size = 5 }'), "small: a head learns to separate"),
        (
            heads('dim = 2\nloss = { kind = "arcface" }\ntraining = { sampling = { kind = "domain_weights" } }'),
            "weighs domains and needs two",
        ),
        ('[retrieval]\nmetrics = ["graded_map:x"]\nsimilar = { x = { color = 1 } }', "no attribute 'color'"),
        ('[retrieval]\nprotocol = { kind = "by_label", labels = "kind" }', "have no attribute 'kind'"),
        ('[retrieval]\nprotocol = { kind = "query_gallery" }', "a gallery apart from the queries"),
        ('[retrieval]\nprotocol = { kind = "gldv2" }', "lists anything"),
        ('[retrieval]\nprotocol = { kind = "met" }', "neighbours and temperature are tuned on validation"),
        ('[retrieval]\nmetrics = ["graded_map"]\nindex = { kind = "ivf_flat" }', "scored as rankings by label"),
        ('[retrieval]\nindex = { kind = "auto" }', "with something to find in the gallery; there are 12"),
        (
            '[retrieval]\nprotocol = { kind = "by_label" }\nmetrics = ["legacy_map@10"]\n',
            "must be the same records",
        ),
    ],
)
def test_it_is_said_before_anything_is_extracted(folder: Path, text: str, message: str) -> None:
    begin = BEGIN.replace('gallery = "test"', 'gallery = ["test", "train"]') if "legacy" in text else BEGIN
    (folder / "run.toml").write_text(begin + text)
    done = permafrost("run", "run.toml", "--quiet", cwd=folder)
    assert done.returncode != 0
    assert message in done.stderr
    assert not list(folder.glob("artifacts/features/*/rows/*"))
