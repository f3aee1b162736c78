"""What every margin-softmax loss shares: prototypes, cosines, and a cross entropy whose target has been moved.

::

    embeddings (B, E) --unit length--> cosines (B, C*k) --best subcenter--> (B, C) --rule--> scalar

On a processor nothing of the size B x C is ever in memory (``streamed.py``, ``tiles.py``); any other device computes
the same with whole matrices (``plain.py``). A loss is this kernel and a :class:`~stages.training.losses.rules.Rule`;
docs/losses.md has one of your own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn

from stages.training.losses.angle import normalize
from stages.training.losses.kinds import MarginSoftmaxConfig, SampledConfig, value_at
from stages.training.losses.plain import plain_loss
from stages.training.losses.rules import RandomState, Rule
from stages.training.losses.shards import Shard
from stages.training.losses.streamed import Softmax, streamed_loss
from stages.training.losses.tiles import reciprocal

_BLOCK = 2048  # classes whose cosines are looked at together, to find the hardest


class MarginSoftmax(nn.Module):
    """Cosine softmax over C classes of k ``subcenters`` each, the target's cosine moved by ``rule``.

    The prototype of subcenter j of class c is row ``j * classes + c`` of ``weight`` (C*k, E). A training loop calls
    :meth:`at` before each step. All that a resumed run needs is in ``state_dict``. The processes of a ``group`` share
    the classes out (:mod:`.shards`), all call it with the same batch, and get the same loss.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        rule: Rule,
        config: MarginSoftmaxConfig,
        generator: torch.Generator,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.shard = classes, Shard.of(classes, group)
        self.config, self.subcenters, self.rule = config, config.subcenters, rule
        self.weight = nn.Parameter(self.shard.draw(config.subcenters, dim, generator))
        self.sampler = None
        if config.sampled is not None:
            self.sampler = ClassSampler(config.sampled, classes, config.subcenters, generator)
        self.at(0.0)

    @property
    def sparse(self) -> bool:
        """Whether the gradient of ``weight`` is a sparse tensor in training: only the rows that a step looked at."""
        return self.sampler is not None

    @property
    def prototypes(self) -> Tensor:
        """``weight`` as vectors (k, C, E), a view; of the classes that this process has."""
        return self.weight.view(self.subcenters, len(self.shard), -1)

    def at(self, share: float) -> None:
        """Set the schedules to where they stand after ``share`` of the training, in [0, 1]."""
        self.scale = value_at(self.config.scale, share)
        self.rule.at(share)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of ``embeddings`` (B, E), of any length, with ``labels`` (B,) in [0, C): a scalar.

        Embeddings of fewer than E dimensions are compared with the first ones of each prototype (nested sizes). In
        evaluation a sampled loss sees all classes, as any other.
        """
        sampler = self.sampler if self.training else None
        rate, classes = 1.0, None
        if sampler is not None:
            rate, classes = sampler.rate, sampler(labels, embeddings, self.weight[:, : embeddings.shape[1]])
        softmax = Softmax(
            rule=self.rule,
            scale=self.scale,
            smoothing=self.config.label_smoothing,
            subcenters=self.subcenters,
            precision=self.config.precision,
            learn=torch.is_grad_enabled(),
            observe=self.training,
            rate=rate,
            shard=self.shard,
        )
        loss_of = streamed_loss if self.weight.device.type == "cpu" else plain_loss
        return loss_of(embeddings, self.weight, labels, softmax, classes)


class ClassSampler(nn.Module):
    """Which of the classes a step looks at (An et al., Partial FC, ICCVW 2021 and CVPR 2022).

    A class that no row of a batch has is looked at with the probability ``rate``; of the hardest there is none, and 1.
    """

    def __init__(self, config: SampledConfig, classes: int, subcenters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.classes, self.subcenters = config, classes, subcenters
        self.wanted = min(classes, max(config.least, math.ceil(config.share * classes)))
        self.draws, self.rate = 0, 1.0
        if config.kind == "random" and self.wanted < classes:
            # After n draws of C classes, a class is missing with probability (1 - 1/C)^n. So C (1 - (1 - 1/C)^n)
            # different ones are expected, which is w for n = log(1 - w/C) / log(1 - 1/C).
            self.draws = math.ceil(math.log1p(-self.wanted / classes) / math.log1p(-1 / classes))
            self.rate = -math.expm1(self.draws * math.log1p(-1 / classes))
        self.random_state = RandomState(generator)

    def forward(self, labels: Tensor, embeddings: Tensor, weight: Tensor) -> Tensor:
        """The classes (S,), ascending: every one of ``labels`` (B,), and as many as are wanted."""
        if self.wanted == self.classes:
            return torch.arange(self.classes, device=labels.device)
        if self.config.kind == "random":  # with replacement: a permutation's time would grow with the classes
            others = torch.randint(self.classes, (self.draws,), generator=self.random_state.generator, device="cpu")
        else:
            others = self._hardest(embeddings, weight)
        chosen: Tensor = torch.unique(torch.cat([labels, others.to(labels.device)]))
        return chosen

    @torch.no_grad()
    def _hardest(self, embeddings: Tensor, weight: Tensor) -> Tensor:
        vectors = normalize(embeddings.to(weight.dtype))
        nearest = weight.new_empty(self.subcenters, self.classes)
        for low in range(0, self.classes, _BLOCK):
            block = weight.view(self.subcenters, self.classes, -1)[:, low : low + _BLOCK]
            highest = (block.flatten(0, 1) @ vectors.T).amax(1).view(block.shape[:2])
            nearest[:, low : low + _BLOCK] = highest * reciprocal(torch.linalg.vector_norm(block, dim=2))
        return nearest.amax(0).topk(self.wanted).indices
