"""Limits on what another prior makes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from labrecon.options import number
from labrecon.prior import Prior, PriorError

__all__ = ["Limited"]

Limit = float | None


class Limited(Prior):
    """Another prior's prox, cut at a lowest and a highest value (attenuation is not negative).

    For denoisers, which know no limits. Not for true proxes: first one, then the other is not the
    prox of both; their own options (``nonneg``) are.

    Args:
        prior: what comes first; it may keep parameters.
        low: lowest value, None for none.
        high: highest value, None for none.

    Raises:
        PriorError: the limits are no numbers, or the lower one is not below the other.
    """

    def __init__(self, prior: Prior, low: Limit = None, high: Limit = None) -> None:
        super().__init__()
        self.prior = prior
        self.low = None if low is None else number("Limited: low", low, error=PriorError)
        self.high = None if high is None else number("Limited: high", high, error=PriorError)
        if self.low is None and self.high is None:
            raise PriorError("Limited: give low, high or both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise PriorError(f"Limited: low {self.low:g} is not below high {self.high:g}")

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """The prior's, cut."""
        return self._cut(self.prior.prox(x, step))

    def prox_and_losses(self, x: Tensor, step: Tensor | float) -> tuple[Tensor, dict[str, Tensor]]:
        """The prior's, cut, and its losses."""
        made, told = self.prior.prox_and_losses(x, step)
        return self._cut(made), told

    def layer(self, k: int) -> Prior:
        """A view with the prior of iteration ``k``."""
        inner = self.prior.layer(k)
        if inner is self.prior:
            return self
        view = copy.copy(self)
        view._modules = {"prior": inner}
        return view

    def _cut(self, x: Tensor) -> Tensor:
        if x.is_complex():
            raise PriorError(
                "Limited: a complex object has no lowest and highest value; leave the limits out"
            )
        return torch.clamp(x, self.low, self.high)
