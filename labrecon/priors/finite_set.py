"""Samples that take one of a few values: symbols of a constellation, grey levels, materials."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from labrecon.prior import Prior, PriorError
from labrecon.schedule import Schedule, number_at

__all__ = ["FiniteSet", "Rule"]

#: How a sample is brought to the set.
Rule = Literal["nearest", "mean", "linear"]


class FiniteSet(Prior):
    """Each sample is one of ``values``: the projection onto them, hard or soft.

    ``"nearest"`` is the projection. The set is not convex: a solver ends in a minimum that depends
    on its start. The two soft rules have derivatives to train through; both become the projection
    as their width ``t`` goes to 0:

    - ``"mean"``: ``Σ aᵢ pᵢ`` with ``pᵢ ∝ exp(−|x − aᵢ|² / 2t²)``: the mean of the values that may
      have given ``x`` with Gaussian noise of standard deviation ``t``.
    - ``"linear"``: a staircase between neighbouring values, with ramps of half width ``t`` at the
      midpoints; of ``{−1, 1}`` it is DetNet's ``ψ_t(x) = −1 + (relu(x + t) − relu(x − t)) / t``
      (Samuel, Diskin and Wiesel 2017). Real values only.

    Args:
        values: two at least, all different; complex ones for complex objects.
        rule: see above.
        width: ``t`` of a soft rule in units of the object, or a `Schedule`, which may be learned.

    Raises:
        PriorError: fewer than two values, equal ones, or an option is wrong.

    Example:
        >>> FiniteSet([-1.0, 0.0, 2.0]).prox(torch.tensor([-0.6, 0.4, 1.2]), 1.0)
        tensor([-1.,  0.,  2.])
    """

    separable = True
    values: Tensor

    def __init__(
        self,
        values: Sequence[complex] | Tensor,
        *,
        rule: Rule = "nearest",
        width: float | Schedule | None = None,
    ) -> None:
        super().__init__()
        points = torch.as_tensor(values)
        points = points.to(torch.complex128 if points.is_complex() else torch.float64)
        distinct = len(set(points.tolist())) == points.numel() if points.ndim == 1 else False
        if not distinct or len(points) < 2 or not bool(points.isfinite().all()):
            raise PriorError(
                f"FiniteSet: values is a list of two or more different finite numbers, got {values}"
            )
        if rule not in get_args(Rule):
            raise PriorError(f"FiniteSet: rule is one of {', '.join(get_args(Rule))}, got {rule!r}")
        if (width is None) != (rule == "nearest"):
            needed = "needs a width" if width is None else "has no width"
            raise PriorError(f"FiniteSet: the rule {rule!r} {needed}")
        if isinstance(width, int | float) and not width > 0:
            raise PriorError(f"FiniteSet: width is above 0, got {width!r}")
        if rule == "linear" and points.is_complex():
            raise PriorError("FiniteSet: the rule 'linear' takes real values; take 'mean'")
        self.register_buffer("values", points if points.is_complex() else points.sort().values)
        self.rule = rule
        self.width = width
        self.k = 0

    def layer(self, k: int) -> Prior:
        """The same with the width of layer ``k``."""
        view = copy.copy(self)
        view.k = k
        return view

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """0 where all samples are values of the set, else infinity; for the rule "nearest"."""
        if self.rule != "nearest":
            return super().penalty(x, ndim)
        start = x.ndim - (x.ndim if ndim is None else ndim)
        outside = (self.nearest(x) != x).flatten(start).any(-1)
        return torch.where(outside, torch.inf, torch.zeros((), dtype=x.real.dtype, device=x.device))

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """The rule's value, whatever the step."""
        if self.rule == "nearest":
            return self.nearest(x)
        if self.width is None:
            raise PriorError(f"FiniteSet: the rule {self.rule!r} needs a width")
        width = number_at(self.width, self.k)
        return self._mean(x, width) if self.rule == "mean" else self._linear(x, width)

    def nearest(self, x: Tensor) -> Tensor:
        """The value next to each sample; of two that are equally near, the smaller real one.

        What is not a number stays so: no value is next to it.
        """
        values = self._values(x)
        return torch.where(x.isnan(), x, values[self.index(x)])

    def index(self, x: Tensor) -> Tensor:
        """The number of that value in `values`."""
        return (x.unsqueeze(-1) - self._values(x)).abs().argmin(-1)

    def _values(self, x: Tensor) -> Tensor:
        if self.values.is_complex() and not x.is_complex():
            raise PriorError("FiniteSet: complex values for a real object")
        return self.values.to(x.dtype)

    def _mean(self, x: Tensor, width: Tensor | float) -> Tensor:
        values = self._values(x)
        square = (x.unsqueeze(-1) - values).abs().square()
        share = torch.softmax(-square / (2 * width**2), -1)
        return (share.to(x.dtype) * values).sum(-1)

    def _linear(self, x: Tensor, width: Tensor | float) -> Tensor:
        if x.is_complex():
            raise PriorError("FiniteSet: the rule 'linear' takes real objects; take 'mean'")
        values = self._values(x)
        steps, middles = values.diff(), (values[1:] + values[:-1]) / 2
        # The published form takes |t|: a learned width may have any sign.
        t = torch.as_tensor(width, dtype=x.dtype, device=x.device).abs()
        ramps = ((x.unsqueeze(-1) - middles + t) / (2 * t)).clamp(0, 1)
        return values[0] + (ramps * steps).sum(-1)
