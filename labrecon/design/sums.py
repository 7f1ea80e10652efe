"""What the numbers along an axis sum to: a budget, a total, a count."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon.design.feasible_set import FeasibleSet
from labrecon.design.violation import InfeasibleError, Violations

__all__ = ["Budget", "Simplex", "Subset"]


class Budget(FeasibleSet):
    """``value ≥ low`` and ``Σ cost · value ≤ total`` along ``dim``: a dose, a time, a light budget.

    Args:
        total: what may be spent.
        cost: of one unit of ``value``, positive; broadcasts against ``value``.
        dim: the axis of the sum.
        unit: of ``total``.
        low: the least value.

    Raises:
        InfeasibleError: numbers out of range; on projection, the least values cost more than there
            is.
    """

    cost: Tensor

    def __init__(
        self,
        total: float,
        cost: Tensor | float = 1.0,
        dim: int = -1,
        unit: str = "",
        low: float = 0.0,
    ) -> None:
        super().__init__(unit)
        self.register_buffer("cost", torch.as_tensor(cost, dtype=torch.float64))
        if not 0 <= total < math.inf or not bool((self.cost > 0).all()):
            raise InfeasibleError(
                f"a budget needs a finite total ≥ 0 and positive costs, got {total} and {cost}"
            )
        if not 0 <= low < math.inf:
            raise InfeasibleError(f"the least value of a budget is finite and ≥ 0, got {low}")
        self.total, self.low = float(total), float(low)
        self.dim = dim

    def project(self, value: Tensor) -> Tensor:
        """``max(value − μ cost, low)`` with the smallest ``μ ≥ 0`` that meets the budget."""
        wide = self._wide(value) - self.low
        cost = self.cost.to(wide)
        left = self.total
        if self.low:
            left -= self.low * float(cost.expand(wide.shape).sum(self.dim).max())
        if left < 0:
            raise InfeasibleError(
                f"{wide.shape[self.dim]} values of at least {self.low:g} cost more than "
                f"{self.total:g}"
            )
        clipped = wide.clamp_min(0)
        inside = (cost * clipped).sum(self.dim, keepdim=True) <= left
        on_plane = _weighted_simplex(wide, cost, left, self.dim)
        return (torch.where(inside, clipped, on_plane) + self.low).to(value.dtype)

    def violations(self, value: Tensor) -> Violations:
        """``negative`` or ``too small`` values, and what is ``over budget``."""
        spent, rounding = _sum(value, self.cost, self.dim)
        rule = "too small" if self.low else "negative"
        small = self._not_finite(value) | self._broken(rule, self.low - value)
        return small | self._broken("over budget", spent - self.total, rounding)


class Simplex(FeasibleSet):
    """``value ≥ 0`` and ``Σ value = total`` along ``dim``."""

    def __init__(self, total: float = 1.0, dim: int = -1, unit: str = "") -> None:
        super().__init__(unit)
        if not 0 < total < math.inf:
            raise InfeasibleError(f"the total must be positive and finite, got {total}")
        self.total = float(total)
        self.dim = dim

    def project(self, value: Tensor) -> Tensor:
        """``max(value − μ, 0)`` with the ``μ`` that gives the total (Duchi et al. 2008)."""
        wide = self._wide(value)
        return _weighted_simplex(wide, wide.new_ones(()), self.total, self.dim).to(value.dtype)

    def violations(self, value: Tensor) -> Violations:
        """``negative`` values and how far the ``sum`` is from the total."""
        total, rounding = _sum(value, torch.ones(()), self.dim)
        negative = self._not_finite(value) | self._broken("negative", -value)
        return negative | self._broken("sum", (total - self.total).abs(), rounding)


class Subset(FeasibleSet):
    """Choose ``k`` along ``dim``: relaxed to ``0 ≤ w ≤ 1, Σ w = k``, hardened to the top ``k``."""

    def __init__(self, k: int, dim: int = -1, unit: str = "") -> None:
        super().__init__(unit)
        if k < 1:
            raise InfeasibleError(f"a subset needs at least one member, got k={k}")
        self.k = k
        self.dim = dim

    def _require_enough(self, value: Tensor) -> Tensor:
        if self.k > value.shape[self.dim]:
            raise InfeasibleError(f"{self.k} can not be chosen from {value.shape[self.dim]}")
        return self._wide(value)

    def project(self, value: Tensor) -> Tensor:
        """``clip(value − μ, 0, 1)`` with the ``μ`` that makes the sum ``k``, by bisection."""
        wide = self._require_enough(value)
        low = wide.amin(self.dim, keepdim=True) - 1
        high = wide.amax(self.dim, keepdim=True)
        for _ in range(80):
            mid = 0.5 * (low + high)
            over = (wide - mid).clamp(0, 1).sum(self.dim, keepdim=True) > self.k
            low, high = torch.where(over, mid, low), torch.where(over, high, mid)
        return (wide - 0.5 * (low + high)).clamp(0, 1).to(value.dtype)

    def violations(self, value: Tensor) -> Violations:
        """Weights ``outside [0, 1]`` and how far the ``count`` is from ``k``."""
        count, rounding = _sum(value, torch.ones(()), self.dim)
        outside = self._broken("outside [0, 1]", torch.maximum(-value, value - 1))
        return (
            self._not_finite(value)
            | outside
            | self._broken("count", (count - self.k).abs(), rounding)
        )

    def harden(self, value: Tensor) -> Tensor:
        """1 at the ``k`` largest weights, 0 elsewhere."""
        self._require_enough(value)
        chosen = value.topk(self.k, dim=self.dim).indices
        return torch.zeros_like(value).scatter(self.dim, chosen, 1.0)


def _sum(value: Tensor, cost: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """``Σ cost · value`` and how much of it may be rounding of ``value``."""
    terms = cost.cpu() * value.detach().cpu().double()
    return terms.sum(dim), torch.finfo(value.dtype).eps * terms.abs().sum(dim)


def _weighted_simplex(value: Tensor, cost: Tensor, total: float, dim: int) -> Tensor:
    """Projection onto ``{x ≥ 0, Σ c x = total}``: ``max(v − μ c, 0)``, ``μ`` found by sorting."""
    v = value.movedim(dim, -1)
    c = torch.broadcast_to(cost, value.shape).movedim(dim, -1)
    order = (v / c).argsort(dim=-1, descending=True)
    vs, cs = v.gather(-1, order), c.gather(-1, order)
    mu = ((cs * vs).cumsum(-1) - total) / cs.square().cumsum(-1)
    active = (vs / cs > mu).sum(-1, keepdim=True).clamp_min(1) - 1
    x = (v - mu.gather(-1, active) * c).clamp_min(0)
    return x.movedim(-1, dim)
