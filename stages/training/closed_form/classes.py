"""The classes of training rows: which row is of which, how large they are, and what each weighs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Classes:
    """C classes of N rows. One label in two domains is two classes, as it is when retrieval is scored.

    Attributes:
        of_row: the class (N,) of each row, int64 in [0, C).
        sizes: rows (C,) of each class, int64, at least 1.
        domains: the domain (C,) of each class, int64 in [0, number of domains).
    """

    of_row: Tensor
    sizes: Tensor
    domains: Tensor

    @classmethod
    def of(cls, labels: Tensor, domains: Tensor) -> Classes:
        """The classes of rows with ``labels`` (N,) and ``domains`` (N,), integers of any value."""
        _, domains = torch.unique(domains, return_inverse=True)
        pairs, of_row, sizes = torch.unique(
            torch.stack([domains, labels]), dim=1, return_inverse=True, return_counts=True
        )
        return cls(of_row, sizes, pairs[0])

    @property
    def rows(self) -> int:
        """N."""
        return len(self.of_row)

    @property
    def count(self) -> int:
        """C."""
        return len(self.sizes)

    def row_weights(self) -> Tensor:
        """What a row of each class weighs (C,), float64, when every domain is to weigh the same; over all rows, 1."""
        rows = torch.bincount(self.domains, self.sizes.double())
        return (1 / (len(rows) * rows))[self.domains]

    def class_weights(self) -> Tensor:
        """What each class weighs (C,), float64, when every domain is to weigh the same; their sum is 1."""
        classes = torch.bincount(self.domains).double()
        return (1 / (len(classes) * classes))[self.domains]

    def take(self, rows: Tensor) -> Classes:
        """The classes of ``rows`` (n,), positions, numbered anew."""
        return Classes.of(self.of_row[rows], self.domains[self.of_row[rows]])
