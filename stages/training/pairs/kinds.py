"""The losses on pairs and proxies and the miners, a class of settings for each. Loads without torch.

Adding one is a class here, a name in ``PairLosses`` or ``MinerConfig``, and a case in ``build.py`` or ``miners.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from cache.errors import SettingsError
from cache.settings import Choices, Settings, Within
from stages.training.losses.kinds import Ramp, Scheduled, Subcenters

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.training.pairs.loss import PairLoss

_DIST = "a distance of embeddings of unit length"
_OWN_MARGIN = Within("(0, 2]", _DIST)
Dist: TypeAlias = Annotated[Scheduled, Within("[0, 2]", _DIST)]
Factor: TypeAlias = Annotated[float, Within("(0, inf)", "a factor")]
Rate: TypeAlias = Annotated[float, Within("(0, inf)", "a factor on the learning rate")]
Weight: TypeAlias = Annotated[float, Within("[0, inf)")]
CosineMargin: TypeAlias = Annotated[float, Within("[0, 1]", "a difference of cosines")]


@dataclass(frozen=True)
class AllConfig(Settings):
    """No miner: every pair, or every triplet. The losses that take it have ways of their own that list none of them."""

    kind: Literal["all"] = "all"


@dataclass(frozen=True)
class DistanceWeightedConfig(Settings):
    """Every positive pair with one negative, drawn with a weight of 1 / q(d), q the density of distances on the sphere.

    So negatives come from all distances equally (Wu et al., Sampling matters, ICCV 2017).

    Args:
        nearest_dist: a negative nearer than this is weighed as if it were there.
        farthest_dist: one that is farther is never drawn, for a loss will not look at it.
    """

    kind: Literal["distance_weighted"] = "distance_weighted"
    nearest_dist: float = 0.5
    farthest_dist: float = 1.4

    def __post_init__(self) -> None:
        if not 0 < self.nearest_dist < self.farthest_dist < 2:
            raise SettingsError(
                "nearest_dist and farthest_dist are distances of embeddings of unit length, 0 < nearest_dist < "
                f"farthest_dist < 2, got {self.nearest_dist} and {self.farthest_dist}"
            )


@dataclass(frozen=True)
class HardConfig(Settings):
    """Every row with its farthest positives and its nearest negatives, each with each (Hermans et al., 2017).

    Args:
        positives: how many of the farthest; 0 takes all, so that only negatives are hard.
        negatives: how many of the nearest.
    """

    kind: Literal["hard"] = "hard"
    positives: Annotated[int, Within("[0, inf]", "how many of the farthest, 0 for all")] = 1
    negatives: Annotated[int, Within("[1, inf]", "how many of the nearest")] = 1


@dataclass(frozen=True)
class SemiHardConfig(Settings):
    """Every positive pair (a, p) with the nearest negative n of which d(a, p) < d(a, n) < d(a, p) + margin.

    A pair that has none is left out (Schroff et al., FaceNet, CVPR 2015).

    Args:
        margin_dist: the margin, a distance; by default that of the loss.
    """

    kind: Literal["semi_hard"] = "semi_hard"
    margin_dist: Annotated[float | None, _OWN_MARGIN] = None


@dataclass(frozen=True)
class EasyPositivesConfig(Settings):
    """Every row with its nearest positive, and with one negative (Xuan et al., WACV 2020).

    Args:
        negatives: ``semi_hard`` takes the nearest that is farther than the positive, but not by the margin; ``hard``
            takes the nearest.
        margin_dist: the margin of semi-hard ones, a distance; by default that of the loss.
    """

    kind: Literal["easy_positives"] = "easy_positives"
    negatives: Literal["semi_hard", "hard"] = "semi_hard"
    margin_dist: Annotated[float | None, _OWN_MARGIN] = None


_Miners: TypeAlias = DistanceWeightedConfig | EasyPositivesConfig | HardConfig | SemiHardConfig
MinerConfig: TypeAlias = Annotated[_Miners, Field(discriminator="kind")]
AllOrMinedConfig: TypeAlias = Annotated[AllConfig | _Miners, Field(discriminator="kind")]


@dataclass(frozen=True)
class PairLossConfig(Settings):
    """The settings of a loss on pairs or proxies: a subclass with a ``kind`` and what is its own."""

    of_pairs: ClassVar[bool] = True  # several rows of a class in a batch: by_loss samples classes x images

    def build(self, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
        """The loss of embeddings (B, ``dim``) for classes of ``class_sizes`` (C,) training rows."""
        from stages.training.pairs.build import build

        return build(self, dim, class_sizes, generator)


@dataclass(frozen=True, kw_only=True)
class RememberingConfig(PairLossConfig):
    """The settings of a loss that can look beyond the batch.

    Args:
        memory: how many embeddings of earlier batches each batch is compared with besides itself, without gradient
            (cross-batch memory); 0 for none.
    """

    memory: Annotated[int, Within("[0, inf]", "a number of embeddings of earlier batches")] = 0


@dataclass(frozen=True)
class ContrastiveConfig(RememberingConfig):
    """Contrastive loss: the mean of the positive pairs' losses and that of the negative ones', each of those above 0.

    Args:
        margin_dist: negatives are pushed to this distance.
        positive_margin_dist: positives are drawn to this distance.
        miner: which pairs.
    """

    kind: Literal["contrastive"] = "contrastive"
    margin_dist: Dist = 1.2
    positive_margin_dist: Dist = 0.0
    miner: AllOrMinedConfig = AllConfig()


@dataclass(frozen=True)
class MarginConfig(RememberingConfig):
    """Margin loss: [margin + d - beta]_+ of positives, [margin + beta - d]_+ of negatives; the mean of those above 0.

    Args:
        margin_dist: how far on its side of beta a pair is to lie, a distance.
        beta_dist: the distance beta that training begins with.
        beta: ``one`` for all classes, ``by_class`` one for each, or ``fixed``.
        beta_weight: of beta itself in the loss, which keeps it small.
        miner: which pairs.
    """

    kind: Literal["margin"] = "margin"
    margin_dist: Dist = 0.2
    beta_dist: Annotated[float, Within("(0, 2)", _DIST)] = 1.2
    beta: Literal["one", "by_class", "fixed"] = "one"
    beta_weight: Weight = 0.0
    miner: MinerConfig = DistanceWeightedConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_weight and self.beta == "fixed":
            raise SettingsError("beta_weight keeps a learned beta small; this one is fixed: leave beta_weight out")


@dataclass(frozen=True)
class MultiSimilarityConfig(RememberingConfig):
    """Multi-similarity loss: the mean of log(1 + sum_p exp(-a (c_p - t))) / a + log(1 + sum_n exp(b (c_n - t))) / b.

    Args:
        positive_scale: a, of the cosines c_p with positives.
        negative_scale: b, of the cosines c_n with negatives.
        threshold_cos: t, a cosine.
        slack_cos: a negative counts where its cosine plus this is above that of the farthest positive of the row, a
            positive where its cosine minus this is below that of the nearest negative; with 2 all pairs do.
    """

    kind: Literal["multi_similarity"] = "multi_similarity"
    positive_scale: Factor = 2.0
    negative_scale: Factor = 50.0
    threshold_cos: Annotated[float, Within("[-1, 1]", "a cosine")] = 0.5
    slack_cos: Annotated[float, Within("[0, 2]", "a difference of cosines")] = 0.1


@dataclass(frozen=True, kw_only=True)
class ProxyConfig(PairLossConfig):
    """The settings of a loss on proxies.

    Args:
        proxy_rate: how many times as fast as the head its proxies move: a factor on the learning rate.
    """

    of_pairs: ClassVar[bool] = False

    proxy_rate: Rate = 1.0


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
    margin_cos: CosineMargin = 0.1
    scale: Factor = 4.0


@dataclass(frozen=True)
class ProxyNcaConfig(ProxyConfig):
    """ProxyNCA++ (Teh et al., ECCV 2020): -log of the softmax over all proxies of -scale * d^2, d the distance.

    Args:
        scale: the factor on the squared distances, one over the temperature.
    """

    kind: Literal["proxynca++"] = "proxynca++"
    scale: Factor = 9.0
    proxy_rate: Rate = field(default=10.0, kw_only=True)


@dataclass(frozen=True)
class SoftTripleConfig(ProxyConfig):
    """SoftTriple (Qian et al., ICCV 2019): a cosine softmax over classes, each by a soft maximum over its subcenters.

    Args:
        subcenters: how many a class has.
        subcenter_scale: of the softmax over a class's subcenters; one over gamma in the paper.
        scale: the factor on the cosines of the softmax over classes; lambda in the paper.
        margin_cos: taken off the cosine of the own class.
    """

    kind: Literal["soft_triple"] = "soft_triple"
    subcenters: Subcenters = 3
    subcenter_scale: Factor = 10.0
    scale: Factor = 10.0
    proxy_rate: Rate = field(default=3.0, kw_only=True)
    margin_cos: CosineMargin = 0.01


@dataclass(frozen=True)
class RangeConfig(PairLossConfig):
    """Range loss: within + between, over the classes of a batch (Zhang et al., ICCV 2017).

    ``within`` is the mean over the classes with two rows of the harmonic mean of the largest distances in the class;
    ``between`` is [margin - the least distance of two class centres]_+.

    Args:
        margin_dist: class centres are pushed to this distance.
        farthest: how many of a class's distances, the largest, count; k in the paper.
        within_weight: of the first part.
        between_weight: of the second.
    """

    kind: Literal["range"] = "range"
    margin_dist: Dist = 1.4
    farthest: Annotated[int, Within("[1, inf]", "how many distances of a class count")] = 2
    within_weight: Weight = 1.0
    between_weight: Weight = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
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
    ks: Annotated[tuple[int, ...], Choices("[1, inf]", "one or more ranks, each once")] = (1, 2, 4, 8, 16)
    scale: Factor = 100.0
    rank_scale: Factor = 1.0


@dataclass(frozen=True)
class SmoothApConfig(PairLossConfig):
    """Smooth-AP: 1 - the mean over the rows of the average precision with which each finds its class in the batch.

    Args:
        scale: of the sigmoid that stands for a step, on a difference of cosines; one over its temperature.
    """

    kind: Literal["smooth_ap"] = "smooth_ap"
    scale: Factor = 100.0


@dataclass(frozen=True)
class SupConConfig(RememberingConfig):
    """SupCon: of each row the mean over its positives of -log softmax(scale * cosines); the mean over such rows.

    Args:
        scale: the factor on the cosines, one over the temperature.
    """

    kind: Literal["supcon"] = "supcon"
    scale: Factor = 10.0


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
    margin_dist: Dist = 0.2
    miner: AllOrMinedConfig = DistanceWeightedConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        smallest = min(self.margin_dist.extremes) if isinstance(self.margin_dist, Ramp) else self.margin_dist
        if smallest == 0 and self.miner.kind in ("semi_hard", "easy_positives"):
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
