"""The command search: images, words and keys, alone and together, filtered, with what a similarity means."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache.errors import ConfigError, MissingRowsError, RecordsError, SettingsError
from pipeline.bundle.export import export_bundle
from pipeline.commands.search import search
from pipeline.commands.threshold import threshold
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.searcher import Searcher
from pipeline.thresholds import kept_decisions, kept_shares
from pipeline.vectors import find_vectors
from stages.analysis.open_set import comparisons
from stages.analysis.pair_shares import pair_shares, share_at
from stages.retrieval.query_set import QuerySet
from stages.retrieval.terms import combined
from tests.pictures import write_table

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
KINDS = ("mug", "shirt", "shoe", "car", "lamp", "chair")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of pictures with a colour and a kind, a head that knows text, thresholds, and a bundle of it."""
    folder = tmp_path_factory.mktemp("search")
    rows = []
    for number, (colour, kind) in enumerate((colour, kind) for colour in COLOURS for kind in KINDS):
        split = "test" if number % 2 else "train"
        for place in range(4):
            pixels = np.random.default_rng((number, place)).integers(0, 30, (16, 16, 3))
            pixels[: 2 + 2 * KINDS.index(kind), :, COLOURS.index(colour) % 3] += 60 + 60 * (COLOURS.index(colour) // 3)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}-{place}.png")
            name = {"path": f"{number}-{place}.png", "label": f"{colour} {kind}", "split": split}
            rows.append({**name, "colour": colour, "kind": kind})
    write_table(folder / "labels.csv", rows)
    (folder / "run.toml").write_text(
        f'artifacts = "{folder}/out"\n[dataset]\nkind = "table"\npath = "{folder}/labels.csv"\nlabel = "label"\n'
        'attributes = ["colour", "kind"]\ntrain = "train"\nquery = "test"\ngallery = "test"\n'
        '[[backbones]]\nkind = "pca"\ndim = 8\nsize = 8\n[[heads]]\nname = "captions"\nkind = "text"\n'
    )
    run = run_of(read_config(folder / "run.toml"), Display(quiet=True))
    extract_features(run, Hardware())
    vectors = find_vectors(run, train=True)[-1]
    threshold(folder / "run.toml", fmr=[0.1], head="captions", quiet=True)
    export_bundle(run, vectors, folder / "bundle", decisions=kept_decisions(run, vectors))
    return folder


Answers = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> Answers:
    def lines(*images: str, bundle: bool = False, **options: Any) -> list[dict[str, Any]]:
        capsys.readouterr()
        search(folder / ("bundle" if bundle else "run.toml"), list(images), json=True, quiet=True, **options)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return lines


def test_terms_are_one_query_in_the_direction_of_their_weighed_sum(folder: Path, answers: Answers) -> None:
    run = run_of(read_config(folder / "run.toml"), Display(quiet=True))
    searcher = Searcher.of_run(run, find_vectors(run)[-1])
    image, other = folder / "1-0.png", folder / "9-2.png"
    like, unlike = "3-1.png", "5-1.png"
    parts = [*searcher.embed([image.read_bytes(), other.read_bytes()]).vectors, searcher.embed_text(["red mug"])[0]]
    parts += [*searcher.vectors_of([like, unlike])]
    total = parts[0] + parts[1] + parts[2] + parts[3] - 0.5 * parts[4]
    gallery = {key: searcher.vectors_of([key])[0] for key in searcher.gallery.keys if key not in (like, unlike)}
    expected = sorted(gallery, key=lambda key: -float(gallery[key] @ total))[:7]
    lines = answers(str(image), str(other), text=["red mug"], like=[like], unlike=[unlike], k=7)
    assert [line["key"] for line in lines] == expected
    assert {line["image"] for line in lines} == {f"{image} + {other} + 'red mug' + {like} - {unlike}"}
    similar = [float(gallery[key] @ total) / np.linalg.norm(total) for key in expected]
    assert [line["similarity"] for line in lines] == pytest.approx(similar, abs=1e-4)


def test_each_image_is_a_query_unless_they_are_taken_together(folder: Path, answers: Answers) -> None:
    images = [str(folder / name) for name in ("1-0.png", "9-2.png")]
    assert [line["image"] for line in answers(*images, k=1)] == images
    assert [line["image"] for line in answers(*images, k=1, together=True)] == [" + ".join(images)]


@pytest.mark.parametrize("bundle", [False, True])
def test_words_find_what_they_name_among_what_may_be_found(answers: Answers, bundle: bool) -> None:
    lines = answers(text=["green shirt"], where=["colour=green", "colour=blue", "kind=shirt"], k=100, bundle=bundle)
    assert {line["label"] for line in lines} == {"green shirt", "blue shirt"}
    assert len(lines) == 8


def test_a_bundle_answers_as_its_run_does(folder: Path, answers: Answers) -> None:
    options = {"text": ["red car"], "like": ["3-1.png"], "fmr": 0.1}
    assert answers(bundle=True, **options) == answers(**options)


def test_what_a_similarity_means_is_the_share_of_pairs_that_match(folder: Path, answers: Answers) -> None:
    run = run_of(read_config(folder / "run.toml"), Display(quiet=True))
    vectors = find_vectors(run)[-1]
    shares = kept_shares(kept_decisions(run, vectors))
    assert [step.share for step in shares] == sorted(step.share for step in shares)
    assert min(step.pairs for step in shares) >= 30
    (line,) = answers(like=["3-1.png"], k=1)
    step = share_at(line["similarity"], shares)
    assert step is not None
    assert (line["share"], line["pairs"]) == (round(step.share, 4), step.pairs)
    part = run.records.split("query")
    compared = comparisons(vectors.store, QuerySet.in_store(vectors.store, part, part))
    rows = vectors.store.read(part.digests).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [
        (float(rows[a] @ rows[b]), part.labels[a] == part.labels[b])
        for a in range(len(part))
        for b in range(len(part))
        if a != b
    ]
    steps = pair_shares(compared)
    for at, each in enumerate(steps):  # counted one by one
        high = steps[at + 1].similarity if at + 1 < len(steps) else 2.0
        inside = [match for similarity, match in pairs if each.similarity <= similarity + 1e-7 < high + 1e-7]
        assert abs(len(inside) - each.pairs) <= 2
        assert abs(sum(inside) - each.matched) <= 2


def test_a_page_holds_its_pictures_and_asks_for_nothing(folder: Path, answers: Answers, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    answers(str(folder / "1-0.png"), html=page, k=3, where=["kind=shirt"])
    text = page.read_text(encoding="utf-8")
    sources: list[str] = []

    class Sources(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            sources.extend(str(value) for name, value in attributes if name in ("src", "href"))

    Sources().feed(text)
    assert len(sources) == 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "pairs this similar match" in text
    assert "<script" not in text


def test_what_cannot_be_answered_says_why(folder: Path, answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    image = str(folder / "1-0.png")
    for error, message, images, options in (
        (ConfigError, "nothing to search for: give an image, --text or --like", [], {}),
        (SettingsError, "needs something to be like", [], {"unlike": ["3-1.png"]}),
        (MissingRowsError, "no row of key 'nobody'", [], {"like": ["nobody"]}),
        (ConfigError, "--where takes COLUMN=VALUE, such as colour=red, got 'red'", [image], {"where": ["red"]}),
        (SettingsError, "no column 'color'; did you mean 'colour'", [image], {"where": ["color=red"]}),
        (SettingsError, "a feature of images alone knows no text", [], {"text": ["red"], "head": "raw"}),
        (RecordsError, "a query of several terms takes all of them", [image, str(tmp_path / "text.jpg")],
         {"together": True}),
        (ConfigError, "has one gallery and the head captions", [image], {"bundle": True, "head": "raw"}),
        (MissingRowsError, "no threshold is kept for fpir 0.3, only for fmr 0.1", [image],
         {"bundle": True, "fpir": 0.3}),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            answers(*images, **options)


def test_terms_that_cancel_out_are_refused() -> None:
    with pytest.raises(SettingsError, match="cancel out"):
        combined(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), [1.0, -0.5, -0.5])


def test_without_a_calibration_nothing_is_shown_and_a_line_says_how_to_get_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(folder / "run.toml", [str(folder / "1-0.png")], head="raw", k=1)
    printed = capsys.readouterr()
    assert "%" not in printed.out
    assert "what a similarity means is not known here: `permafrost threshold RUN.TOML` calibrates it" in printed.err
