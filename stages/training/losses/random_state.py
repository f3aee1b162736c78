"""Random numbers of a loss, whose state is saved with its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RandomState(nn.Module):
    """A ``generator``, seeded by one draw from another, whose state is in ``state_dict``.

    A resumed run continues with the same numbers. The generator is on the CPU wherever the weights are.
    """

    def __init__(self, seeded_by: torch.Generator) -> None:
        super().__init__()
        self.generator = torch.Generator()
        seed = torch.empty((), dtype=torch.int64).random_(generator=seeded_by)
        self.generator.manual_seed(int(seed))

    def get_extra_state(self) -> Tensor:
        """What :meth:`set_extra_state` takes, bytes."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Continue from where ``state`` was taken."""
        self.generator.set_state(state.cpu())
