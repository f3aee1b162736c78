"""Image towers of open_clip: CLIP, SigLIP, CoCa and others, before the projection into the space shared with text.

What ``projection = false`` leaves out, and the feature that remains:

==================  =============================  =================================================
tower               left out                       feature
==================  =============================  =================================================
VisionTransformer   ``visual.proj``                the pooled token (CoCa: the attention pool's)
timm, own head      ``visual.head.proj`` or mlp    the trunk's pooled output (ConvNeXt, ViTamin, Swin)
timm, trunk's head  the trunk's classifier         the trunk's pooled output (EVA, PE, MobileCLIP)
timm, none          nothing                        ``encode_image`` itself (SigLIP)
ResNet              ``attnpool.c_proj``            the attention pool's output, 2048 wide for RN50
==================  =============================  =================================================

With ``projection = "both"`` one forward gives that feature and, by what is left out, the projected one.
With ``pooling`` the tokens or the map before all that are pooled another way.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.extraction.backbones.frozen import Backbone, StoredNetwork, freeze
from stages.extraction.backbones.network_config import NetworkConfig, resize_open_clip, sized
from stages.extraction.backbones.pooling import Compute, Output, pool_outputs, tap_open_clip
from stages.extraction.backbones.weights import fetching, fit_weights, library, read_weights, weights_bytes
from stages.extraction.preprocess import Preprocess, Resize

if TYPE_CHECKING:
    import torch
    from torch import nn

TOWER = "visual."
_RESIZE: dict[str, Resize] = {"shortest": "shorter", "squash": "squash", "longest": "longest"}
_LISTED = ("mean", "std", "interpolation", "resize_mode")  # what a tag's entry says about preprocessing
# A text tower that costs nothing, where only the image tower is wanted.
_SMALL_TEXT = {"context_length": 4, "vocab_size": 4, "width": 8, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class OpenClipConfig(NetworkConfig):
    """An image tower of open_clip, as a :class:`~stages.extraction.backbones.network_config.NetworkConfig`.

    A file of ``weights`` holds the whole model or the image tower alone (OpenAI's belong to the ``-quickgelu`` names,
    which a file cannot say).

    Args:
        projection: take the vector of the space shared with text, not the pooled output before it; ``both``: a feature
            of each, of one forward.
    """

    ours = (
        "pretrained", "load_weights", "precision", "device", "jit", "text_cfg", "output_dict", "force_preprocess_cfg",
    )  # fmt: skip
    size_keyword = "force_image_size"

    kind: Literal["open_clip"] = "open_clip"
    pretrained: str | None = None
    projection: bool | Literal["both"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projection and self.pooling is not None:
            raise SettingsError(
                f"projection of {self.name} belongs to open_clip's own pooling: leave out projection or pooling"
            )


def load(config: OpenClipConfig, device: str, stored: StoredNetwork | None = None) -> tuple[Backbone, ...]:
    """The image tower of ``config`` on ``device``, a backbone for each pooling; with weights of a ``stored`` one."""
    check_name(config)
    tower = _tower(config if stored is None else replace(config, pretrained=None, weights="random"))
    name = f"{config.name}.{config.pretrained}" if config.pretrained else config.name
    preprocess = own_preprocess(config, tower) if stored is None else stored.preprocess
    size, fitted = config.image_size, False
    if size is not None and _own_size(tower) != (size, size):
        name = f"{name}-{size}px"
        fitted = resize_open_clip(tower, size, name=config.name)
    network, projects, compute = tower, has_projection(tower), None
    outputs = [Output("", {"output": "projected" if projects and config.projection else "pooled"})]
    if config.projection == "both":
        if not projects:
            raise SettingsError(
                f"{config.name} has no projection, its one feature is in the space of words: leave projection out"
            )
        network, outputs, compute = _both(tower)
    elif projects and not config.projection:
        _take_projection(tower)
    if config.pooling is not None:
        tap = tap_open_clip(tower, config.layer, name=config.name)
        outputs, compute = pool_outputs(config.name, tap, config.pooling, config.gem_p)
    return freeze(
        network,
        preprocess,
        config,
        name=name,
        library="open_clip",
        outputs=outputs,
        compute=compute,
        image_size=size if fitted else None,
        device=device,
        stored=stored,
    )


def check_name(config: OpenClipConfig) -> None:
    """Refuse what open_clip does not know, or would only warn about."""
    open_clip = library("open_clip")
    settings = None if ":" in config.name else open_clip.get_model_config(config.name)
    if settings is None:
        near = difflib.get_close_matches(config.name, open_clip.list_models(), n=3)
        hint = f"{', '.join(near)}?" if near else "open_clip.list_models() lists all"
        raise SettingsError(f"open_clip has no model {config.name!r}: {hint}")
    if not config.pretrained:
        return
    tag = open_clip.get_pretrained_cfg(config.name, config.pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(config.name)
        raise SettingsError(
            f"open_clip has no weights {config.pretrained!r} for {config.name}; tags: {', '.join(tags)}"
        )
    quick = bool(settings.get("quick_gelu") or config.kwargs.get("force_quick_gelu"))
    if quick != bool(tag.get("quick_gelu")):
        other = config.name.removesuffix("-quickgelu") if quick else f"{config.name}-quickgelu"
        raise SettingsError(
            f"the weights {config.pretrained!r} were trained {'without' if quick else 'with'} QuickGELU and "
            f"{config.name} runs {'with' if quick else 'without'} it: say name = {other!r}"
        )


def _model(config: OpenClipConfig, **small: Any) -> Any:  # an nn.Module with a tower ``visual``
    """The model of ``config`` with the weights of its tag; where it has none, with the towers that ``small`` says."""
    create = library("open_clip").create_model
    with quiet_root_logger():
        if not config.pretrained:
            return create(config.name, pretrained_text=False, **small, **config.kwargs)
        listed = library("open_clip").get_pretrained_cfg(config.name, config.pretrained)
        with fetching(f"the weights {config.pretrained!r} of {config.name}", listed["hf_hub"] or listed["url"]):
            return create(config.name, pretrained=config.pretrained, **config.kwargs)


def _tower(config: OpenClipConfig) -> nn.Module:
    import torch
    from open_clip.convert import convert_state_dict

    small: dict[str, Any] = {"text_cfg": _SMALL_TEXT}
    if "multimodal_cfg" in library("open_clip").get_model_config(config.name):
        small["multimodal_cfg"] = _SMALL_TEXT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _model(config, **small)
    tower = _visual(model)
    if not config.pretrained and config.weights != "random":
        path = Path(config.weights or "")
        state = convert_state_dict(model, read_weights(path))
        whole = {name.removeprefix(TOWER): tensor for name, tensor in state.items() if name.startswith(TOWER)}
        fit_weights(tower, whole or state, source=str(path))
    return tower


def _visual(model: nn.Module) -> nn.Module:
    tower = model.get_submodule("visual")
    if hasattr(tower, "output_tokens"):
        setattr(tower, "output_tokens", False)  # noqa: B010 - CoCa: the pooled vector alone
    return tower


def has_projection(tower: nn.Module) -> bool:
    """Whether ``tower`` ends in a projection into the space shared with text that can be left out."""
    import torch
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    if isinstance(tower, TimmModel):
        inside = getattr(tower.trunk, "num_classes", 0) > 0
        return inside or bool({"proj", "mlp"} & set(dict(tower.head.named_children())))
    if isinstance(tower, ModifiedResNet):
        return True
    return isinstance(getattr(tower, "proj", None), torch.nn.Parameter)


def _both(tower: nn.Module) -> tuple[nn.Module, list[Output], Compute]:
    """A network of ``tower`` and its projection apart, with the feature before the projection and the one after."""
    import torch

    projection = _take_projection(tower)

    def compute(images: torch.Tensor) -> list[torch.Tensor]:
        pooled = tower(images)
        return [pooled, projection(pooled)]

    outputs = [Output("", {"output": "pooled"}, tower), Output("projected", {"output": "projected"})]
    return torch.nn.ModuleDict({"tower": tower, "projection": projection}), outputs, compute


def _take_projection(tower: nn.Module) -> nn.Module:
    """Take the projection out of ``tower``: the module from its pooled output (B, D) to (B, E)."""
    import torch
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    if isinstance(tower, TimmModel):
        trunk, head = tower.trunk, dict(tower.head.named_children())
        projection = [head.pop(name) for name in [*head] if name in ("proj", "mlp")]
        if getattr(trunk, "num_classes", 0) > 0:
            projection.insert(0, trunk.get_classifier())
            trunk.reset_classifier(0)
        head.pop("drop", None)
        tower.head = torch.nn.Sequential(*head.values())
        return torch.nn.Sequential(*projection)
    if isinstance(tower, ModifiedResNet):
        pool: nn.Module = tower.attnpool.c_proj
        # The pool reads the weight itself: only a projection on itself leaves its output alone.
        same = torch.nn.Linear(tower.attnpool.c_proj.in_features, tower.attnpool.c_proj.in_features)
        torch.nn.init.eye_(same.weight)
        torch.nn.init.zeros_(same.bias)
        tower.attnpool.c_proj = same
        return pool
    matrix = tower.get_parameter("proj").detach()  # (D, E)
    linear = torch.nn.Linear(matrix.shape[0], matrix.shape[1], bias=False)
    linear.weight = torch.nn.Parameter(matrix.T.contiguous())
    tower.register_parameter("proj", None)
    return linear


def own_preprocess(config: OpenClipConfig, tower: nn.Module) -> Preprocess:
    """The preprocessing listed for the tag; for a file, which lists none, what all tags of the model have in common."""
    own = dict(getattr(tower, "preprocess_cfg"))  # noqa: B009 - set by open_clip, unknown to nn.Module
    if not config.pretrained:
        for setting, values in _listed_for(config.name).items():
            ours = "resize" if setting == "resize_mode" else setting
            if len(values) == 1:
                own[setting] = values[0]
            elif values and config.weights != "random" and getattr(config.preprocess, ours) is None:
                raise SettingsError(
                    f"weights of {config.name} were trained with {setting} {' or '.join(map(str, values))}, "
                    f"and a file does not say which: give preprocess.{ours}"
                )
    height, width = _own_size(tower)
    changed = sized(config.preprocess, config.image_size)
    if height != width and changed.size is None:
        raise SettingsError(
            f"{config.name} takes {height} x {width}; Permafrost's images are square: give preprocess.size"
        )
    return changed.resolve(
        size=height,
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
        resize=_RESIZE[own["resize_mode"]],
        interpolation="bilinear" if own["interpolation"] == "bilinear" else "bicubic",
        fill=(own["fill_color"],) * 3,
    )


def _own_size(tower: nn.Module) -> tuple[int, int]:
    size = getattr(tower, "preprocess_cfg")["size"]  # noqa: B009 - set by open_clip, unknown to nn.Module
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _listed_for(name: str) -> dict[str, list[Any]]:
    """For each setting of the preprocessing, the different values that the tags of a model list."""
    open_clip = library("open_clip")
    entries = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    return {setting: sorted({entry[setting] for entry in entries}) for setting in _LISTED}


@contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Silence open_clip's warning to the root logger, and the handler that it would install there for good."""
    root, silence = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(silence)
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(silence)


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
        return weights_bytes(self._network)

    @cached_property
    def _network(self) -> nn.Module:
        import torch
        from open_clip.convert import convert_state_dict

        config = self.config
        if config.pooling is not None or config.weights == "random":
            what = "random weights know no words" if config.weights == "random" else "pooled tokens are not among words"
            raise SettingsError(f"{config.name}: {what}; a head of kind text learns them")
        model = _model(config if self._weights is None else replace(config, pretrained=None, weights="frozen"))
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
