"""timm and OpenCLIP, and weights: fetched or read from a file, fitted without a key left over, named by content.

The two are imported without ``torch._dynamo``, which only ``torch.compile`` needs and takes a second.
"""

from __future__ import annotations

import hashlib
import pickle
import socket
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cache.errors import AbsentWeightsError, WeightsError

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model")  # training checkpoints keep the state dict under one of these
_PARALLEL = "module."  # and DistributedDataParallel puts this before every name
_COUNTER = "num_batches_tracked"  # of batch norm in training: evaluation does not read it
_SHOWN = 4
_PATIENCE = 5.0  # seconds


@contextmanager
def fetching(what: str, source: str) -> Iterator[None]:
    """Around a library's download of ``what`` from ``source``, a URL or the name of a repository of the Hub.

    Any error but that of a wrong argument becomes a :class:`WeightsError`. Where the source's machine cannot be reached
    what is in the library's cache is used, and what is not is an error in seconds: left alone, it would take minutes.
    """
    from huggingface_hub import constants

    server = source if "://" in source else constants.ENDPOINT
    offline, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    reached = offline or _reached(server)
    if not reached:
        constants.HF_HUB_OFFLINE = True
        socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    except Exception as error:
        if isinstance(error, (TypeError, ValueError)) and not isinstance(error, OSError):
            raise
        reason = _first_line(error)
        if not reached:
            reason = f"{urlsplit(server).hostname} cannot be reached, and the library's cache does not do: {reason}"
        raise WeightsError(
            f"{what} could not be fetched from {source}: {reason} "
            'Without the internet, copy the file here and say weights = "FILE".'
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


def _reached(server: str) -> bool:
    """Whether anything answers at the URL ``server``, through the proxy that the Hub's client is set to."""
    from huggingface_hub import get_session

    answers: list[bool] = []

    def ask() -> None:
        try:
            get_session().head(server, timeout=_PATIENCE)
            answers.append(True)
        except Exception:  # noqa: BLE001 - the client's own, of either of two libraries
            answers.append(False)

    # In a thread of its own, since looking up a name heeds no timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(1.5 * _PATIENCE)
    return any(answers)


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The state dict in a ``.safetensors`` file, or in a PyTorch file that holds nothing but tensors.

    The wrappers ``{"state_dict": ...}`` and ``{"model": ...}`` and the prefix ``module.`` are taken off. Nothing in the
    file is executed.
    """
    import safetensors
    import safetensors.torch
    import torch

    path = Path(path)
    if not path.is_file():
        raise AbsentWeightsError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read as weights: {_first_line(error)} "
            "Save the network's state_dict() alone, best with safetensors.torch.save_file."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        held = list(content)[:_SHOWN] if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"{path} must hold a state dict, names and tensors; it holds {held}")
    if all(name.startswith(_PARALLEL) for name in content):
        content = {name.removeprefix(_PARALLEL): tensor for name, tensor in content.items()}
    return dict(content)


def fit_weights(
    network: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, source: str, ignore: Collection[str] = ()
) -> None:
    """Load ``weights`` into ``network``: every name of one is a name of the other, with one shape.

    Names to ``ignore`` may be left over. ``source`` is what an error calls the weights. Raises :class:`WeightsError`.
    """
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(_COUNTER)}
    spare = {name for name in weights if name.endswith(_COUNTER) or name in ignore}
    given = {name: tensor for name, tensor in weights.items() if name in own or name not in spare}
    misshapen = [
        f"{name}: {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in given and given[name].shape != tensor.shape
    ]
    misfits = [
        _listed("missing", [name for name in own if name not in given]),
        _listed("unexpected", [name for name in given if name not in own]),
        _listed("of another shape", misshapen),
    ]
    if any(misfits):
        raise WeightsError(
            f"{source} does not fit {type(network).__name__} with {len(own)} weights: "
            f"{'; '.join(filter(None, misfits))}. Check the model's name and kwargs; another input size is image_size."
        )
    counters = {name: tensor for name, tensor in network.state_dict().items() if name not in own}
    network.load_state_dict({**counters, **given}, strict=True)


def weights_bytes(network: torch.nn.Module) -> bytes:
    """A safetensors file of the state dict of ``network``."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()})


def digest_weights(network: torch.nn.Module) -> str:
    """The sha256 of all that ``network`` computes with: sorted names, dtypes, shapes and bytes; hexadecimal."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if name.endswith(_COUNTER):
            continue
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})"


_DYNAMO = "torch._dynamo"


def library(name: str) -> Any:
    """The module ``name``, ``timm`` or ``open_clip``.

    >>> library("timm").is_model("resnet18")
    True
    """
    if name in sys.modules or _DYNAMO in sys.modules:
        return import_module(name)
    with _without_dynamo():
        return import_module(name)


@contextmanager
def _without_dynamo() -> Iterator[None]:
    """While they are imported, torchvision and timm ask for two names of dynamo; here they get stand-ins.

    ``is_compile_supported`` is called where a box of a detector is pooled, ``disable`` decorates what ``torch.compile``
    leaves alone: both call dynamo itself once it is there. Any other name imports it now.
    """
    stand_in, utils = _StandIn(_DYNAMO), _StandIn(f"{_DYNAMO}.utils")
    stand_in.__dict__.update(__path__=[], disable=_disable, utils=utils)
    utils.__dict__.update(
        is_compile_supported=lambda device: import_module(utils.__name__).is_compile_supported(device)
    )
    sys.modules |= {stand_in.__name__: stand_in, utils.__name__: utils}
    try:
        yield
    finally:
        _StandIn.leave()


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # as the import itself asks for: no module has to be there
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(self.__name__), name)

    @staticmethod
    def leave() -> None:
        """Make room for the modules themselves."""
        for name, module in [*sys.modules.items()]:
            if isinstance(module, _StandIn):
                del sys.modules[name]


def _disable(function: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    if function is None:
        return partial(_disable, recursive=recursive, reason=reason)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        dynamo = sys.modules.get(_DYNAMO)
        left_alone = function if dynamo is None else dynamo.disable(function, recursive, reason=reason)
        return left_alone(*args, **kwargs)

    return call
