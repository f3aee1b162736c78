"""A network as plain data and back: what it has beside its settings, and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cache.fingerprint import JSON
from stages.training.heads.experts import Experts, Gate, expert_dim
from stages.training.heads.inputs import Inputs
from stages.training.heads.kinds import InputsConfig
from stages.training.heads.networks import HeadNetwork
from stages.training.recipe import HeadConfig


def structure_of(network: HeadNetwork) -> dict[str, JSON]:
    """What ``network`` has beside its settings and its tensors."""
    # The steps are those of the closed form that a head started at.
    structure: dict[str, JSON] = {"inputs": asdict(network.inputs.config), "blocks": list(network.inputs.blocks)}
    if isinstance(network, Experts):
        structure["experts"] = [structure_of(expert) for expert in network.heads]
    return structure


def weights_of(network: HeadNetwork) -> dict[str, npt.NDArray[np.generic]]:
    """The tensors of ``network`` by name."""
    return {name: tensor.contiguous().numpy() for name, tensor in network.state_dict().items()}


def build_network(
    config: HeadConfig, structure: Mapping[str, Any], weights: Mapping[str, npt.NDArray[np.generic]] | None
) -> HeadNetwork:
    """The network of ``config`` that :func:`structure_of` and :func:`weights_of` described."""
    inputs = Inputs(InputsConfig(**structure["inputs"]), structure["blocks"])
    network: HeadNetwork
    if experts := structure.get("experts"):
        single = replace(config, dim=expert_dim(config.dim, len(experts)))
        network = Experts(Gate.zero(inputs, len(experts)), [build_network(single, each, None) for each in experts])
    else:
        network = config.build(structure["blocks"], torch.Generator())
        network.inputs = inputs
    if weights is not None:
        network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return network
