"""Which rule computes which margin loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stages.training.losses import kinds
from stages.training.losses.adaptive import AdaptiveScale, Curriculum, FixedScale, Magnitude, Quality
from stages.training.losses.angle import add_angle
from stages.training.losses.fixed import AddAngle, Elastic, LinearAngle, MultiplyAngle, Subtract
from stages.training.losses.rule import Rule
from stages.training.losses.settings import MarginSoftmaxConfig


def rule_of(config: MarginSoftmaxConfig, class_sizes: Tensor, generator: torch.Generator) -> Rule:
    """The rule of ``config`` for classes of ``class_sizes`` (C,) training rows.

    >>> type(rule_of(kinds.CosFaceConfig(), torch.tensor([2, 2]), torch.Generator())).__name__
    'Subtract'
    """
    match config:
        case kinds.AdaCosConfig():
            return (AdaptiveScale if config.dynamic else FixedScale)(len(class_sizes))
        case kinds.AdaFaceConfig():
            return Quality(config, class_sizes)
        case kinds.ArcFaceConfig():
            return AddAngle(config.margin_rad, class_sizes)
        case kinds.CosFaceConfig():
            return Subtract(config.margin_cos, class_sizes)
        case kinds.CurricularFaceConfig():
            return Curriculum(config.margin_rad, class_sizes)
        case kinds.ElasticArcFaceConfig():
            return Elastic(add_angle, config.margin_rad, class_sizes, config.deviation_rad, math.pi, generator)
        case kinds.ElasticCosFaceConfig():
            return Elastic(torch.sub, config.margin_cos, class_sizes, config.deviation_cos, 1.0, generator)
        case kinds.LiArcFaceConfig():
            return LinearAngle(config.margin_rad, class_sizes)
        case kinds.MagFaceConfig():
            return Magnitude(config)
        case kinds.NormFaceConfig():
            return Rule()
        case kinds.SphereFaceConfig():
            return MultiplyAngle(config.margin_factor, class_sizes)
        case _:
            raise NotImplementedError(f"{type(config).__name__} has no rule: a loss is a subclass that gives one")
