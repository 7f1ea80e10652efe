"""Averages: an exponential moving average of what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["Averages", "copied", "overwrite"]


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values as they are now."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def overwrite(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Give tensors other values, in place."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])


class Averages:
    """``average ← d·average + (1 - d)·weights``, ``d = min(decay, (1 + k) / (10 + k))``.

    The rising ``d`` forgets where training started (as in TensorFlow's
    ``ExponentialMovingAverage``). Whole numbers, such as counters of batches, are taken over.
    Averaged designs need not be feasible where the set is not convex.

    Args:
        tensors: what is trained, by name.
        decay: between 0 and 1.
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.trained = tensors
        self.values = copied(tensors)

    def update(self, step: int) -> None:
        """Take step ``k`` into account."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, tensor in self.trained.items():
                if tensor.is_floating_point() or tensor.is_complex():
                    self.values[name].lerp_(tensor.detach(), 1 - decay)
                else:
                    self.values[name].copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block, what is trained has its average values."""
        weights = copied(self.trained)
        overwrite(self.trained, self.values)
        try:
            yield
        finally:
            overwrite(self.trained, weights)
