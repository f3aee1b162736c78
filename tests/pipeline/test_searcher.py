"""Search by image: what a store holds for an image is what a search for its bytes computes."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache import LocalStorage, Storage, parse_source
from cache.errors import MissingRowsError, RecordsError, SettingsError
from pipeline.bundle.export import export_bundle
from pipeline.config import HeadRun, parse_config, read_config
from pipeline.dataset import Run, run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.scores import json_lines, rows_key, score_run, values_key
from pipeline.searcher import Searcher
from pipeline.thresholds import keep_decisions, kept_decisions
from pipeline.vectors import Vectors, choose_vectors, find_vectors
from stages.analysis.thresholds import choose_thresholds
from stages.extraction import PcaConfig
from stages.records import Records
from stages.retrieval.gallery_rows import Match
from stages.retrieval.query_values import read_query_values
from stages.training import PcaHeadConfig
from stages.training.recipe import HeadRecipe
from tests.pictures import draw_folder, write_table
from tests.toys.storage import MemoryStorage

ROOT = Path(__file__).parent.parent.parent
QUIET = Display(quiet=True)
PCA = '[[backbones]]\nkind = "pca"\ndim = 8\nsize = 16\n'
LDA = '[[heads]]\nname = "lda"\nkind = "lda"\ndim = 4\n'


def network(views: str = "", blocks: str = "") -> str:
    views = f", views = {{ {views} }}" if views else ""
    backbone = f'kind = "timm"\nname = "test_resnet"\nweights = "random"\n{blocks}\n'
    return f"[[backbones]]\n{backbone}preprocess = {{ size = 64{views} }}\n"


FLIP = 'kind = "flip", average = true'
RUNS = {
    "one view": network() + LDA,
    "flip averaged": network(FLIP) + LDA,
    "flip stored": network('kind = "flip"') + LDA,
    "crops averaged": network('kind = "crops", count = 3, average = true') + LDA,
    "two blocks fused": network(FLIP, "blocks = [-2, -1]") + LDA + 'backbones = "all"\n',
    "network and pca fused, with sizes": network() + PCA + LDA + 'backbones = "all"\nsizes = true\n',
    "float32": network() + LDA + '[extraction]\ndtype = "float32"\n',
    "trained": PCA + '[[heads]]\nname = "small"\ndim = 4\nloss = { kind = "cosface" }\ntraining = { epochs = 2 }\n',
    "codes": network() + LDA + '[retrieval]\nindex = { kind = "scalar" }\n',
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("images"), {f"class {number}": 6 for number in range(10)})


def embedded(text: str, images: Path, folder: Path) -> tuple[Run, list[Vectors]]:
    dataset = f'[dataset]\nkind = "folder"\npath = "{images}"\nqueries_per_class = 2\n'
    config = parse_config(f'artifacts = "{folder}/artifacts"\n{dataset}{text}')
    run = run_of(config, QUIET)
    extract_features(run, Hardware())
    return run, find_vectors(run, train=True)


def check_finds_itself(searcher: Searcher, records: Records, *, exact: bool = False) -> None:
    """Each image of ``records`` is found under its own key, at a similarity of 1 within rounding."""
    sources = [parse_source(uri) for uri in records.uris]
    contents = [source.read() for source in sources]
    answers = searcher.search(contents, 3, boxes=[source.box for source in sources], exact=exact)
    for key, matches in zip(records.keys, answers, strict=True):
        assert matches[0].similarity >= 0.9999
        assert key in [match.key for match in matches if match.similarity >= matches[0].similarity - 1e-4]


@pytest.mark.parametrize("name", RUNS)
def test_an_image_of_the_store_finds_itself(name: str, images: Path, tmp_path: Path) -> None:
    run, vectors = embedded(RUNS[name], images, tmp_path)
    assert len(vectors) >= 2
    for entry in vectors:
        searcher = Searcher.of_run(run, entry)
        check_finds_itself(searcher, run.records.split("gallery"), exact=name == "codes")


def test_an_image_finds_itself_through_its_domains_expert(tmp_path: Path) -> None:
    rows = []
    for number in range(32):  # dark images and bright ones
        domain, split = ("dark", "bright")[number % 2], "train" if number < 24 else "test"
        for place in range(4):
            path = tmp_path / f"{number}-{place}.png"
            pixels = np.random.default_rng(100 * number + place).integers(0, 60, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels + np.uint8(180 * (number % 2))).resize((32, 32)).save(path)
            rows.append({"path": path.name, "label": f"class {number}", "domain": domain, "split": split})
    write_table(tmp_path / "labels.csv", rows)
    head = '[[heads]]\nname = "within"\nkind = "within"\ndim = 6\ntraining = { experts = true }\n'
    config = parse_config(
        f'artifacts = "{tmp_path}/artifacts"\n[dataset]\npath = "{tmp_path}/labels.csv"\nlabel = "label"\n'
        f'domain = "domain"\ntrain = "train"\nquery = "test"\ngallery = "test"\n{PCA}{head}'
    )
    run = run_of(config, QUIET)
    extract_features(run, Hardware())
    vectors = find_vectors(run, train=True)[-1]
    assert vectors.trained is not None
    assert type(vectors.trained.network).__name__ == "Experts"
    check_finds_itself(Searcher.of_run(run, vectors), run.records.split("gallery"))


@pytest.fixture(scope="module")
def coloured(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Searcher]]:
    """Searchers of 60 records with attributes, through a flat index and through one of codes."""
    folder = tmp_path_factory.mktemp("coloured")
    rows = [
        {
            "path": str(path),
            "label": path.parent.name,
            "colour": ("red", "blue", "")[place % 3],
            "shop": ("north", "south")[place % 2],
            "split": "test",
        }
        for place, path in enumerate(sorted(images.rglob("*.png")))
    ]
    write_table(folder / "labels.csv", rows)
    dataset = (
        f'[dataset]\npath = "{folder}/labels.csv"\nlabel = "label"\nattributes = ["colour"]\ndomain = "shop"\n'
        'query = "test"\ngallery = "test"\n'
    )
    searchers = {}
    for kind in ("flat", "scalar"):
        config = parse_config(
            f'artifacts = "{folder}/{kind}"\n{dataset}{network()}[retrieval]\nindex = {{ kind = "{kind}" }}\n'
        )
        run = run_of(config, QUIET)
        extract_features(run, Hardware())
        export_bundle(run, find_vectors(run)[0], folder / f"{kind} bundle")
        searchers[kind] = Searcher.open(folder / f"{kind} bundle")
    return run, searchers


@pytest.mark.parametrize("kind", ["flat", "scalar"])
def test_a_filtered_search_is_the_whole_ranking_without_what_is_filtered_out(
    kind: str, coloured: tuple[Run, dict[str, Searcher]]
) -> None:
    run, searcher = coloured[0], coloured[1][kind]
    wanted = run.records.keys[7]
    ranking = searcher.find(searcher.vectors_of([wanted]), 60, exact=True)[0]
    assert ranking[0].key == wanted
    assert len(ranking) == 60
    filters: list[tuple[dict[str, list[str | None]], list[Match]]] = [
        ({"colour": ["red"]}, [m for m in ranking if m.attributes["colour"] == "red"]),
        ({"colour": ["red", None]}, [m for m in ranking if m.attributes["colour"] in ("red", None)]),
        ({"label": ["class 3", "class 4"]}, [m for m in ranking if m.label in ("class 3", "class 4")]),
        ({"domain": ["north"], "colour": ["blue"]}, [m for m in ranking if m[4:] == ("north", {"colour": "blue"})]),
    ]
    for where, expected in filters:
        assert 5 < len(expected) < 60
        for size in (3, 1000):
            matches = searcher.find(searcher.vectors_of([wanted]), size, where=where, exact=True)[0]
            similar = pytest.approx([match.similarity for match in expected[:size]], abs=1e-6)
            assert [match.similarity for match in matches] == similar
            assert {m.key for m in matches} == {m.key for m in expected[:size]} or kind == "scalar"
        mask = np.isin(np.array(searcher.gallery.table["key"]), [match.key for match in expected])
        assert (
            searcher.find(searcher.vectors_of([wanted]), 9, where=mask)[0]
            == (searcher.find(searcher.vectors_of([wanted]), 9, where=where)[0])
        )


@pytest.mark.parametrize("kind", ["flat", "scalar"])
def test_pages_follow_one_another(kind: str, coloured: tuple[Run, dict[str, Searcher]]) -> None:
    searcher = coloured[1][kind]
    query = searcher.vectors_of(coloured[0].records.keys[:2])
    whole = searcher.find(query, 60)
    for row in (0, 1):
        pages = [searcher.find(query, 25, offset=offset)[row] for offset in (0, 25, 50, 75)]
        assert [len(page) for page in pages] == [25, 25, 10, 0]
        assert [match for page in pages for match in page] == whole[row]


@pytest.mark.parametrize("kind", ["flat", "scalar"])
def test_the_vector_of_a_key_is_that_of_its_image(kind: str, coloured: tuple[Run, dict[str, Searcher]]) -> None:
    run, searcher = coloured[0], coloured[1][kind]
    records = run.records.take([5, 2])
    embedded = searcher.embed([*(parse_source(uri).read() for uri in records.uris), b"no image"])
    stored = searcher.vectors_of(records.keys)
    np.testing.assert_allclose(np.asarray(embedded.vectors[:2], np.float32), stored, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-6)
    assert np.isnan(embedded.vectors[2]).all()
    assert embedded.problems == {2: "not an image that Pillow can read"}


def test_a_question_that_cannot_be_answered_names_what_can(coloured: tuple[Run, dict[str, Searcher]]) -> None:
    searcher = coloured[1]["flat"]
    query = searcher.vectors_of(coloured[0].records.keys[:1])
    for where, message in (
        ({"color": ["red"]}, "no column 'color'; did you mean 'colour'\\?; filter by colour, label, domain"),
        ({"colour": ["rad"]}, "no gallery image has the colour 'rad'; did you mean 'red'\\?"),
        ({"label": ["zzz"]}, "no gallery image has the label 'zzz'$"),
        ({"colour": "red"}, "the values of colour to filter by are a list, got 'red' alone"),
    ):
        with pytest.raises(SettingsError, match=message):
            searcher.find(query, where=where)
    for k, offset in ((0, 0), (-3, 0), (1, -1)):
        with pytest.raises(SettingsError, match=f"k must be at least 1 and offset at least 0, got {k} and {offset}"):
            searcher.find(query, k, offset=offset)
    with pytest.raises(MissingRowsError, match="no row of key 'nobody'; the gallery has 60 others"):
        searcher.vectors_of(["nobody"])


class Elsewhere(Run):
    """A run whose scores, thresholds and trials are kept in memory."""

    memory = MemoryStorage()

    @property
    def storage(self) -> Storage:
        return self.memory


def test_what_is_read_again_is_written_to_the_storage_and_to_no_folder(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images", {f"class {number}": 4 for number in range(30)})
    local, vectors = embedded(PCA + LDA, images, tmp_path)
    run = Elsewhere(local.file, local.config, local.records, local.display)
    before = LocalStorage(run.artifacts).list()
    for key in before:
        run.storage.put(key, LocalStorage(run.artifacts).read(key))
    head = vectors[-1]
    rows, values = score_run(run, vectors)
    decisions, _, limits = choose_thresholds(head.store, run.records, 0, [("fmr", 0.1)])
    keep_decisions(run, head, decisions, limits)
    Searcher.of_run(run, head)
    written = {key.partition("/")[0] for key in set(run.storage.list()) - set(before)}
    assert written == {"indexes", "scores", "thresholds"}
    assert read_query_values(run.storage, values_key(run)).table.equals(values.table)
    assert run.storage.read(rows_key(run)).decode() == json_lines(rows)
    assert [decision["wanted"] for decision in kept_decisions(run, head)] == [0.1]
    assert LocalStorage(run.artifacts).list() == before


def test_bytes_that_are_no_image_are_refused(images: Path, tmp_path: Path) -> None:
    run, vectors = embedded(PCA, images, tmp_path)
    searcher = Searcher.of_run(run, vectors[0])
    with pytest.raises(RecordsError, match="image 2 of 2 to search for cannot be read"):
        searcher.search([(images / "class 1/0.png").read_bytes(), b"no image"])


# Between them these have blocks, averaged mirror images, fusions, image sizes and PCA; `make check-search` takes all.
_FEW = ("cars_best", "grocery", "guiec_fifth", "three")
RUN_FILES = [
    path
    for path in sorted((ROOT / "runs").glob("*.toml"))
    if path.stem in _FEW or os.environ.get("PERMAFROST_EVERY_RUN")
]


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_photographs_find_themselves_with_the_backbones_of_every_run_file(
    path: Path, photographs: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Some photographs of each run, its backbones and their fusions, and a head on each that is quick to fit."""
    if "PERMAFROST_WEIGHTS" in path.read_text(encoding="utf-8") and not os.environ.get("PERMAFROST_WEIGHTS"):
        pytest.skip("PERMAFROST_WEIGHTS names no folder with weights")
    config = replace(read_config(path), artifacts=str(tmp_path))
    if not all(Path(dataset.path).exists() for dataset in config.datasets):
        pytest.skip("its photographs are not here")
    sets = dict.fromkeys((head.backbones, head.sizes) for head in config.heads)
    heads = [
        HeadRun(f"pca{at}", HeadRecipe(PcaHeadConfig(dim=4)), backbones=names, sizes=sizes)
        for at, (names, sizes) in enumerate(sets)
    ]
    backbones = [replace(entry, dim=8) if isinstance(entry, PcaConfig) else entry for entry in config.backbones]
    config = replace(config, backbones=tuple(backbones), heads=tuple(heads), repeat=None, sweep=None)
    digests = tmp_path_factory.getbasetemp() / "digests"  # files that several runs list are read once
    every = run_of(replace(config, artifacts=str(digests)), QUIET).records
    rows = [row for role in ("train", "gallery") for row in _some_of(every, every.split(role), 40)]
    run = Run(path, config, every.take(sorted({*rows})), QUIET)
    extract_features(run, Hardware())
    for entry in find_vectors(run, train=True):
        check_finds_itself(Searcher.of_run(run, entry), run.records.split("gallery").take(range(20)))


def _some_of(every: Records, part: Records, count: int) -> list[int]:
    """The places in ``every`` of ``count`` records of ``part``, two of a class where it has two, then others."""
    place = {key: row for row, key in enumerate(every.keys)}
    seen: Counter[str | None] = Counter()
    earlier = []
    for name in part.classes:
        earlier.append(seen[name])
        seen[name] += 1
    names = part.classes
    order = sorted(range(len(part)), key=lambda row: (seen[names[row]] < 2, earlier[row] > 1, str(names[row]), row))
    return [place[part.keys[row]] for row in order[:count]]


def test_the_head_that_is_best_on_validation_is_searched_with_and_not_the_last(tmp_path: Path) -> None:
    images = tmp_path / "images"  # each class has a colour of its own
    for number in range(60):
        (images / str(number)).mkdir(parents=True)
        colour = np.random.default_rng(number).integers(20, 235, 3)
        for place in range(4):
            noise = np.random.default_rng((number, place)).integers(-9, 9, (16, 16, 3))
            Image.fromarray((colour + noise).astype(np.uint8)).save(images / f"{number}/{place}.png")
    poor = '[[heads]]\nname = "poor"\nkind = "average_pool"\ndim = 1\n'
    for text, best in ((PCA + LDA + poor, "lda"), (PCA + poor + LDA, "lda"), (PCA + poor, "poor"), (PCA, "raw")):
        run, vectors = embedded(text, images, tmp_path)
        assert len(set(run.records.split("validation_query").classes)) >= 5
        assert choose_vectors(run, vectors, None).head == best
