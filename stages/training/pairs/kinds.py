"""The losses on pairs and proxies, a class of settings for each. Loads without torch.

Adding a loss is its class here, its name in ``PairLosses``, and its case in ``build.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from cache.errors import SettingsError
from cache.settings import Settings
from stages.training.losses.settings import Scheduled, ends
from stages.training.pairs.miner_kinds import FARTHEST, AllConfig, AllOrMinedConfig, DistanceWeightedConfig, MinerConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.training.pairs.loss import PairLoss


@dataclass(frozen=True)
class PairLossConfig(Settings):
    """The settings of a loss on pairs or proxies: a subclass with a ``kind`` and what is its own.

    ``of_pairs`` says that the loss needs several rows of a class in a batch: with the sampling ``by_loss`` batches are
    classes x images.
    """

    of_pairs: ClassVar[bool] = True

    def build(self, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
        """The loss of embeddings (B, ``dim``) for classes of ``class_sizes`` (C,) training rows."""
        from stages.training.pairs.build import build

        return build(self, dim, class_sizes, generator)


@dataclass(frozen=True)
class RememberingConfig(PairLossConfig):
    """The settings of a loss that can look beyond the batch.

    Args:
        memory: how many embeddings of earlier batches each batch is compared with besides itself, without gradient
            (cross-batch memory); 0 for none.
    """

    memory: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.memory < 0:
            raise SettingsError(f"memory is a number of embeddings of earlier batches, at least 0, got {self.memory}")


def check_dist(name: str, setting: Scheduled) -> None:
    """Raise ValueError unless ``setting`` is a distance of vectors of unit length."""
    if not all(0 <= value <= FARTHEST for value in ends(setting)):
        raise SettingsError(f"{name} is a distance of embeddings of unit length, in [0, 2], got {setting}")


@dataclass(frozen=True)
class ContrastiveConfig(RememberingConfig):
    """Contrastive loss: the mean of the positive pairs' losses and that of the negative ones', each of those above 0.

    Args:
        margin_dist: negatives are pushed to this distance.
        positive_margin_dist: positives are drawn to this distance.
        miner: which pairs.
    """

    kind: Literal["contrastive"] = "contrastive"
    margin_dist: Scheduled = 1.2
    positive_margin_dist: Scheduled = 0.0
    miner: AllOrMinedConfig = AllConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dist("margin_dist", self.margin_dist)
        check_dist("positive_margin_dist", self.positive_margin_dist)


@dataclass(frozen=True)
class MarginConfig(RememberingConfig):
    """Margin loss: [margin + d - beta]_+ of positive pairs, [margin + beta - d]_+ of negative ones.

    The sum over both, divided by how many are above 0.

    Args:
        margin_dist: how far on its side of beta a pair is to lie, a distance.
        beta_dist: the distance beta that training begins with.
        beta: ``one`` for all classes, ``by_class`` one for each, or ``fixed``.
        beta_weight: of beta itself in the loss, which keeps it small.
        miner: which pairs.
    """

    kind: Literal["margin"] = "margin"
    margin_dist: Scheduled = 0.2
    beta_dist: float = 1.2
    beta: Literal["one", "by_class", "fixed"] = "one"
    beta_weight: float = 0.0
    miner: MinerConfig = DistanceWeightedConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dist("margin_dist", self.margin_dist)
        if not 0 < self.beta_dist < FARTHEST:
            raise SettingsError(
                f"beta_dist is a distance of embeddings of unit length, in (0, 2), got {self.beta_dist}"
            )
        if self.beta not in ("one", "by_class", "fixed"):
            raise SettingsError(f"beta is one, by_class or fixed, got {self.beta!r}")
        if not 0 <= self.beta_weight < math.inf:
            raise SettingsError(f"beta_weight is at least 0 and finite, got {self.beta_weight}")
        if self.beta_weight and self.beta == "fixed":
            raise SettingsError("beta_weight keeps a learned beta small; this one is fixed: leave beta_weight out")


@dataclass(frozen=True)
class MultiSimilarityConfig(RememberingConfig):
    """Multi-similarity loss: the mean over the rows of

    log(1 + sum_p exp(-a (c_p - t))) / a + log(1 + sum_n exp(b (c_n - t))) / b, over cosines with positives and
    negatives.

    Args:
        positive_scale: a.
        negative_scale: b.
        threshold_cos: t, a cosine.
        slack_cos: a negative counts where its cosine plus this is above that of the farthest positive of the row, a
            positive where its cosine minus this is below that of the nearest negative; with 2 all pairs do.
    """  # noqa: D415  # a formula

    kind: Literal["multi_similarity"] = "multi_similarity"
    positive_scale: float = 2.0
    negative_scale: float = 50.0
    threshold_cos: float = 0.5
    slack_cos: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("positive_scale", "negative_scale"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise SettingsError(f"{name} is a factor on cosines, above 0 and finite, got {value}")
        if not -1 <= self.threshold_cos <= 1:
            raise SettingsError(f"threshold_cos is a cosine, in [-1, 1], got {self.threshold_cos}")
        if not 0 <= self.slack_cos <= 2:
            raise SettingsError(f"slack_cos is a difference of cosines in [0, 2], got {self.slack_cos}")


@dataclass(frozen=True)
class ProxyConfig(PairLossConfig):
    """The settings of a loss on proxies.

    Args:
        proxy_rate: how many times as fast as the head its proxies move: a factor on the learning rate.
    """

    of_pairs: ClassVar[bool] = False

    proxy_rate: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.proxy_rate < math.inf:
            raise SettingsError(
                f"proxy_rate is a factor on the learning rate, above 0 and finite, got {self.proxy_rate}"
            )


@dataclass(frozen=True)
class ProxyAnchorConfig(ProxyConfig):
    """Proxy-Anchor (Kim et al., CVPR 2020): a proxy of each class is compared with all rows of the batch.

    With cosines c of a proxy with the rows of its class (+) and of others (-): the mean over the classes in the batch
    of log(1 + sum_+ exp(-scale (c - margin))) plus the mean over all classes of log(1 + sum_- exp(scale (c + margin))).

    Args:
        margin_cos: the margin, a difference of cosines.
        scale: the factor on the cosines; 32 in the paper, for a network that is trained whole.
    """

    kind: Literal["proxy_anchor"] = "proxy_anchor"
    margin_cos: float = 0.1
    scale: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin_cos <= 1:
            raise SettingsError(f"margin_cos is a difference of cosines in [0, 1], got {self.margin_cos}")
        if not 0 < self.scale < math.inf:
            raise SettingsError(f"scale is a factor on the cosines, above 0 and finite, got {self.scale}")


@dataclass(frozen=True)
class ProxyNcaConfig(ProxyConfig):
    """ProxyNCA++ (Teh et al., ECCV 2020): -log of the softmax over all proxies of -scale * d^2, d the distance.

    Of vectors of unit length d^2 = 2 - 2 c, so this is a softmax of cosines of twice the scale, and the margin losses'
    kernel computes it.

    Args:
        scale: the factor on the squared distances, one over the temperature.
    """

    kind: Literal["proxynca++"] = "proxynca++"
    scale: float = 9.0
    proxy_rate: float = field(default=10.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < math.inf:
            raise SettingsError(f"scale is a factor on the squared distances, above 0 and finite, got {self.scale}")


@dataclass(frozen=True)
class SoftTripleConfig(ProxyConfig):
    """SoftTriple (Qian et al., ICCV 2019): a cosine softmax over classes, of several subcenters each.

    A class's cosine is the soft maximum over its subcenters.

    Args:
        subcenters: how many a class has.
        subcenter_scale: of the softmax over a class's subcenters; one over gamma in the paper.
        scale: the factor on the cosines of the softmax over classes; lambda in the paper.
        margin_cos: requested off the cosine of the own class.
    """

    kind: Literal["soft_triple"] = "soft_triple"
    subcenters: int = 3
    subcenter_scale: float = 10.0
    scale: float = 10.0
    proxy_rate: float = field(default=3.0, kw_only=True)
    margin_cos: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subcenters < 1:
            raise SettingsError(f"subcenters is a number of prototypes a class, at least 1, got {self.subcenters}")
        for name in ("subcenter_scale", "scale"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise SettingsError(f"{name} is a factor on the cosines, above 0 and finite, got {value}")
        if not 0 <= self.margin_cos <= 1:
            raise SettingsError(f"margin_cos is a difference of cosines in [0, 1], got {self.margin_cos}")


@dataclass(frozen=True)
class RangeConfig(PairLossConfig):
    """Range loss: within + between, over the classes of a batch.

    ``within`` is the mean over the classes with two rows of the harmonic mean of the largest distances in the class;
    ``between`` is [margin - the least distance of two class centres]_+.

    Args:
        margin_dist: class centres are pushed to this distance.
        farthest: how many of a class's distances, the largest, count; k in the paper.
        within_weight: of the first part.
        between_weight: of the second.
    """

    kind: Literal["range"] = "range"
    margin_dist: Scheduled = 1.4
    farthest: int = 2
    within_weight: float = 1.0
    between_weight: float = 1.0

    def __post_init__(self) -> None:
        check_dist("margin_dist", self.margin_dist)
        if self.farthest < 1:
            raise SettingsError(f"farthest is how many distances of a class count, at least 1, got {self.farthest}")
        for name in ("within_weight", "between_weight"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise SettingsError(f"{name} is at least 0 and finite, got {value}")
        if self.within_weight == self.between_weight == 0:
            raise SettingsError("within_weight and between_weight are both 0: nothing is left of the loss")


@dataclass(frozen=True)
class RecallConfig(PairLossConfig):
    """Recall@k surrogate: 1 - the mean over rows and k of sum_p sigmoid(rank_scale (k - rank_p)) / min(k, positives).

    Args:
        ks: at which ranks.
        scale: of the sigmoid in a rank, on a difference of cosines; one over its temperature.
        rank_scale: of the sigmoid on a difference of ranks.
    """

    kind: Literal["recall"] = "recall"
    ks: tuple[int, ...] = (1, 2, 4, 8, 16)
    scale: float = 100.0
    rank_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or len({*self.ks}) < len(self.ks):
            raise SettingsError(f"ks are different ranks from 1, at least one, got {list(self.ks)}")
        _check_scale("scale", self.scale)
        _check_scale("rank_scale", self.rank_scale)


@dataclass(frozen=True)
class SmoothApConfig(PairLossConfig):
    """Smooth-AP: 1 - the mean over the rows of the average precision with which each finds its class in the batch.

    Args:
        scale: of the sigmoid that stands for a step, on a difference of cosines; one over its temperature.
    """

    kind: Literal["smooth_ap"] = "smooth_ap"
    scale: float = 100.0

    def __post_init__(self) -> None:
        _check_scale("scale", self.scale)


def _check_scale(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise SettingsError(f"{name} is a factor, above 0 and finite, got {value}")


@dataclass(frozen=True)
class SupConConfig(RememberingConfig):
    """SupCon: of each row the mean over its positives of -log softmax(scale * cosines); the mean over such rows.

    Args:
        scale: the factor on the cosines, one over the temperature.
    """

    kind: Literal["supcon"] = "supcon"
    scale: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < math.inf:
            raise SettingsError(f"scale is a factor on the cosines, above 0 and finite, got {self.scale}")


@dataclass(frozen=True)
class TripletConfig(RememberingConfig):
    """Triplet loss: the mean of [d(a, p) - d(a, n) + margin]_+ over the triplets where it is above 0.

    Args:
        margin_dist: the margin, a distance.
        miner: which triplets; ``all`` are added up by a sort of each row's negatives, without listing them.

    >>> import torch
    >>> loss = TripletConfig(margin_dist=0.2, miner=AllConfig()).build(2, torch.tensor([2, 1]), torch.Generator())
    >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    >>> round(float(loss(embeddings, torch.tensor([0, 0, 1]))), 3)
    0.637
    """

    kind: Literal["triplet"] = "triplet"
    margin_dist: Scheduled = 0.2
    miner: AllOrMinedConfig = DistanceWeightedConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dist("margin_dist", self.margin_dist)
        if min(ends(self.margin_dist)) == 0 and self.miner.kind in ("semi_hard", "easy_positives"):
            raise SettingsError(f"margin_dist is above 0 for the miner {self.miner.kind}, got {self.margin_dist}")


PairLosses: TypeAlias = (
    ContrastiveConfig
    | MarginConfig
    | MultiSimilarityConfig
    | ProxyAnchorConfig
    | ProxyNcaConfig
    | RangeConfig
    | RecallConfig
    | SmoothApConfig
    | SoftTripleConfig
    | SupConConfig
    | TripletConfig
)
