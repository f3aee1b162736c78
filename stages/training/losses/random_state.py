"""Random numbers of a loss, whose state is saved with its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Draws(nn.Module):
    """A ``generator`` of its own, seeded by one draw from another: its state is in ``state_dict``, so a resumed run
    goes on with the same numbers. It lives on the CPU wherever the weights are.
    """  # noqa: D205  # one sentence

    def __init__(self, seeded_by: torch.Generator) -> None:
        super().__init__()
        self.generator = torch.Generator()
        seed = torch.empty((), dtype=torch.int64).random_(generator=seeded_by)
        self.generator.manual_seed(int(seed))

    def get_extra_state(self) -> Tensor:
        """What :meth:`set_extra_state` takes, bytes."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on where ``state`` was taken."""
        self.generator.set_state(state.cpu())
