"""Sampling: which rows an epoch visits, and which of them make a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cache.errors import SettingsError
from cache.settings import Settings, Within

Rows = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]

_FLOOR = 0.1  # of an epoch's rows, which all domains have in equal parts
BLOCK_ROWS, WINDOW_BLOCKS = 1024, 64
"""A block shuffle of rows on disk: whole blocks are shuffled, and the rows within a window of so many blocks."""


@dataclass
class Sampler:
    """``epoch`` gives the rows (B,) of each batch of an epoch; every epoch has ``steps`` batches."""

    steps: int
    epoch: Callable[[np.random.Generator], list[Rows]]


@dataclass(frozen=True)
class ShuffledConfig(Settings):
    """Every row once an epoch, in random order."""

    kind: Literal["shuffled"] = "shuffled"


@dataclass(frozen=True)
class ByLossConfig(Settings):
    """``classes_by_images`` for a loss on pairs of rows, ``shuffled`` for others."""

    kind: Literal["by_loss"] = "by_loss"


@dataclass(frozen=True)
class BalancedConfig(Settings):
    """As many rows an epoch as there are, of a class of n rows in proportion to n ** ``power``.

    0 is class-balanced, 0.5 square-root, 1 by rows. The rows of a class come in random order, without replacement
    until all have come.

    Args:
        power: 0 is class-balanced, 0.5 square-root, 1 by rows.
    """

    kind: Literal["balanced"] = "balanced"
    power: Annotated[float, Within("[0, 1]", "0 for equal shares to 1 for shares by size")] = 0.0


@dataclass(frozen=True)
class ClassesByImagesConfig(Settings):
    """P classes of K = ``images`` rows each in every batch, P * K = batch_size.

    Classes come in random order, without replacement until all have come, and so do the rows of a class. A class of
    fewer than K rows repeats them; ``training.minimum_class_size`` leaves such classes out.

    Args:
        images: K, the rows of a class in a batch.
    """

    kind: Literal["classes_by_images"] = "classes_by_images"
    images: Annotated[int, Within("[1, inf]", "the number of rows of a class in a batch")] = 4


@dataclass(frozen=True)
class OneDomainConfig(Settings):
    """Every batch from one domain, the domains round robin: a row of a small domain is visited more often.

    The rows of a domain come in random order, without replacement until all have come. With a single domain this is
    ``shuffled``.
    """

    kind: Literal["one_domain"] = "one_domain"


@dataclass(frozen=True)
class DomainWeightsConfig(Settings):
    """Mixed batches; the share of a domain grows after an epoch in which its validation score is below the others'.

    With l_d = 1 - mMP@5 on the validation queries of domain d (0 where there is none)::

        w_d <- w_d * exp(l_d - sum_e w_e l_e), scaled to sum to 1
        share of d in the next epoch = 0.9 w_d + 0.1 / domains

    w begins at the domains' shares of the rows (the multiplicative weights of group DRO, Sagawa et al., ICLR 2020).
    Where held-out classes choose the epoch, the training on all classes repeats the shares of the first training.
    """

    kind: Literal["domain_weights"] = "domain_weights"


SamplingConfig: TypeAlias = Annotated[
    ByLossConfig | ShuffledConfig | BalancedConfig | ClassesByImagesConfig | OneDomainConfig | DomainWeightsConfig,
    Field(discriminator="kind"),
]


def build_sampler(
    config: SamplingConfig, labels: Rows, domains: Rows, batch_size: int, *, blocks: bool = False
) -> Sampler:
    """The sampler of rows with ``labels`` (N,) and ``domains`` (N,), both integers from 0 without a gap.

    ``blocks`` makes the order of ``shuffled`` one that reads rows from disk in long stretches (:func:`block_order`).
    """
    steps = -(-len(labels) // batch_size)
    match config:
        case ByLossConfig():
            raise SettingsError(
                "the sampling by_loss must be replaced by what suits the loss first: HeadRecipe.sampling"
            )
        case ShuffledConfig():
            order = block_order if blocks else lambda rows, rng: rng.permutation(rows)
            return Sampler(steps, lambda rng: cut(order(len(labels), rng), batch_size))
        case BalancedConfig():
            decks, shares = _Decks(labels), powered(np.bincount(labels), config.power)
            return Sampler(steps, lambda rng: cut(decks.deal_shares(shares, rng), batch_size))
        case ClassesByImagesConfig():
            return _classes_by_images(_Decks(labels), batch_size // config.images, config.images)
        case OneDomainConfig():
            return _one_domain(_Decks(domains), batch_size)
        case DomainWeightsConfig():
            return DomainWeighted(domains, batch_size)


class DomainWeighted(Sampler):
    """See :class:`DomainWeightsConfig`. ``weights`` (domains,) are w, ``shares`` those of the next epoch."""

    def __init__(self, domains: Rows, batch_size: int) -> None:
        decks = _Decks(domains)
        super().__init__(
            -(-len(domains) // batch_size), lambda rng: cut(decks.deal_shares(self.shares, rng), batch_size)
        )
        self.weights = self.shares = powered(np.bincount(domains), 1.0)
        self.move_to(self.weights)

    def move_to(self, weights: Shares) -> None:
        """Set w."""
        self.weights = weights
        self.shares = (1 - _FLOOR) * weights + _FLOOR / len(weights)

    def move(self, losses: Shares) -> None:
        """Move w after an epoch by the ``losses`` l (domains,)."""
        grown = self.weights * np.exp(losses - self.weights @ losses)
        self.move_to(grown / grown.sum())


def _classes_by_images(decks: _Decks, classes: int, images: int) -> Sampler:
    classes = min(classes, decks.groups)  # a batch holds a class once
    steps = -(-decks.rows // (classes * images))

    def epoch(rng: np.random.Generator) -> list[Rows]:
        wanted, chosen = steps * classes, np.empty(0, np.int64)
        while len(chosen) < wanted:
            deck = rng.permutation(decks.groups)
            missing = -len(chosen) % classes
            open_batch = chosen[len(chosen) - (classes - missing) :] if missing else chosen[:0]
            again = np.isin(deck, open_batch)  # not twice in the batch that two decks share
            chosen = np.concatenate([chosen, deck[~again][:missing], deck[again], deck[~again][missing:]])
        chosen = chosen[:wanted]
        counts = np.bincount(chosen, minlength=decks.groups) * images
        places = (np.cumsum(counts) - counts)[chosen] + occurrence(chosen) * images
        dealt = decks.deal(counts, rng)[places[:, None] + np.arange(images)]
        return cut(dealt.reshape(-1), classes * images)

    return Sampler(steps, epoch)


def _one_domain(decks: _Decks, batch_size: int) -> Sampler:
    turns = max(1, round(decks.rows / decks.groups / batch_size))  # batches of each domain

    def epoch(rng: np.random.Generator) -> list[Rows]:
        dealt = decks.deal(np.full(decks.groups, turns * batch_size), rng)
        batches = dealt.reshape(decks.groups, turns, batch_size)
        order = np.argsort(rng.permutation(decks.groups))  # of the domains within a round
        return list(batches[order].swapaxes(0, 1).reshape(-1, batch_size))

    return Sampler(turns * decks.groups, epoch)


class _Decks:
    """The rows of each group, dealt without replacement until all of the group have been dealt."""

    def __init__(self, groups: Rows) -> None:
        self._sizes = np.bincount(groups)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._groups = groups
        self.groups, self.rows = len(self._sizes), len(groups)

    def deal(self, counts: Rows, rng: np.random.Generator) -> Rows:
        """``counts`` (groups,) rows of each group, group after group, those of a group in random order."""
        order = np.lexsort((rng.random(len(self._groups)), self._groups))
        group = np.repeat(np.arange(self.groups), counts)
        return order[self._starts[group] + occurrence(group) % self._sizes[group]]

    def deal_shares(self, shares: Shares, rng: np.random.Generator) -> Rows:
        """As many rows as there are, in random order, of each group its share of ``shares`` (groups,)."""
        counts = apportion(self.rows, shares, rng)
        return rng.permutation(self.deal(counts, rng))


def block_order(rows: int, rng: np.random.Generator) -> Rows:
    """A permutation (N,) of ``rows`` rows in which neighbours come from ``WINDOW_BLOCKS`` random blocks of rows.

    Blocks of ``BLOCK_ROWS`` neighbouring rows are shuffled, and then the rows within each window of blocks.
    """
    blocks = rng.permutation(-(-rows // BLOCK_ROWS))
    windows = []
    for chosen in cut(blocks, WINDOW_BLOCKS):
        window = (chosen[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).reshape(-1)
        windows.append(rng.permutation(window[window < rows]))
    return np.concatenate(windows)


def powered(sizes: Rows, power: float) -> Shares:
    """The share (groups,) of each group of ``sizes`` rows, in proportion to size ** ``power``."""
    weight = sizes.astype(np.float64) ** power
    return np.asarray(weight / weight.sum())


def apportion(rows: int, shares: Shares, rng: np.random.Generator) -> Rows:
    """How many of ``rows`` each group gets (groups,): its share rounded down or up, by one random offset for all."""
    edges = np.floor(np.cumsum(shares) * rows + rng.random())
    edges[-1] = rows
    return np.diff(edges, prepend=0.0).astype(np.int64)


def occurrence(values: Rows) -> Rows:
    """How many equal values come before each of ``values`` (n,)."""
    order = np.argsort(values, kind="stable")
    sizes = np.bincount(values)
    result = np.empty_like(order)
    result[order] = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return result


def cut(rows: Rows, size: int) -> list[Rows]:
    """``rows`` in pieces of ``size``; the last may be shorter."""
    return [rows[low : low + size] for low in range(0, len(rows), size)]
