"""Soft thresholding that lets the largest samples pass."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from labrecon.options import number
from labrecon.prior import Prior, PriorError, soft_threshold
from labrecon.schedule import Schedule, number_at

__all__ = ["SupportSelection"]


class SupportSelection(Prior):
    """Soft thresholding by ``θ_k`` but for the ``p_k`` per cent of largest modulus, which stay.

    ``p_k = min(p (k + 1), p_max)``; only samples above the threshold are kept (Chen, Liu, Wang and
    Yin 2018, LISTA-SS). Which ones is not differentiated. Samples are compared within the last
    ``ndim`` axes. It has no penalty, and the threshold is its own: the step is not used.

    Args:
        threshold: ``θ``, a number or a schedule.
        percent: ``p``, how many more are trusted in each layer; 0 for plain soft thresholding.
        largest: ``p_max``.
        ndim: axes of one object.

    Raises:
        PriorError: a percentage is not between 0 and 100.

    Example:
        >>> keep = SupportSelection(0.5, percent=25.0, largest=25.0)
        >>> keep.prox(torch.tensor([3.0, 2.0, 1.0, 0.1]), 1.0)
        tensor([3.0000, 1.5000, 0.5000, 0.0000])
    """

    def __init__(
        self,
        threshold: float | Schedule,
        *,
        percent: float = 1.2,
        largest: float = 13.0,
        ndim: int = 1,
    ) -> None:
        super().__init__()
        what = "SupportSelection"
        self.threshold = threshold
        self.percent = number(f"{what}: percent", percent, at_least=0, error=PriorError)
        self.largest = number(f"{what}: largest", largest, at_least=0, error=PriorError)
        if self.largest > 100:
            raise PriorError(f"{what}: largest is a percentage, got {largest}")
        self.ndim = ndim
        self.k = 0

    def layer(self, k: int) -> Prior:
        """The same with the numbers of layer ``k``."""
        view = copy.copy(self)
        view.k = k
        return view

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``x`` where it is trusted, else ``soft(x, θ_k)``."""
        threshold = number_at(self.threshold, self.k)
        shrunk = soft_threshold(x, threshold)
        modulus = x.detach().abs().flatten(x.ndim - self.ndim)
        share = min(self.percent * (self.k + 1), self.largest) / 100
        count = round(share * modulus.shape[-1])
        if count == 0:
            return shrunk
        least = modulus.topk(count, -1).values[..., -1:]
        trusted = (modulus >= least) & (modulus > threshold)
        return torch.where(trusted.reshape(x.shape), x, shrunk)
