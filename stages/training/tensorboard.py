"""The log of epochs as TensorBoard events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.errors import MissingExtraError
from stages.training.head import EpochLog


@contextmanager
def epoch_events(folder: Path | None) -> Iterator[Callable[[EpochLog], None]]:
    """A function for ``on_epoch`` that writes an epoch's log as events in ``folder``; with None it writes nothing.

    Tags are ``<phase>/loss``, ``lr``, ``validation_mmp5``, ``pairs``, ``zero_share``, ``hardness`` and
    ``domain_weights/<domain>``, with the member's number after the phase in a soup of several, and an expert's domain
    before it.

    Raises MissingExtraError where TensorBoard is not installed.

    >>> with epoch_events(None) as write:
    ...     write(EpochLog("train", 1, loss=2.5, lr=1e-3, validation_mmp5=None, seconds=0.1))
    """
    if folder is None:
        yield lambda _: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "tensorboard") from None
    make: Any = SummaryWriter  # its library has no types

    def write(epoch: EpochLog) -> None:
        phase = epoch.phase if epoch.member == 1 else f"{epoch.phase} {epoch.member}"
        phase = phase if epoch.expert is None else f"{epoch.expert}/{phase}"
        names = ("loss", "lr", "validation_mmp5", "pairs", "zero_share", "hardness")
        numbers = {name: getattr(epoch, name) for name in names}
        numbers |= {f"domain_weights/{name}": share for name, share in (epoch.domain_weights or {}).items()}
        for name, number in numbers.items():
            if number is not None:
                writer.add_scalar(f"{phase}/{name}", number, epoch.epoch)
        writer.flush()

    with make(str(folder)) as writer:
        yield write
