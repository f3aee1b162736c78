from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from cache.errors import ConfigError
from pipeline.config import parse_config
from stages.training import AdaFaceConfig, ArcFaceConfig, CosFaceConfig, MarginByClassSize, Ramp, SphereFaceConfig
from stages.training.losses.kinds import MarginSoftmaxConfig
from stages.training.losses.rules import MarginRule
from stages.training.recipe import LossConfig
from tests.oracles import losses as oracle
from tests.toys.losses import DIM, batch, by_class

SIZES = [100, 3, 10, 3, 50, 1, 17]  # in the order of the labels, which is not that of the sizes


def margins_of(setting: MarginByClassSize, sizes: list[int]) -> torch.Tensor:
    margin = MarginRule(setting, torch.tensor(sizes)).margin_of(torch.arange(len(sizes)))
    assert isinstance(margin, torch.Tensor)
    return margin


def test_the_cosine_map_is_that_of_unifex() -> None:
    given = margins_of(MarginByClassSize(0.6, 0.2), SIZES)
    torch.testing.assert_close(given, torch.tensor(oracle.cosine_margins(SIZES, 0.6, 0.2)))
    assert (given[0].item(), given[5].item()) == pytest.approx((0.2, 0.6))


def test_the_quartic_root_map_is_that_of_the_landmark_challenge() -> None:
    given = margins_of(MarginByClassSize(0.5, 0.05, map="quartic_root"), SIZES)
    torch.testing.assert_close(given, torch.tensor(oracle.quartic_root_margins(SIZES, 0.5, 0.05)))
    assert given[2].item() == pytest.approx(0.05 + 0.45 * (10**-0.25 - 100**-0.25) / (1 - 100**-0.25))


@pytest.mark.parametrize("kind", ["cosine", "quartic_root"])
def test_equal_class_sizes_get_the_middle_of_the_two_margins(kind: Any) -> None:
    assert margins_of(MarginByClassSize(0.6, 0.2, kind), [4, 4, 4]).tolist() == pytest.approx([0.4] * 3)
    assert margins_of(MarginByClassSize(0.6, 0.2, kind), [9]).tolist() == pytest.approx([0.4])


def test_a_class_without_rows_is_refused_by_its_place() -> None:
    with pytest.raises(ValueError, match=r"at least one row in each class, class 1 has 0; leave it out"):
        margins_of(MarginByClassSize(0.6, 0.2), [4, 0, 2])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6], [6, 2, 0, 5, 1, 3, 4]])
def test_margins_stand_on_their_classes_whatever_the_order_of_the_rows(order: list[int]) -> None:
    config = ArcFaceConfig(margin_rad=MarginByClassSize(0.6, 0.2))
    loss = config.build(DIM, torch.tensor(SIZES), torch.Generator().manual_seed(0))
    embeddings, _ = batch(rows=7)
    prototypes = by_class(loss.weight.tolist(), 7)
    margins = oracle.cosine_margins(SIZES, 0.6, 0.2)
    total = 0.0
    for row, label in zip(embeddings.tolist(), order, strict=True):
        target = partial(oracle.arcface_target, margin_rad=margins[label])
        total += oracle.margin_softmax([row], [label], prototypes, target, 30.0)
    assert loss(embeddings, torch.tensor(order)).item() == pytest.approx(total / 7, rel=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        CosFaceConfig(margin_cos=MarginByClassSize(0.6, 0.2)),
        AdaFaceConfig(margin=MarginByClassSize(0.6, 0.2)),
        SphereFaceConfig(margin_factor=MarginByClassSize(2.0, 1.2)),
    ],
    ids=repr,
)
def test_renaming_classes_renames_their_margins(config: MarginSoftmaxConfig) -> None:
    embeddings, labels = batch()
    renamed = torch.tensor([3, 5, 0, 6, 1, 2, 4])
    first = config.build(DIM, torch.tensor(SIZES), torch.Generator().manual_seed(0))
    sizes = torch.empty(7, dtype=torch.int64).index_copy_(0, renamed, torch.tensor(SIZES))
    second = config.build(DIM, sizes, torch.Generator().manual_seed(0))
    with torch.no_grad():
        second.weight.index_copy_(0, renamed, first.weight)
    torch.testing.assert_close(first(embeddings, labels), second(embeddings, renamed[labels]))


def test_a_ramp_moves_margin_and_scale_over_the_training() -> None:
    embeddings, labels = batch()
    ramp = ArcFaceConfig(margin_rad=Ramp(0.2, 0.8), scale=Ramp(10.0, 30.0))
    loss = ramp.build(DIM, torch.tensor(SIZES), torch.Generator().manual_seed(0))
    begins = loss(embeddings, labels)
    for share, margin, scale in [(0.0, 0.2, 10.0), (0.25, 0.35, 15.0), (1.0, 0.8, 30.0)]:
        loss.at(share)
        plain = ArcFaceConfig(margin_rad=margin, scale=scale)
        expected = plain.build(DIM, torch.tensor(SIZES), torch.Generator().manual_seed(0))(embeddings, labels)
        torch.testing.assert_close(loss(embeddings, labels), expected)
        assert share > 0 or torch.equal(begins, loss(embeddings, labels))


def test_both_ends_of_a_margin_are_checked() -> None:
    with pytest.raises(ValueError, match=r"margin_rad is an angle in radians .*, in \[0, pi\), got Ramp"):
        ArcFaceConfig(margin_rad=Ramp(0.3, 30.0))
    with pytest.raises(ValueError, match=r"margin_cos is a difference of cosines, in \[0, 1\], got MarginByClassSize"):
        CosFaceConfig(margin_cos=MarginByClassSize(0.3, -0.2))
    with pytest.raises(ValueError, match="margin_rad"):
        ArcFaceConfig(margin_rad=MarginByClassSize(math.nan, 0.2))
    with pytest.raises(ValueError, match="map is cosine or quartic_root, got 'root'"):
        MarginByClassSize(0.6, 0.2, "root")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("margin", "parsed"),
    [
        (0.3, 0.3),
        ({"start": 0.2, "end": 0.6}, Ramp(0.2, 0.6)),
        ({"smallest_class": 0.6, "largest_class": 0.2}, MarginByClassSize(0.6, 0.2)),
        (
            {"kind": "by_class_size", "smallest_class": 0.5, "largest_class": 0.05, "map": "quartic_root"},
            MarginByClassSize(0.5, 0.05, "quartic_root"),
        ),
    ],
)
def test_a_margin_is_a_number_a_ramp_or_by_class_size(margin: object, parsed: object) -> None:
    loss = TypeAdapter[Any](LossConfig).validate_python({"kind": "arcface", "margin_rad": margin})
    assert loss.margin_rad == parsed


RUN = """
artifacts = "artifacts"
dataset = { kind = "folder", path = "images" }
[[backbones]]
kind = "bundled"
name = "efficientnet_lite0"
[[heads]]
name = "one"
[heads.loss]
kind = "arcface"
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("margin_rad = { start = 0.1 }", "heads[0].loss.margin_rad.end: this key is needed"),
        ("scale = { start = 9, stop = 30 }", "heads[0].loss.scale.stop: unknown key"),
        ('margin_rad = "large"', "heads[0].loss.margin_rad: input should be a valid number"),
        (
            "margin_rad = { smallest_clas = 0.6, largest_class = 0.2 }",
            "heads[0].loss.margin_rad.smallest_clas: unknown key; did you mean smallest_class?",
        ),
    ],
)
def test_what_is_wrong_in_a_margin_is_said_by_its_path_in_the_file(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(RUN + line)
    assert message in str(error.value)
