"""Features that a discriminant can separate, and its formula as it is written down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from stages.training import DiscriminantHeadConfig, InputsConfig
from stages.training.closed_form import cross_validation
from stages.training.closed_form.kinds import ClosedFormConfig
from stages.training.closed_form.statistics import TrainingRows

Floats = npt.NDArray[np.float64]

DIM = 10
PLAIN = InputsConfig(center=False, rescale="none")
SMALL = DiscriminantHeadConfig(dim=4, roots=(1.0,), shrinkage=(0.1, 0.8), total=(0.0, 1.0), power=(0.0, 0.5))


def fixed(root: float, shrinkage: float, total: float, power: float, dim: int) -> DiscriminantHeadConfig:
    return DiscriminantHeadConfig(dim=dim, roots=(root,), shrinkage=(shrinkage,), total=(total,), power=(power,))


def choose(
    config: DiscriminantHeadConfig,
    rows: torch.Tensor,
    labels: torch.Tensor,
    domains: torch.Tensor,
    blocks: list[int],
    seed: int,
) -> tuple[DiscriminantHeadConfig, float | None]:
    """``config`` with the one value of each setting that fitting it would choose, and its mMP@5."""
    point, score = cross_validation.choose(config, TrainingRows.of(rows, labels, domains, blocks, seed))
    chosen = {name: (value,) for name, value in point._asdict().items() if name != "root"}
    return replace(config, roots=(point.root,), **chosen), score  # type: ignore[arg-type]


def toy(seed: int = 0, *, sizes: tuple[int, ...] = (6,) * 12, noise: float = 1.0) -> tuple[torch.Tensor, ...]:
    """Features (N, D) float32, labels (N,) and domains (N,): the first numbers tell the class, others are louder."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.normal(size=(len(sizes), DIM)) * np.linspace(1, 0.1, DIM)
    rows = centres[labels] + noise * rng.normal(size=(len(labels), DIM)) * np.linspace(0.3, 1.5, DIM) + 0.5
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(labels), torch.zeros(len(labels)).long()


def two_domains() -> tuple[torch.Tensor, ...]:
    """As ``toy``, but the classes from 8 on are of another domain, shifted away."""
    rows, labels, _ = toy(sizes=(6,) * 8 + (4,) * 8)
    domains = (labels >= 8).long()
    return rows + 2 * domains[:, None] * torch.linspace(-1, 1, DIM), labels, domains


def stepped(rows: torch.Tensor, root: float, mean: Floats | None = None) -> tuple[Floats, Floats]:
    """Signed root, unit length, less the mean, unit length; and the mean."""
    points = rows.double().numpy()
    points = np.sign(points) * np.abs(points) ** root
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    mean = points.mean(0) if mean is None else mean
    points = points - mean
    return points / np.linalg.norm(points, axis=1, keepdims=True), mean


def formula(rows: Floats, labels: Floats, g: float, b: float, p: float, dim: int) -> Floats:
    """The map (D, dim) as it is written down, for one domain."""
    groups = [rows[labels == label] for label in sorted(set(labels.tolist()))]
    within = sum((group - group.mean(0)).T @ (group - group.mean(0)) for group in groups) / len(rows)
    means = np.stack([group.mean(0) for group in groups])
    between = np.cov(means.T, bias=True)
    total = rows.T @ rows / len(rows)
    values, vectors = np.linalg.eigh((1 - g) * within + g * np.trace(within) / DIM * np.eye(DIM))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    between, total = root @ between @ root, root @ total @ root
    scatter = (1 - b) * between + b * np.trace(between) / np.trace(total) * total
    values, vectors = np.linalg.eigh(scatter)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    return np.asarray(root @ vectors[:, :dim] * (values[:dim] / values[0]) ** p)


def similarities(vectors: Floats) -> Floats:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def embedded(config: ClosedFormConfig, rows: torch.Tensor, labels: torch.Tensor, domains: torch.Tensor) -> Floats:
    head = config.fit(rows, labels, domains, [rows.shape[1]], seed=0)
    with torch.no_grad():
        return np.asarray(head(rows).double().numpy())
