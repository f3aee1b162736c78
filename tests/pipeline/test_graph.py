"""One file from pixels to the embedding: what it gives without Permafrost is what the embedder gives."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from cache import Identity
from cache.errors import ConfigError, SettingsError
from pipeline.bundle import Bundle
from pipeline.bundle.graph import exportable_head
from pipeline.bundle.graph_files import ENDINGS, Format, write_graph
from stages.extraction import (
    Embedder,
    PcaBasis,
    PcaConfig,
    PreprocessConfig,
    TimmConfig,
    ViewsConfig,
    load_backbone,
    load_backbones,
)
from stages.extraction.backbones import Backbone
from stages.ranking import unit_length
from stages.training import (
    BatchNormHeadConfig,
    Head,
    InputsConfig,
    LinearHeadConfig,
    MlpHeadConfig,
    PosteriorHeadConfig,
    TrainingSummary,
)
from stages.training.heads.networks import Experts, Gate, HeadNetwork, Inputs
from stages.training.multilabel.posterior import PosteriorNetwork
from tests.typed import CATALOGUE, finished, permafrost

SHAPES = [(90, 133), (133, 90), (64, 64), (73, 74), (2, 300), (300, 2), (1, 30), (201, 203), (333, 500), (3, 3)]
TOO_LONG = (2, 6_000_000 // 64)

RUN = """
import json, sys
import numpy as np

path, images, vectors = sys.argv[1:]
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    embed = lambda image: session.run(None, {"image": image})[0]
else:
    import torch
    torch.set_num_threads(1)
    module = torch.export.load(path).module() if path.endswith(".pt2") else torch.jit.load(path)
    embed = lambda image: module(torch.from_numpy(image)).numpy()
rows, problems = [], {}
for name, image in np.load(images).items():
    try:
        rows.append(embed(image))
    except Exception as error:
        problems[name] = str(error)
np.save(vectors, np.stack(rows))
print(json.dumps(problems))
assert not {"pipeline", "stages", "cache", "timm"} & {*sys.modules}
"""


def backbones(seed: int, **preprocess: object) -> list[Backbone]:
    settings = PreprocessConfig(**({"size": 64, "crop_pct": 0.875} | preprocess))  # type: ignore[arg-type]
    return list(load_backbones(TimmConfig("test_resnet", weights="random", seed=seed, preprocess=settings)))


def inputs(blocks: list[int], generator: torch.Generator, **settings: object) -> Inputs:
    made = Inputs(InputsConfig(**settings), blocks)  # type: ignore[arg-type]
    made.mean = torch.randn(sum(blocks), generator=generator) / 50
    made.spread = torch.tensor(0.3)
    return made


def head_of(config: object, network: HeadNetwork) -> Head:
    identity, summary = Identity({"features": "drawn"}), TrainingSummary(9, 3, 0, 0, 1, "drawn")
    return Head.of(config, identity, network, summary)  # type: ignore[arg-type]


def experts(blocks: list[int]) -> Head:
    """Three experts, and a gate that sends images to more than one of them."""
    generator = torch.Generator().manual_seed(5)
    config = LinearHeadConfig(dim=10)
    steps = inputs(blocks, generator, unit=True)
    gate = Gate(steps, torch.randn(2, steps.dim, generator=generator), torch.zeros(2), torch.eye(3, 2))
    single = [replace(config, dim=8).build(blocks, generator) for _ in range(3)]
    return head_of(config, Experts(gate, single))


def png(image: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def pictures() -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in SHAPES]


def run_alone(path: Path, images: list[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.float32], dict[str, str]]:
    """The vectors that the file gives in a process without Permafrost, and the images that it refuses."""
    planes = {str(row): image.transpose(2, 0, 1) for row, image in enumerate(images)}
    np.savez(path.parent / "images.npz", **planes)  # type: ignore[arg-type]
    typed = [sys.executable, "-I", "-W", "ignore", "-c", RUN, path.name, "images.npz", "vectors.npy"]
    done = subprocess.run(typed, cwd=path.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(path.parent / "vectors.npy"), json.loads(done.stdout)


@pytest.fixture(scope="module")
def joined() -> Embedder:
    """Two networks of different preprocessing, one over mirror images too, proportions, and experts."""
    both = [
        *backbones(0, views=ViewsConfig("flip", average=True)),
        *backbones(1, size=48, resize="squash", interpolation="bilinear"),
    ]
    head = experts([*(backbone.dim for backbone in both), 3])
    return Embedder(both, sizes=True, head=head)


@pytest.mark.slow
@pytest.mark.parametrize("form", ENDINGS)
def test_it_gives_without_permafrost_what_the_embedder_gives(form: Format, joined: Embedder, tmp_path: Path) -> None:
    path = tmp_path / f"joined{ENDINGS[form]}"
    write_graph(joined, path, form, {"embeddings": "these"})
    images = pictures()
    given, problems = run_alone(path, images)
    assert not problems
    wanted = np.concatenate([joined.embed([png(image)]).vectors for image in images])
    assert given.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, atol=1e-6)
    if form == "onnx":
        assert np.einsum("ne,ne->n", given.astype(float), wanted).min() > 0.9999
    else:
        np.testing.assert_array_equal(given, wanted)


@pytest.mark.slow
def test_of_a_raw_feature_the_unit_vector_that_is_searched_and_a_strip_is_refused(tmp_path: Path) -> None:
    embedder = Embedder(backbones(2, crop_pct=1.0), dtype="float32")
    write_graph(embedder, tmp_path / "raw.pt", "torchscript", {})
    images = pictures()
    given, problems = run_alone(tmp_path / "raw.pt", [*images, np.zeros((*TOO_LONG, 3), np.uint8)])
    wanted = np.concatenate([unit_length(embedder.embed([png(image)]).vectors) for image in images])
    np.testing.assert_array_equal(given, wanted)
    assert [*problems] == [str(len(images))]
    assert "more than 16,777,216 pixels" in problems[str(len(images))]


def posterior() -> PosteriorNetwork:
    generator = torch.Generator().manual_seed(1)
    network = PosteriorNetwork(inputs([16], generator, unit=True, rescale="unit"), width=1.0)
    network.landmarks = torch.randn(6, 16, generator=generator) / 4
    network.weight, network.bias = torch.randn(6, 5, generator=generator), torch.zeros(5)
    network.sizes, network.several = torch.tensor([2, 3]), torch.tensor([0, 1])
    network.factors, network.temperature = torch.tensor([1.0, 0.5]), torch.tensor(0.2)
    network.axes = torch.randn(16, 2, generator=generator)
    return network


DRAWN = torch.Generator().manual_seed(0)
HEADS = {
    "mlp": head_of(MlpHeadConfig(dim=4, hidden=(8,)), MlpHeadConfig(dim=4, hidden=(8,)).build([16], DRAWN)),
    "batchnorm": head_of(BatchNormHeadConfig(dim=4), BatchNormHeadConfig(dim=4).build([16], DRAWN)),
    "posterior": head_of(PosteriorHeadConfig(dim=7), posterior()),
    "experts": experts([16]),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_this_kind_gives_the_same_bits_when_exported(name: str) -> None:
    head = HEADS[name]
    rows = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)
    program = torch.export.export(exportable_head(head), (torch.from_numpy(rows[:1]),), strict=False).module()
    for row in rows:
        given = program(torch.from_numpy(row[None]))
        np.testing.assert_array_equal(given.numpy(), head(row[None]))


def pca() -> Backbone:
    return load_backbone(
        PcaConfig(dim=2, size=2), basis=PcaBasis(np.zeros(12, np.float32), np.eye(12, dtype=np.float32)[:2])
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": "longest"}, "resize = 'longest' is not: shorter and squash are"),
        ({"interpolation": "lanczos"}, "bilinear and bicubic are"),
        ({"views": ViewsConfig("crops", average=True)}, "views of kind flip, and none, are"),
    ],
)
def test_what_has_no_form_outside_is_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"^test_resnet cannot be exported to one file: .*{message}"):
        write_graph(Embedder(backbones(0, **settings)), tmp_path / "x.pt", "torchscript", {})
    assert not [*tmp_path.iterdir()]


def test_pca_bfloat16_and_heads_of_other_code_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="pca cannot be exported to one file: it is no network of a library"):
        write_graph(Embedder([pca()]), tmp_path / "x.pt", "torchscript", {})
    half = load_backbones(TimmConfig("test_resnet", weights="random", precision="bfloat16"))
    with pytest.raises(SettingsError, match="float32 and tf32 are"):
        write_graph(Embedder(half), tmp_path / "x.pt", "torchscript", {})
    with pytest.raises(SettingsError, match=r"exported from stages\.training\.Head, got function"):
        write_graph(
            Embedder(backbones(0), head=lambda rows: rows.astype(np.float32)), tmp_path / "x.pt", "torchscript", {}
        )


def test_another_ending_and_a_missing_extra_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder([pca()])
    with pytest.raises(ConfigError, match=r"--format export writes a file that ends in \.pt2, got .*x\.pt"):
        write_graph(embedder, tmp_path / "x.pt", "export", {})
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"takes onnxscript: pip install 'permafrost-retrieval\[export\]'"):
        write_graph(embedder, tmp_path / "x.onnx", "onnx", {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_a_run_and_its_bundle_are_exported_to_the_same_file(tmp_path: Path) -> None:
    finished(tmp_path, CATALOGUE + '[[heads]]\nname = "lda"\nkind = "lda"\ndim = 4\n')
    assert permafrost("export", "run.toml", "-o", "bundle", cwd=tmp_path).returncode == 0
    notes, vectors = [], []
    (image,) = pictures()[:1]
    for source in ("run.toml", "bundle"):
        done = permafrost("export", source, "--format", "torchscript", "-o", "x.pt", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        line = json.loads(done.stdout)
        assert line["cosine"] > 0.99999
        assert line["bytes"] == (tmp_path / "x.pt").stat().st_size
        extra = {"permafrost.json": ""}
        module = torch.jit.load(tmp_path / "x.pt", _extra_files=extra)  # type: ignore[no-untyped-call]
        notes.append(json.loads(extra["permafrost.json"]))
        vectors.append(module(torch.from_numpy(image.transpose(2, 0, 1))).numpy())
    bundle = Bundle.open(tmp_path / "bundle")
    note = {"backbone": "test_resnet", "head": "lda", "embeddings": bundle.embeddings, "dim": 4}
    assert notes == [note, note]
    for vector in vectors:
        np.testing.assert_array_equal(vector, bundle.embedder().embed([png(image)]).vectors[0])
    refused = {
        ("run.toml", "--all"): "a file of --format has no images",
        ("bundle", "--head", "lda"): "is a bundle, which has one head",
    }
    for (source, *flags), message in refused.items():
        done = permafrost("export", source, *flags, "--format", "torchscript", "-o", "y.pt", cwd=tmp_path)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    done = permafrost("export", "bundle", "-o", "other", cwd=tmp_path)
    assert "bundle is a bundle already" in done.stderr
