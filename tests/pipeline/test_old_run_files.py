"""Run files written for 0.1.0: each still parses, or the message says what holds without the key that is gone.

The run files in ``runs/``, the presets and all but one of the documents' tables are those of 0.1.0 still, and are
parsed by ``test_config.py`` and ``test_readme.py``.
"""

from __future__ import annotations

import pytest

from cache.errors import ConfigError
from pipeline.config import parse_config

RUN = """
artifacts = "artifacts/x"
dataset = { kind = "folder", path = "images" }
backbones = [{ kind = "bundled" }]
"""

ONE_PASS = """
artifacts = "artifacts/x"
dataset = { kind = "folder", path = "images" }
[[backbones]]
kind = "timm"
name = "vit_base_patch14_reg4_dinov2"
pretrained = "lvd142m"
image_size = 224
pooling = ["cls", "gem"]
layer = -2
precision = "bfloat16"
compiled = true
preprocess = { decoder = "exact", views = { kind = "crops", count = 4 } }
"""

HEAD = """
[[heads]]
name = "head"
kind = "linear"
loss = { kind = "arcface" }
"""


def test_the_table_of_0_1_0_that_is_no_longer_in_the_documents_parses() -> None:
    (backbone,) = parse_config(ONE_PASS).backbones
    assert backbone.kind == "timm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN + "[repeat]\nqueries = 6\n", r"repeat\.queries: unknown key: .* shows 8 queries\. Leave it out"),
        (
            RUN + HEAD + '[heads.training.sampling]\nkind = "one_domain"\npower = 0.5\n',
            r"sampling\.power: unknown key for kind = 'one_domain': every domain .* Leave it out",
        ),
        (
            RUN + HEAD + '[heads.training.sampling]\nkind = "domain_weights"\nstep = 0.5\n',
            r"sampling\.step: unknown key for kind = 'domain_weights': .* a step of 1\. Leave it out",
        ),
        (
            RUN + HEAD + '[heads.training.sampling]\nkind = "domain_weights"\nfloor = 0.2\n',
            r"sampling\.floor: unknown key for kind = 'domain_weights': .* 0\.1 of the rows .* Leave it out",
        ),
        (
            RUN + '[[heads]]\nname = "tags"\nkind = "multilabel"\ndropout = 0.1\n',
            r"heads\[0\]\.dropout: unknown key for kind = 'multilabel': the network has none\. Leave it out",
        ),
        (
            RUN.replace('path = "images"', 'path = "images", label = "label"'),
            r"dataset\.label: unknown key for kind = 'folder': the label of an image is its folder\. Leave it out",
        ),
        (
            RUN.replace('path = "images"', 'path = "images", domain = "shop"'),
            r"dataset\.domain: unknown key for kind = 'folder'; other kinds take it \(.*table.*\), so leave it out",
        ),
    ],
)
def test_a_key_that_is_gone_says_what_holds_without_it(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text)
