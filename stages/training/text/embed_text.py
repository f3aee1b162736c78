"""Text to the embeddings of a head that has a text side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError, WeightsError
from stages.training.head import Head
from stages.training.text.sentences import ENCODER, encode


def embed_text(head: Head, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
    """The embeddings (n, E) of ``sentences``, of unit length.

    Raises SettingsError for a head that knows no text, WeightsError for one that learned from another encoder.
    """
    if head.config.kind != "text":
        raise SettingsError(f"a head of kind {head.config.kind} knows no text: train one of kind text beside it")
    if (encoder := head.identity.fields["encoder"]) != ENCODER:
        raise WeightsError(
            f"the head learned from the sentence encoder {encoder}, and this Permafrost has {ENCODER}: its words would "
            "be read wrongly. Train it again, or install the version of Permafrost that trained it."
        )
    import torch

    from stages.training.text.network import TextNetwork

    network = cast("TextNetwork", head.network)
    with torch.inference_mode():
        embeddings: npt.NDArray[np.float32] = network.text(torch.from_numpy(encode(sentences))).numpy()
    return embeddings
