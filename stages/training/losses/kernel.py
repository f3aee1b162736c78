"""What every margin-softmax loss shares: prototypes, cosines, and a cross entropy whose target has been moved.

::

    embeddings (B, E) --unit length--> cosines (B, C*k) --best subcenter--> (B, C) --rule--> scalar

On a processor nothing of the size B x C is ever in memory (``streamed.py``, ``tiles.py``); any other device computes
the same with whole matrices (``plain.py``). A loss is this kernel and a :class:`~stages.training.losses.rule.Rule`;
docs/losses.md has one of your own.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from stages.training.losses.plain import plain_loss
from stages.training.losses.rule import Rule
from stages.training.losses.sampled import ClassSampler
from stages.training.losses.settings import MarginSoftmaxConfig, value_at
from stages.training.losses.shards import Shard
from stages.training.losses.streamed import Softmax, streamed_loss


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
        softmax = Softmax(
            rule=self.rule,
            scale=self.scale,
            smoothing=self.config.label_smoothing,
            subcenters=self.subcenters,
            precision=self.config.precision,
            learn=torch.is_grad_enabled(),
            observe=self.training,
            shard=self.shard,
            rate=1.0 if sampler is None else sampler.rate,
        )
        classes = None
        if sampler is not None:
            classes = sampler(labels, embeddings, self.weight[:, : embeddings.shape[1]])
        loss_of = streamed_loss if self.weight.device.type == "cpu" else plain_loss
        return loss_of(embeddings, self.weight, labels, softmax, classes)
