"""Feasible sets: what the hardware can do with an acquisition parameter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = [
    "Binary",
    "Box",
    "Budget",
    "FeasibleSet",
    "InfeasibleError",
    "Intersection",
    "MinimumSpacing",
    "NonNegative",
    "Quantised",
    "Simplex",
    "Subset",
    "Violation",
]


class InfeasibleError(ValueError):
    """No value can meet the constraint."""


@dataclass(frozen=True)
class Violation:
    """By how much a value breaks a rule: the largest excess, in ``unit``, and at how many places."""

    amount: float
    unit: str = ""
    count: int = 1

    def __str__(self) -> str:
        places = "" if self.count == 1 else f" at {self.count} places"
        return f"{self.amount:.4g} {self.unit}".rstrip() + places


Violations = dict[str, Violation]


class FeasibleSet(nn.Module):
    """Values that the instrument can realise.

    `project` is the Euclidean projection onto the (relaxed, mostly convex) set; it is what an
    optimiser calls after each step. `harden` goes to the values that the hardware loads: binary,
    quantised, the best ``k``. The two agree unless a set says otherwise.

    Args:
        unit: of the parameter, for reports.
    """

    def __init__(self, unit: str = "") -> None:
        super().__init__()
        self.unit = unit

    def project(self, value: Tensor) -> Tensor:
        """The nearest feasible value."""
        raise TypeError(f"{type(self).__name__} does not define project")

    def violations(self, value: Tensor) -> Violations:
        """What ``value`` breaks, by how much; empty if it is feasible."""
        raise TypeError(f"{type(self).__name__} does not define violations")

    def harden(self, value: Tensor) -> Tensor:
        """The realisable value nearest to a relaxed one."""
        return self.project(value)

    def contains(self, value: Tensor, tolerance: float = 1e-6) -> bool:
        """Whether no rule is broken by more than ``tolerance``."""
        return all(v.amount <= tolerance for v in self.violations(value).values())

    def __and__(self, other: FeasibleSet) -> Intersection:
        return Intersection(self, other)

    def _broken(self, rule: str, excess: Tensor) -> Violations:
        if not bool(torch.isfinite(excess).all()):
            return {rule: Violation(float("inf"), self.unit, int((~torch.isfinite(excess)).sum()))}
        over = excess > 0
        if not bool(over.any()):
            return {}
        return {rule: Violation(float(excess.max()), self.unit, int(over.sum()))}


class Box(FeasibleSet):
    """``low ≤ value ≤ high``; either bound may be None.

    Example:
        >>> Box(0, 1).project(torch.tensor([-1.0, 0.5, 2.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    low: Tensor | None
    high: Tensor | None

    def __init__(
        self,
        low: Tensor | float | None = None,
        high: Tensor | float | None = None,
        unit: str = "",
    ) -> None:
        super().__init__(unit)
        self.register_buffer("low", None if low is None else torch.as_tensor(low))
        self.register_buffer("high", None if high is None else torch.as_tensor(high))
        if self.low is not None and self.high is not None and bool((self.low > self.high).any()):
            raise InfeasibleError(f"the box is empty: low {low} is above high {high}")

    def project(self, value: Tensor) -> Tensor:
        """Each number clamped to its bounds."""
        if self.low is not None:
            value = torch.maximum(value, self.low.to(value))
        if self.high is not None:
            value = torch.minimum(value, self.high.to(value))
        return value

    def violations(self, value: Tensor) -> Violations:
        """``below`` and ``above`` the bounds."""
        broken: Violations = {}
        if self.low is not None:
            broken |= self._broken("below", self.low.to(value) - value)
        if self.high is not None:
            broken |= self._broken("above", value - self.high.to(value))
        return broken


class NonNegative(Box):
    """``value ≥ 0``."""

    def __init__(self, unit: str = "") -> None:
        super().__init__(low=0.0, unit=unit)


class Binary(Box):
    """On or off: relaxed to [0, 1], hardened to the nearer of 0 and 1."""

    def __init__(self, unit: str = "") -> None:
        super().__init__(0.0, 1.0, unit)

    def harden(self, value: Tensor) -> Tensor:
        """1 where ``value ≥ ½``, else 0."""
        return (value >= 0.5).to(value.dtype)


class Quantised(Box):
    """``levels`` equidistant values from ``low`` to ``high``: relaxed to the interval."""

    def __init__(self, levels: int, low: float = 0.0, high: float = 1.0, unit: str = "") -> None:
        super().__init__(low, high, unit)
        if levels < 2 or not high > low:
            raise InfeasibleError(f"need at least 2 levels and high > low, got {levels} levels")
        self.bottom = low
        self.step = (high - low) / (levels - 1)

    def harden(self, value: Tensor) -> Tensor:
        """The nearest level."""
        return self.bottom + self.step * ((self.project(value) - self.bottom) / self.step).round()


class Budget(FeasibleSet):
    """``value ≥ 0`` and ``Σ cost · value ≤ total`` along ``dim``: a dose, a time, a light budget."""

    cost: Tensor

    def __init__(
        self, total: float, cost: Tensor | float = 1.0, dim: int = -1, unit: str = ""
    ) -> None:
        super().__init__(unit)
        self.register_buffer("cost", torch.as_tensor(cost, dtype=torch.float64))
        if not total >= 0 or not bool((self.cost > 0).all()):
            raise InfeasibleError("a budget needs a total ≥ 0 and positive costs")
        self.total = float(total)
        self.dim = dim

    def project(self, value: Tensor) -> Tensor:
        """``max(value − μ cost, 0)`` with the smallest ``μ ≥ 0`` that meets the budget."""
        cost = self.cost.to(value)
        clipped = value.clamp_min(0)
        spent = (cost * clipped).sum(self.dim, keepdim=True)
        inside = spent <= self.total
        return torch.where(inside, clipped, _weighted_simplex(value, cost, self.total, self.dim))

    def violations(self, value: Tensor) -> Violations:
        """``negative`` values and what is ``over budget``."""
        spent = (self.cost.to(value) * value).sum(self.dim)
        return self._broken("negative", -value) | self._broken("over budget", spent - self.total)


class Simplex(FeasibleSet):
    """``value ≥ 0`` and ``Σ value = total`` along ``dim``."""

    def __init__(self, total: float = 1.0, dim: int = -1, unit: str = "") -> None:
        super().__init__(unit)
        if not total > 0:
            raise InfeasibleError(f"the total must be positive, got {total}")
        self.total = float(total)
        self.dim = dim

    def project(self, value: Tensor) -> Tensor:
        """``max(value − μ, 0)`` with the ``μ`` that gives the total (Duchi et al. 2008)."""
        return _weighted_simplex(value, torch.ones_like(value), self.total, self.dim)

    def violations(self, value: Tensor) -> Violations:
        """``negative`` values and how far the ``sum`` is from the total."""
        off = (value.sum(self.dim) - self.total).abs()
        return self._broken("negative", -value) | self._broken("sum", off)


class Subset(FeasibleSet):
    """Choose ``k`` along ``dim``: relaxed to ``0 ≤ w ≤ 1, Σ w = k``, hardened to the ``k`` largest."""

    def __init__(self, k: int, dim: int = -1, unit: str = "") -> None:
        super().__init__(unit)
        if k < 1:
            raise InfeasibleError(f"a subset needs at least one member, got k={k}")
        self.k = k
        self.dim = dim

    def _require_enough(self, value: Tensor) -> None:
        if self.k > value.shape[self.dim]:
            raise InfeasibleError(f"{self.k} can not be chosen from {value.shape[self.dim]}")

    def project(self, value: Tensor) -> Tensor:
        """``clip(value − μ, 0, 1)`` with the ``μ`` that makes the sum ``k``, by bisection."""
        self._require_enough(value)
        low = value.amin(self.dim, keepdim=True) - 1
        high = value.amax(self.dim, keepdim=True)
        for _ in range(80):
            mid = 0.5 * (low + high)
            over = (value - mid).clamp(0, 1).sum(self.dim, keepdim=True) > self.k
            low, high = torch.where(over, mid, low), torch.where(over, high, mid)
        return (value - 0.5 * (low + high)).clamp(0, 1)

    def violations(self, value: Tensor) -> Violations:
        """Weights ``outside [0, 1]`` and how far the ``count`` is from ``k``."""
        outside = torch.maximum(-value, value - 1)
        off = (value.sum(self.dim) - self.k).abs()
        return self._broken("outside [0, 1]", outside) | self._broken("count", off)

    def harden(self, value: Tensor) -> Tensor:
        """1 at the ``k`` largest weights, 0 elsewhere."""
        self._require_enough(value)
        chosen = value.topk(self.k, dim=self.dim).indices
        return torch.zeros_like(value).scatter(self.dim, chosen, 1.0)


class MinimumSpacing(FeasibleSet):
    """Positions at least ``distance`` apart and within bounds, whatever their order.

    Args:
        distance: smallest gap between neighbours.
        low: lower bound, or None.
        high: upper bound, or None.
        unit: of positions and distance.
    """

    def __init__(
        self,
        distance: float,
        low: float | None = None,
        high: float | None = None,
        unit: str = "",
    ) -> None:
        super().__init__(unit)
        if not distance > 0:
            raise InfeasibleError(f"the distance must be positive, got {distance}")
        self.distance = float(distance)
        self.low = low
        self.high = high

    def project(self, value: Tensor) -> Tensor:
        """Isotonic regression of the sorted positions minus ``i · distance``, then the bounds."""
        n = value.shape[-1]
        if self.low is not None and self.high is not None:
            needed = (n - 1) * self.distance
            if needed > (self.high - self.low) * (1 + 1e-9):
                raise InfeasibleError(
                    f"{n} positions {self.distance:g} {self.unit} apart need {needed:g}; the "
                    f"range has {self.high - self.low:g}"
                )
        order = value.argsort(dim=-1)
        ladder = self.distance * torch.arange(n, dtype=value.dtype, device=value.device)
        slack = _isotonic(value.gather(-1, order) - ladder)
        if self.low is not None:
            slack = slack.clamp_min(self.low)
        if self.high is not None:
            slack = slack.clamp_max(self.high - (n - 1) * self.distance)
        return torch.zeros_like(value).scatter(-1, order, slack + ladder)

    def violations(self, value: Tensor) -> Violations:
        """Gaps that are ``too close`` and positions ``below`` or ``above`` the bounds."""
        gaps = value.sort(dim=-1).values.diff(dim=-1)
        broken = self._broken("too close", self.distance - gaps) if gaps.numel() else {}
        return broken | Box(self.low, self.high, self.unit).violations(value)


class Intersection(FeasibleSet):
    """Values in every one of several sets; `project` is Dykstra's (1983) alternating projection.

    `harden` hardens for each set in turn: name the discrete set last.
    """

    def __init__(self, *sets: FeasibleSet, iterations: int = 200) -> None:
        super().__init__(sets[0].unit)
        parts = [p for s in sets for p in (s.parts if isinstance(s, Intersection) else [s])]
        self.parts: list[FeasibleSet] = [p for p in parts if isinstance(p, FeasibleSet)]
        self.iterations = iterations

    def project(self, value: Tensor) -> Tensor:
        """The nearest value in all sets.

        Raises:
            InfeasibleError: the alternating projections do not meet: no value is in all sets.
        """
        x = value
        corrections = [torch.zeros_like(value) for _ in self.parts]
        for _ in range(self.iterations):
            before = x
            for i, part in enumerate(self.parts):
                moved = x + corrections[i]
                x = part.project(moved)
                corrections[i] = moved - x
            if bool((x - before).abs().max() <= 1e-9 * (1 + x.abs().max())):
                break
        if not self.contains(x, 1e-3 * (1 + float(x.detach().abs().max()))):
            raise InfeasibleError(f"no value meets all rules: {self._texts(x)}")
        return x

    def violations(self, value: Tensor) -> Violations:
        """The violations of all sets."""
        return {
            f"{type(part).__name__}: {rule}": violation
            for part in self.parts
            for rule, violation in part.violations(value).items()
        }

    def harden(self, value: Tensor) -> Tensor:
        """Hardened for each set in turn."""
        for part in self.parts:
            value = part.harden(value)
        return value

    def _texts(self, value: Tensor) -> dict[str, str]:
        return {rule: str(violation) for rule, violation in self.violations(value).items()}


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


def _isotonic(values: Tensor) -> Tensor:
    """Nearest non-decreasing sequence along the last axis: ``max_i≤k min_j≥k mean(i..j)``."""
    n = values.shape[-1]
    sums = torch.nn.functional.pad(values.cumsum(-1), (1, 0))
    i = torch.arange(n, device=values.device)
    length = (i[None, :] - i[:, None] + 1).to(values.dtype)
    means = (sums[..., None, 1:] - sums[..., :-1, None]) / length.clamp_min(1)
    means = torch.where(length >= 1, means, torch.inf)
    tails = means.flip(-1).cummin(-1).values.flip(-1)
    rows = torch.where(length >= 1, tails, -torch.inf)
    return rows.amax(-2)
