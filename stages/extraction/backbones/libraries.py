"""timm and OpenCLIP, imported without ``torch._dynamo``, which only ``torch.compile`` needs and takes a second."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, wraps
from importlib import import_module
from types import ModuleType
from typing import Any

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
