"""The closed forms, a class of settings for each; ``fit.py`` has their maps. Loads without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cache.errors import SettingsError
from cache.settings import Choices, Settings, Within
from stages.training.heads.kinds import Dim, Dropout, InputsConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.training.heads.networks import LinearHead

_SHARE = Within("[0, 1]", "a share")
UNIT_CENTERED = InputsConfig(unit=True, center=True, rescale="none")


@dataclass(frozen=True, kw_only=True)
class LinearMapConfig(Settings):
    """A linear map (E, D) that is computed from the features, not trained.

    Args:
        dim: E, the size of an embedding.
        dropout: the share of a feature set to zero before the map where it is trained on; alone it changes nothing.
        inputs: the steps before the map.
    """

    dim: Dim = 64
    dropout: Dropout = 0.2
    inputs: InputsConfig = UNIT_CENTERED

    def fit(self, features: Tensor, labels: Tensor, domains: Tensor, blocks: Sequence[int], seed: int) -> LinearHead:
        """The head of training ``features`` (N, D), of any float dtype; they are read in blocks, never copied whole.

        ``labels`` and ``domains`` are integers (N,), and one label in two domains is two classes. ``blocks`` are the
        sizes of the features that stand side by side; ``seed`` is of what is drawn, where a method draws. Raises
        ValueError where ``dim`` is more than the method can give, or there are too few rows or classes.
        """
        from stages.training.closed_form.fit import fit
        from stages.training.closed_form.statistics import TrainingRows

        return fit(self, TrainingRows.of(features, labels, domains, blocks, seed))

    def build(self, blocks: Sequence[int], _generator: torch.Generator) -> LinearHead:
        """A head of zeros of the right shape, to be filled by ``load_state_dict``."""
        import torch

        from stages.training.heads.networks import Inputs, LinearHead

        inputs = Inputs(self.inputs, blocks)
        return LinearHead(inputs, torch.zeros(self.dim, inputs.dim), torch.zeros(self.dim), self.dropout)


@dataclass(frozen=True)
class PcaHeadConfig(LinearMapConfig):
    """The ``dim`` directions in which the features vary most, as they are.

    >>> import torch
    >>> features = torch.tensor([[3.0, 0.1], [-3.0, 0.1], [0.1, -1.0], [-0.1, 1.0]])
    >>> nothing = torch.zeros(4, dtype=torch.int64)
    >>> head = PcaHeadConfig(dim=1, inputs=InputsConfig(rescale="none")).fit(features, nothing, nothing, [2], seed=0)
    >>> head.weight.shape, bool(head.weight[0, 0] > 0.99)
    (torch.Size([1, 2]), True)
    """

    kind: Literal["pca"] = "pca"


@dataclass(frozen=True)
class WhiteningHeadConfig(LinearMapConfig):
    """diag(l)^(-strength/2) V': eigenvalues l and eigenvectors V of the covariance.

    Args:
        strength: each component is divided by its standard deviation to this power, in [0, 1]; 1 whitens, 0 is PCA
            (PCAw of the Met dataset: Ypsilantis et al., NeurIPS 2021).
    """

    strength: Annotated[float, _SHARE] = 1.0
    kind: Literal["whitening"] = "whitening"


@dataclass(frozen=True)
class AveragePoolHeadConfig(LinearMapConfig):
    """Dimension e is the mean of the dimensions floor(e D / E) to ceil((e + 1) D / E) - 1 of the feature.

    It is the neck of UniFEx (arXiv 2409.13513) before any training: nothing is learned.
    """

    inputs: InputsConfig = InputsConfig(center=False, rescale="none")
    kind: Literal["average_pool"] = "average_pool"


@dataclass(frozen=True)
class WithinHeadConfig(LinearMapConfig):
    """S^(-1/2), S the covariance within classes, then the ``dim`` principal components of what it makes of the rows.

    Args:
        shrinkage: the share s, in [0, 1], of the mean variance: (1 - s) S + s (tr S / D) I stands for S; or that of
            Ledoit and Wolf. With 0 it is relevant component analysis (Shental et al., ECCV 2002).
    """

    shrinkage: Annotated[float | Literal["ledoit_wolf"], _SHARE] = "ledoit_wolf"
    kind: Literal["within"] = "within"


@dataclass(frozen=True)
class LdaHeadConfig(LinearMapConfig):
    """The ``dim`` directions in which classes differ most for how much they vary within, each of unit variance within.

    Args:
        shrinkage: the share s, in [0, 1], of the mean variance, as scikit-learn's
            ``LinearDiscriminantAnalysis(solver="eigen")`` has it: the covariance within classes and the one between
            them both become (1 - s) S + s (tr S / D) I.
    """

    shrinkage: Annotated[float, _SHARE] = 0.5
    kind: Literal["lda"] = "lda"


@dataclass(frozen=True)
class LearnedWhiteningHeadConfig(LinearMapConfig):
    """Lw of Radenovic et al. (ECCV 2016; ``whitenlearn`` of cirtorch) over all pairs of rows of one class.

    S is the mean of (x - y)(x - y)' over the pairs, P the inverse of its Cholesky factor, and the map the first
    ``dim`` principal components of P x: large classes weigh more than in ``within``, and nothing is shrunk.
    """

    kind: Literal["learned_whitening"] = "learned_whitening"


@dataclass(frozen=True)
class RidgeHeadConfig(LinearMapConfig):
    """(S + lambda I)^(-1) X'Y / N: covariance S, indicators Y (N, C); then the principal axes of the predictions.

    With ``dim`` = C - 1 the similarities are those of the predictions themselves, each less its mean.

    Args:
        penalty: lambda in units of the mean eigenvalue of S, above 0; ``gcv`` takes the one of the least generalised
            cross-validation error (Golub, Heath and Wahba, 1979).
    """

    penalty: Annotated[float | Literal["gcv"], Within("(0, inf]", "in units of the mean eigenvalue")] = "gcv"
    kind: Literal["ridge"] = "ridge"


@dataclass(frozen=True)
class DiscriminantHeadConfig(LinearMapConfig):
    """Whitens what varies within classes, turns to where their means vary, keeps the first ``dim`` axes.

    S_w is the covariance within classes, S_b that of their means, S_t the second moment of all rows; every domain has
    the same weight in S_b and S_t. P = ((1 - g) S_w + g tr(S_w) / D I)^(-1/2); V and l are the eigenvectors and
    eigenvalues of (1 - b) P S_b P + b c P S_t P, c such that the traces agree; the map is
    x -> diag((l / l_1)^p) V'P x. Few classes span few directions: b fills in the rest.

    Each of the four settings lists the values to choose from; with one value each, nothing is chosen. They are chosen
    together, in ``folds`` folds: the rows of each fold are searched leave-one-out with the discriminant of the others,
    and the highest mMP@5 wins, the mean over folds of the mean over domains.

    Args:
        roots: a, exponents of the signed root, in place of ``inputs.root``.
        shrinkage: g, in (0, 1].
        total: b, in [0, 1].
        power: p, at least 0.
        folds: at least 2.
        over: what a fold holds out: whole ``classes``, since those that will be searched are new, or ``rows`` of every
            class. ``auto`` is rows where :func:`~stages.training.train_head` is given validation records of trained
            classes, and classes otherwise.
    """

    inputs: InputsConfig = InputsConfig(unit=True, center=True, rescale="unit")
    roots: Annotated[tuple[float, ...], Choices("(0, 1]")] = (1.0, 0.7, 0.5)
    shrinkage: Annotated[tuple[float, ...], Choices("(0, 1]")] = (0.03, 0.1, 0.3, 0.5, 0.8)
    total: Annotated[tuple[float, ...], Choices("[0, 1]")] = (0.0, 0.3, 1.0)
    power: Annotated[tuple[float, ...], Choices("[0, inf)")] = (0.0, 0.15, 0.3)
    folds: Annotated[int, Within("[2, inf]", "a number of parts to hold out in turn")] = 3
    over: Literal["auto", "classes", "rows"] = "auto"
    kind: Literal["discriminant"] = "discriminant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs.root != 1:
            raise SettingsError(
                f"a discriminant chooses among roots; set roots = [{self.inputs.root}], not inputs.root"
            )


ClosedFormConfig: TypeAlias = (
    AveragePoolHeadConfig
    | DiscriminantHeadConfig
    | LdaHeadConfig
    | LearnedWhiteningHeadConfig
    | PcaHeadConfig
    | RidgeHeadConfig
    | WhiteningHeadConfig
    | WithinHeadConfig
)
