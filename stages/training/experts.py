"""Which records get experts: where a gate can route images by domain, a head for each domain and the gate."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.records import Records
from stages.training.closed_form.kinds import RidgeHeadConfig
from stages.training.heads.kinds import InputsConfig
from stages.training.heads.networks import Gate, expert_dim, in_blocks
from stages.training.rows.labelled_rows import LabelledRows
from stages.training.rows.validation import HOLDABLE, held_out
from stages.training.training_inputs import TrainingInputs

MISROUTED = 0.01
"""Experts are trained where the gate misroutes at most this share of images: a misrouted one matches nothing."""

_INPUTS = InputsConfig(root=0.5, unit=True, center=True, rescale="none")
_HELD_OUT = 0.2  # of the classes, to count the images that a gate misroutes


class Split(NamedTuple):
    """The gate, the inputs of each domain's expert, and the share of held-out images that the gate ``misrouted``."""

    gate: Gate
    parts: list[TrainingInputs]
    misrouted: float


def split(inputs: TrainingInputs) -> Split | str:
    """``inputs`` split by domain, or the reason why there is one head for all."""
    head = inputs.recipe.head
    domains = [domain or "" for domain in inputs.records.domains]
    names = sorted(set(domains))
    if len(names) < 2:
        return "one domain"
    for name in names:
        searchable = sum(size > 1 for size in Counter(_in_domain(inputs.records, name).classes).values())
        if searchable < HOLDABLE:
            return (
                f"{name or 'the domain without a name'} has {searchable} classes of two images, fewer than {HOLDABLE}"
            )
    dim = expert_dim(head.dim, len(names))
    if dim < head.dim / 2:
        return f"of {head.dim} dimensions {len(names)} domains leave {dim} to an expert, less than half"
    rows = LabelledRows.of(inputs.features, inputs.records, mapped=inputs.mapped)
    features, domain_of_row = rows.first_views(), torch.from_numpy(rows.domains)
    records = inputs.records
    held = held_out(records.labels, records.domains, _HELD_OUT, np.random.default_rng((inputs.seed, 2)))
    assert held is not None  # every domain has classes enough
    test = torch.from_numpy(held)
    gate = _fit(features[~test], domain_of_row[~test], rows.blocks, inputs.seed)
    misrouted = float((in_blocks(gate.domains, features[test]) != domain_of_row[test]).double().mean())
    if misrouted > MISROUTED:
        return f"a gate misroutes {misrouted:.1%} of images of held-out classes, more than {MISROUTED:.0%}"
    gate = _fit(features, domain_of_row, rows.blocks, inputs.seed)
    return Split(gate, [_part(inputs, name, dim) for name in names], misrouted)


def _fit(features: Tensor, domains: Tensor, blocks: tuple[int, ...], seed: int) -> Gate:
    """Ridge regression from features (N, D) to indicators of ``domains`` (N,), and the mean prediction of each."""
    count = int(domains.max()) + 1
    config = RidgeHeadConfig(dim=count - 1, inputs=_INPUTS)
    head = config.fit(features, domains, torch.zeros_like(domains), blocks, seed)
    predicted = in_blocks(head.project, features)
    means = torch.stack([predicted[domains == number].mean(0) for number in range(count)])
    return Gate(head.inputs, head.weight.detach(), head.bias.detach(), means)


def _part(inputs: TrainingInputs, name: str, dim: int) -> TrainingInputs:
    """The inputs of the expert of the domain ``name``: its records alone, its validation records alone."""
    validation, recipe = inputs.validation, inputs.recipe
    if validation is not None:
        queries, gallery = (_in_domain(records, name) for records in validation)
        validation = (queries, gallery) if len(queries) else None
    return replace(
        inputs,
        records=_in_domain(inputs.records, name),
        validation=validation,
        recipe=replace(
            recipe,
            head=replace(recipe.head, dim=dim),
            start=recipe.start and replace(recipe.start, dim=dim),
            training=replace(recipe.training, experts=False),
        ),
        closed_form=inputs.closed_form and replace(inputs.closed_form, dim=dim),
        expert=name,
    )


def _in_domain(records: Records, name: str) -> Records:
    return records.take([row for row, domain in enumerate(records.domains) if (domain or "") == name])
