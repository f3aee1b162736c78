"""The text tower of an open_clip model: words in the space that projected image features are in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.extraction.backbones.libraries import library
from stages.extraction.backbones.open_clip import TOWER, OpenClipConfig, has_projection, quiet_root_logger
from stages.extraction.backbones.weights import fetching, fit_weights, read_weights

if TYPE_CHECKING:
    from torch import nn


class OpenClipText:
    """Words as the model of ``config`` embeds them; it is loaded when it is first called.

    ``weights`` is a file that :meth:`weights_bytes` made. Raises SettingsError where the features of ``config`` are not
    in the space of words: before the projection, of another pooling, or of random weights.
    """

    def __init__(self, config: OpenClipConfig, device: str = "cpu", weights: Path | None = None) -> None:
        self.config, self._device, self._weights = config, device, weights

    def __call__(self, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors (n, E), of unit length, of ``sentences``."""
        import torch

        network = self._network
        tokenizer = library("open_clip").get_tokenizer(self.config.name)
        with torch.inference_mode():
            tokens = tokenizer(list(sentences)).to(self._device)
            vectors: npt.NDArray[np.float32] = network.encode_text(tokens, normalize=True).float().cpu().numpy()  # type: ignore[operator]
        return vectors

    def weights_bytes(self) -> bytes:
        """A safetensors file of the text tower."""
        from safetensors.torch import save

        state = self._network.state_dict()
        return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})

    @cached_property
    def _network(self) -> nn.Module:
        import torch
        from open_clip.convert import convert_state_dict

        config, open_clip = self.config, library("open_clip")
        if config.pooling is not None or config.weights == "random":
            what = "random weights know no words" if config.weights == "random" else "pooled tokens are not among words"
            raise SettingsError(f"{config.name}: {what}; a head of kind text learns them")
        with quiet_root_logger():
            if config.pretrained and self._weights is None:
                with fetching(f"the weights {config.pretrained!r} of {config.name}", "huggingface.co"):
                    model = open_clip.create_model(config.name, pretrained=config.pretrained, **config.kwargs)
            else:
                model = open_clip.create_model(config.name, pretrained_text=False, **config.kwargs)
        if has_projection(model.visual) and not config.projection:
            raise SettingsError(
                f"the features of {config.name} are those before the projection into the space of words: set "
                "projection = true for a backbone that knows text, or train a head of kind text"
            )
        file = self._weights or (None if config.pretrained else Path(config.weights or ""))
        state = None if file is None else convert_state_dict(model, read_weights(file))
        model.visual = torch.nn.Identity()
        if state is not None:
            text = {name: tensor for name, tensor in state.items() if not name.startswith(TOWER)}
            fit_weights(model, text, source=str(file))
        network: nn.Module = model.eval().to(self._device)
        return network


def own_text(config: object, output: object, device: str = "cpu", weights: Path | None = None) -> OpenClipText | None:
    """The text tower beside the feature ``output`` of the backbone ``config``; None where it surely has none."""
    if not isinstance(config, OpenClipConfig) or (config.projection == "both" and output != "projected"):
        return None
    return OpenClipText(config, device, weights)
