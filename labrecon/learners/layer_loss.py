"""Deep supervision: every layer of a network answers for its estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labrecon.learners.supervised import Supervised

__all__ = ["LayerLoss", "logarithmic"]


def logarithmic(k: int) -> float:
    """``log k`` of layer ``k``, counted from 1: that of DetNet, where the first has no say."""
    return math.log(k)


class LayerLoss(Supervised):
    """Minimises ``Σ_k w_k loss(x_k, x) / Σ_k w_k`` over the estimates ``x_k`` of all layers.

    For networks so deep that the first layers hear little of a loss at the end (Samuel, Diskin and
    Wiesel 2017). The options are those of `Supervised`, and the terms that a network asks for are
    added likewise; validation looks at the last layer alone.

    Attributes:
        weight: of layer ``k``, counted from 1; not negative.
    """

    weight: Callable[[int], float] = staticmethod(logarithmic)

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The mean over the samples of a batch, and that of the last layer as a metric."""
        total: Tensor | None = None
        last, count = 0.0, 0
        for problem, truth in self.problems(batch):
            made = self.network.reconstruct(problem, trace=True)
            weights = [self.weight(k + 1) for k in range(len(made.trace))]
            if not sum(weights) > 0:
                raise ValueError(
                    f"{len(weights)} layers of weight 0: a loss of layers needs two at least"
                )
            losses = [self.measure(x, truth) for x in made.trace]
            parts = [w * one for w, one in zip(weights, losses, strict=True)]
            value = torch.stack(parts).sum() / sum(weights)
            for name, term in made.losses.items():
                weight = self.network.loss_weights.get(name, 0.0)
                value = value + weight * term if weight else value
            value = len(truth) * value
            total = value if total is None else total + value
            last += len(truth) * float(losses[-1].detach())
            count += len(truth)
        if total is None:
            raise ValueError("a batch without samples")
        return total / count, {"last_layer": last / count}
