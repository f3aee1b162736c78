"""A head of kind text: sentences and features in one space, in closed form."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cache import Identity
from cache.errors import RecordsError, SettingsError, WeightsError
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.scores import score_run, scored_data
from pipeline.searcher import Searcher
from pipeline.vectors import find_vectors
from stages.records import Records
from stages.training import ArcFaceConfig, Head, HeadRecipe, PcaHeadConfig, TextHeadConfig, head_identity, train_head
from stages.training.text.fit import _Correlation, fit_text
from stages.training.text.sentences import embed_text, encode, sentences_of
from tests.pictures import write_table
from tests.toys.training import classes_of, toy

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
KINDS = ("mug", "shirt", "shoe", "car", "lamp", "chair")
NEW = ("red car", "green lamp", "white shoe")


@pytest.fixture(scope="module", autouse=True)
def _no_network() -> None:
    """The encoder is loaded once, and asks nothing of a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something asked a network"))
        encode(["loaded once"])


def pictures(sentences: list[str], seed: int) -> torch.Tensor:
    """Features of 30 numbers: those of the colour and of the kind, and noise."""
    made = np.random.default_rng(0)
    parts = {word: made.normal(size=30) for word in (*COLOURS, *KINDS)}
    noise = np.random.default_rng(seed).normal(size=(len(sentences), 30))
    rows = np.array([sum(parts[word] for word in sentence.split()) for sentence in sentences]) + 0.5 * noise
    return torch.from_numpy(rows.astype(np.float32))


def test_combinations_that_were_never_trained_are_found_by_their_words() -> None:
    every = [f"{colour} {kind}" for colour in COLOURS for kind in KINDS]
    trained = [sentence for sentence in every if sentence not in NEW] * 4
    network, summary = fit_text(TextHeadConfig(), pictures(trained, 1), trained, [30], seed=0)
    searched = every * 3
    with torch.inference_mode():
        images = network(pictures(searched, 2))
        texts = network.text(torch.from_numpy(encode(NEW)))
    assert torch.allclose(texts.norm(dim=1), torch.ones(len(NEW)))
    for sentence, similarity in zip(NEW, (texts @ images.T).numpy(), strict=True):
        first = [searched[row] for row in np.argsort(-similarity)[:3]]
        assert first == [sentence] * 3
    assert "33 sentences that were left out" in summary


def test_the_maps_are_those_of_canonical_correlation() -> None:
    """scikit-learn has no ridge: with one near nothing the correlations are those of its own CCA."""
    from sklearn.cross_decomposition import CCA

    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 3))
    images, texts = (hidden @ rng.normal(size=(3, size)) + rng.normal(size=(400, size)) for size in (6, 5))
    maps = _Correlation(images, texts).maps(1e-9, 1e-9)
    x, y = CCA(n_components=3, tol=1e-10, max_iter=5000).fit_transform(images, texts)
    expected = [np.corrcoef(x[:, at], y[:, at])[0, 1] for at in range(3)]
    np.testing.assert_allclose(maps.correlations[:3], expected, atol=1e-4)
    ours_x, ours_y = (images - maps.image_mean) @ maps.image_map, (texts - maps.text_mean) @ maps.text_map
    for at in range(3):
        assert np.corrcoef(ours_x[:, at], ours_y[:, at])[0, 1] == pytest.approx(expected[at], abs=1e-4)
        assert abs(np.corrcoef(ours_x[:, at], x[:, at])[0, 1]) == pytest.approx(1, abs=1e-3)


def test_a_text_head_is_saved_and_follows_from_its_sentences(tmp_path: Path) -> None:
    features, records = toy(tmp_path, classes_of(12, 4))
    table = records.table.append_column("attributes.colour", pa.array([COLOURS[row % 6] for row in range(48)]))
    described = Records(table, records.roles)
    config = TextHeadConfig(dim=3, columns=("label",), folds=3)
    head = train_head(features, described, config)
    assert head.identity == head_identity(features, described, config)
    head.save(tmp_path / "head")
    again = Head.load(tmp_path / "head", head.identity)
    np.testing.assert_array_equal(embed_text(again, ["a mug"]), embed_text(head, ["a mug"]))
    older = replace(head, identity=Identity({**head.identity.fields, "encoder": "another 0123"}))
    with pytest.raises(WeightsError, match="learned from the sentence encoder another 0123, and this Permafrost has"):
        embed_text(older, ["a mug"])
    vectors = features.read(records.digests)
    np.testing.assert_array_equal(again(vectors), head(vectors))
    assert head(vectors).shape == (48, 3)
    others = Records(table.set_column(table.schema.get_field_index("label"), "label", table["label"]), records.roles)
    assert head_identity(features, others, config) == head.identity
    assert head_identity(features, described, TextHeadConfig(dim=3, columns=("colour", "label"), folds=3)) != (
        head.identity
    )


def test_what_has_no_words_is_refused(tmp_path: Path) -> None:
    features, records = toy(tmp_path, classes_of(6, 4))
    with pytest.raises(RecordsError, match="it takes 8 different ones, and 6 are made of the columns"):
        train_head(features, records, TextHeadConfig())
    with pytest.raises(RecordsError, match="there is none called 'colour'"):
        train_head(features, records, TextHeadConfig(columns=("colour",)))
    with pytest.raises(SettingsError, match="text must have a word; that at place 2 of 2 is empty"):
        encode(["red", " "])
    with pytest.raises(SettingsError, match="a head of kind pca knows no text"):
        embed_text(train_head(features, records, PcaHeadConfig(dim=2)), ["red"])
    with pytest.raises(SettingsError, match="a text head is a closed form and learns attributes: leave loss out"):
        HeadRecipe(TextHeadConfig(), ArcFaceConfig())


def test_a_record_without_an_attribute_says_less() -> None:
    table = pa.table({"label": ["a_b/c", None], "attributes.kind": ["mug", None], "attributes.colour": [None, None]})
    records = Records(table, {})
    assert sentences_of(records) == ["mug", ""]
    assert sentences_of(records, ["kind", "label"]) == ["mug a b c", ""]


def test_text_is_scored_and_searches_through_a_run_file(tmp_path: Path) -> None:
    rows = []
    for number, (colour, kind) in enumerate((colour, kind) for colour in COLOURS for kind in KINDS):
        split = "test" if f"{colour} {kind}" in NEW else "train"
        for place in range(3):
            pixels = np.random.default_rng((number, place)).integers(0, 30, (16, 16, 3))
            pixels[: 2 + 2 * KINDS.index(kind), :, COLOURS.index(colour) % 3] += 60 + 60 * (COLOURS.index(colour) // 3)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}-{place}.png")
            rows.append(
                {"path": f"{number}-{place}.png", "label": str(number), "colour": colour, "kind": kind, "split": split}
            )
    write_table(tmp_path / "labels.csv", rows)
    (tmp_path / "run.toml").write_text(
        f'artifacts = "{tmp_path}/out"\n[dataset]\nkind = "table"\npath = "{tmp_path}/labels.csv"\nlabel = "label"\n'
        'attributes = ["colour", "kind"]\ntrain = "train"\nquery = "test"\ngallery = "test"\n'
        '[[backbones]]\nkind = "pca"\ndim = 8\nsize = 8\n[[heads]]\nname = "captions"\nkind = "text"\n'
        '[retrieval]\nmetrics = ["mmp@5", "hit@1"]\n'
    )
    run = run_of(read_config(tmp_path / "run.toml"), Display(quiet=True))
    extract_features(run, Hardware())
    raw, captions = find_vectors(run, train=True)
    lines, _ = score_run(run, [raw, captions])
    texts = [line for line in lines if line.head == "captions (text)"]
    assert [(line.metric, line.queries, line.gallery) for line in texts] == [("mmp@5", 3, 9), ("hit@1", 3, 9)]
    searcher = Searcher.of_run(run, captions)
    vectors = searcher.embed_text(NEW)
    first = [matches[0] for matches in searcher.find(vectors, 1)]
    hits = np.mean(
        [
            f"{match.attributes['colour']} {match.attributes['kind']}" == name
            for match, name in zip(first, NEW, strict=True)
        ]
    )
    assert texts[1].value == pytest.approx(hits)
    with pytest.raises(SettingsError, match="this feature knows no text"):
        Searcher.of_run(run, raw).embed_text(["red car"])
    before = scored_data(run)
    for row in rows:
        row["colour"] = {"red": "blue", "blue": "red"}.get(row["colour"], row["colour"])
    write_table(tmp_path / "labels.csv", rows)
    after = scored_data(run_of(read_config(tmp_path / "run.toml"), Display(quiet=True)))
    assert {key for key in before if before[key] != after[key]} == {"captions"}
