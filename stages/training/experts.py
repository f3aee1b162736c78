"""Which records get experts: where a look tells their domains apart, a head for each domain and a gate between."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stages.records import Records
from stages.training.classes import HOLDABLE, held_out
from stages.training.closed_form import RidgeHeadConfig
from stages.training.heads.experts import Gate, expert_dim
from stages.training.heads.inputs import InputsConfig
from stages.training.rows import LabelledRows
from stages.training.setup import Setup

ASTRAY = 0.01
"""Experts stand where at most this share of images is sent to another domain's: none of those is ever found."""

_INPUTS = InputsConfig(root=0.5, unit=True, center=True, rescale="none")
_HELD = 0.2  # of the classes, to see how many images a gate sends astray


@dataclass(frozen=True, eq=False)
class Split:
    """The gate, what each domain's expert is trained by, and the share of images that went ``astray`` in a trial."""

    gate: Gate
    parts: dict[str, Setup]
    astray: float


def split(setup: Setup) -> Split | str:
    """How ``setup`` falls into experts, or the reason why there is one head for all."""
    domains = [domain or "" for domain in setup.records.domains]
    names = sorted(set(domains))
    if len(names) < 2:
        return "one domain"
    for name in names:
        part = _of(setup.records, name)
        searchable = sum(size > 1 for size in Counter(part.classes).values())
        if searchable < HOLDABLE:
            return (
                f"{name or 'the domain without a name'} has {searchable} classes of two images, fewer than {HOLDABLE}"
            )
    dim = expert_dim(setup.head.dim, len(names))
    if dim < setup.head.dim / 2:
        return f"of {setup.head.dim} numbers {len(names)} domains leave {dim} to an expert, less than half"
    rows = LabelledRows.of(setup.features, setup.records, mapped=setup.mapped)
    features, of_row = rows.first_views(), torch.from_numpy(rows.domains)
    held = held_out(setup.records.classes, _HELD, np.random.default_rng((setup.seed, 2)))
    assert held is not None  # every domain has classes enough
    apart = torch.from_numpy(held)
    trial = _fit(features[~apart], of_row[~apart], rows.blocks, setup.seed)
    wrong = float((_domains(trial, features[apart]) != of_row[apart]).double().mean())
    if wrong > ASTRAY:
        return f"a gate sends {wrong:.1%} of images of held-out classes to another domain, more than {ASTRAY:.0%}"
    return Split(
        _fit(features, of_row, rows.blocks, setup.seed), {name: _part(setup, name, dim) for name in names}, wrong
    )


def _fit(features: Tensor, domains: Tensor, blocks: tuple[int, ...], seed: int) -> Gate:
    """Ridge regression from features (N, D) to indicators of ``domains`` (N,), and the mean prediction of each."""
    count = int(domains.max()) + 1
    config = RidgeHeadConfig(dim=count - 1, inputs=_INPUTS)
    head = config.fit(features, domains, torch.zeros_like(domains), blocks, seed)
    with torch.inference_mode():
        told = torch.cat([head.project(block) for block in torch.split(features, 8192)])
    means = torch.stack([told[domains == number].mean(0) for number in range(count)])
    return Gate(head.inputs, head.weight.detach(), head.bias.detach(), means)


def _domains(gate: Gate, features: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([gate.domains(block) for block in torch.split(features, 8192)])


def _part(setup: Setup, name: str, dim: int) -> Setup:
    """What trains the expert of the domain ``name``: its records alone, its validation records alone."""
    validation = setup.validation and (_of(setup.validation[0], name), _of(setup.validation[1], name))
    return replace(
        setup,
        records=_of(setup.records, name),
        validation=validation if validation and len(validation[0]) else None,
        head=replace(setup.head, dim=dim),
        start=setup.start and replace(setup.start, dim=dim),
        training=replace(setup.training, experts=False),
    )


def _of(records: Records, name: str) -> Records:
    return records.take([row for row, domain in enumerate(records.domains) if (domain or "") == name])
