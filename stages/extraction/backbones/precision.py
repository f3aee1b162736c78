"""The arithmetic of a forward: float32, TF32 or bfloat16, whatever the rest of the process has set.

TF32 multiplies float32 matrices on the tensor cores of a card with 10 bits of mantissa instead of 23, and sums in
float32; bfloat16 has 7 bits. What bfloat16 costs was measured (benchmarks/results/precision.json): up to .0024 of
mMP@5, and cosines down to .983. So ``auto`` takes TF32 on a card that has it and float32 elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal

from stages.device import Switches

Precision = Literal["auto", "float32", "tf32", "bfloat16"]
ON_A_CARD: Precision = "tf32"
_TENSOR_CORES = (8, 0)  # the first compute capability with TF32


def resolve_precision(precision: Precision, device: str) -> Precision:
    """What ``precision`` is on ``device``: ``auto`` becomes one of the others."""
    if precision != "auto":
        return precision
    if device == "cpu":
        return "float32"
    import torch

    return ON_A_CARD if torch.cuda.get_device_capability(device) >= _TENSOR_CORES else "float32"


_products, _default = Switches(), Switches()


@contextmanager
def arithmetic(precision: Precision, kind: str) -> Iterator[None]:
    """Around the launch of a forward on a device of ``kind`` (``cpu`` or ``cuda``): the same numbers in any process.

    PyTorch's switches of float32 products belong to the process, so they are set to what the identity says and then put
    back. Forwards on a CPU hold them together. Those on a card do so one at a time: a launch returns before the card
    has computed, and a network is compiled inside its first launches.
    """
    import torch

    def write() -> Callable[[], object]:
        written = _set_products(wanted, kind)

        def restore() -> None:
            for setting in reversed(written):
                setattr(*setting)

        return restore

    wanted = "tf32" if precision == "tf32" and kind == "cuda" else "ieee"
    holder = (kind, wanted, threading.get_ident() if kind == "cuda" else 0)
    with (
        default_float32(),
        _products.hold(holder, write),
        torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        yield


@contextmanager
def default_float32() -> Iterator[None]:
    """Let tensors that a library makes without saying how be float32, whatever the process has set."""
    import torch

    def write() -> Callable[[], object]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        return partial(torch.set_default_dtype, before)

    with _default.hold("float32", write):
        yield


def _set_products(wanted: str, kind: str) -> list[tuple[Any, str, Any]]:
    """Let float32 products be computed as ``wanted`` (``ieee`` or ``tf32``); what to set back, last first.

    PyTorch has a new switch an operation and an old one for all, and some of its own code refuses to read the old one
    when the two disagree. So the old one is written, which writes the new ones too, and then the new ones where they
    still differ.
    """
    import torch

    backends: Any = torch.backends
    if kind == "cuda":
        new: list[Any] = [backends.cuda.matmul, backends.cudnn.conv]
        old: list[Any] = [backends.cuda.matmul, backends.cudnn]
        fixed = {"deterministic": True, "benchmark": False}
        restore = [(backends.cudnn, name, getattr(backends.cudnn, name)) for name in fixed]
        backends.cudnn.deterministic, backends.cudnn.benchmark = True, False
    else:
        new, old, restore = [backends.mkldnn.matmul, backends.mkldnn.conv], [], []
    for switch in new:
        restore.append((switch, "fp32_precision", switch.fp32_precision))
    if all(value == wanted or (value, wanted) == ("none", "ieee") for *_, value in restore[-len(new) :]):
        return restore[: -len(new)]
    for switch in old:
        with suppress(RuntimeError):  # where the two disagree already there is nothing to put back
            restore.append((switch, "allow_tf32", switch.allow_tf32))
        switch.allow_tf32 = wanted == "tf32"
    for switch in new:
        if switch.fp32_precision != wanted:
            switch.fp32_precision = wanted
    return restore
