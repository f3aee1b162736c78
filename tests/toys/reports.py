"""The report of a small run, with hostile names, an image that failed and one that went missing, and its reader."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.dataset import Run
from pipeline.progress import Display
from pipeline.vectors import Vectors
from stages.ranking import unit_length
from stages.records import Records

HOSTILE = [
    "<script>alert(1)</script>",
    "a \"quoted\" & 'odd' </style> name",
    "plain",
    "日本語 ]]> -->",
    "{{ 7 * 7 }}",
    "x",
]
QUIET = Display(quiet=True)
RUN = """
artifacts = "{folder}/artifacts"
[dataset]
kind = "table"
path = "{folder}/labels.csv"
label = "label"
domain = "domain"
train = "train"
query = "query"
gallery = "gallery"
[[backbones]]
kind = "timm"
name = "test_resnet"
weights = "random"
preprocess = {{ size = 64 }}
[[heads]]
name = "cosface8"
dim = 8
loss = {{ kind = "cosface" }}
training = {{ epochs = 3 }}
[[heads]]
name = "lda8"
kind = "lda"
dim = 8
[retrieval]
metrics = ["mmp@5", "map@r", "hit@1"]
gallery_sizes = [0.2, 1.0]
"""


class Ran(NamedTuple):
    """A run whose stages are done."""

    folder: Path
    run: Run
    vectors: Sequence[Vectors]


class Reader(HTMLParser):
    """Reads a page, and notes everything that a browser would: unclosed tags, links, images, scripts, text."""

    _VOID = frozenset({"meta", "img", "br", "hr", "link", "input", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self._VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag == "td":
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data
            if "td" in self.open:
                self.cells[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def nearest_by_loops(vectors: Vectors, records: Records, key: str) -> list[tuple[str, float]]:
    """Keys and similarities of the gallery, nearest first, one product at a time."""
    gallery = records.split("gallery")
    usable = gallery.take(np.flatnonzero(vectors.store.usable(gallery.digests)))
    query = records.take([records.keys.index(key)])
    vector = unit_length(vectors.store.read(query.digests))[0].astype(np.float64)
    rows = unit_length(vectors.store.read(usable.digests)).astype(np.float64)
    scored = [
        (name, float(np.float32(vector @ row))) for name, row in zip(usable.keys, rows, strict=True) if name != key
    ]
    return sorted(scored, key=lambda pair: (-pair[1], usable.keys.index(pair[0])))
