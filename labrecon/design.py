"""Feasible sets: what the hardware can do with an acquisition parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    "Violations",
]


class InfeasibleError(ValueError):
    """No value can meet the constraint, or the value given is not a finite real array."""


@dataclass(frozen=True)
class Violation:
    """By how much a value breaks a rule: the largest excess, its unit, and at how many places."""

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
    quantised, the best ``k``. The two agree unless a set says otherwise. Sets along an axis treat
    all other axes as a batch. ``a & b`` is the intersection.

    Args:
        unit: of the parameter, for reports.

    Example:
        >>> (Box(0, 1, unit="s") & Budget(1.5)).project(torch.tensor([2.0, 0.9, -1.0]))
        tensor([1.0000, 0.5000, 0.0000])
    """

    def __init__(self, unit: str = "") -> None:
        super().__init__()
        self.unit = unit

    def project(self, value: Tensor) -> Tensor:
        """The nearest feasible value.

        Raises:
            InfeasibleError: no value of this shape is feasible, or ``value`` is not a finite
                floating-point array.
        """
        raise TypeError(f"{type(self).__name__} does not define project")

    def violations(self, value: Tensor) -> Violations:
        """What ``value`` breaks, by how much; empty if it is feasible to rounding."""
        raise TypeError(f"{type(self).__name__} does not define violations")

    def harden(self, value: Tensor) -> Tensor:
        """The realisable value nearest to a relaxed one."""
        return self.project(value)

    def contains(self, value: Tensor, tolerance: float = 1e-6) -> bool:
        """Whether no rule is broken by more than ``tolerance``."""
        return all(v.amount <= tolerance for v in self.violations(value).values())

    def __and__(self, other: FeasibleSet) -> Intersection:
        return Intersection(self, other)

    def _broken(self, rule: str, excess: Tensor, rounding: Tensor | float = 0.0) -> Violations:
        """``rule`` where ``excess`` is above what rounding explains."""
        excess = excess.detach()
        over = excess > rounding
        if not bool(over.any()):
            return {}
        return {rule: Violation(float(excess[over].max()), self.unit, int(over.sum()))}

    def _not_finite(self, value: Tensor) -> Violations:
        return self._broken("not finite", torch.where(torch.isfinite(value), -torch.inf, torch.inf))

    def _require_finite(self, value: Tensor) -> None:
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise InfeasibleError(
                f"{type(self).__name__}: expected finite floating-point numbers, got "
                f"{int((~torch.isfinite(value)).sum())} of {value.numel()} not finite, "
                f"dtype {value.dtype}"
            )

    def _wide(self, value: Tensor) -> Tensor:
        """``value`` in double precision, where sums along an axis keep what ``value`` holds."""
        self._require_finite(value)
        # Apple's GPUs have no double precision.
        return value.float() if value.device.type == "mps" else value.double()


class Box(FeasibleSet):
    """``low ≤ value ≤ high``; either bound may be None, a number or an array that broadcasts.

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
        self.register_buffer("low", _bound(low))
        self.register_buffer("high", _bound(high))
        if self.low is not None and self.high is not None and bool((self.low > self.high).any()):
            raise InfeasibleError(f"the box is empty: low {low} is above high {high}")

    def project(self, value: Tensor) -> Tensor:
        """Each number clamped to its bounds."""
        self._require_finite(value)
        if self.low is not None:
            value = torch.maximum(value, self.low.to(value))
        if self.high is not None:
            value = torch.minimum(value, self.high.to(value))
        return value

    def violations(self, value: Tensor) -> Violations:
        """Values ``below`` and ``above`` the bounds."""
        broken = self._not_finite(value)
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
        return (self.project(value) >= 0.5).to(value.dtype)


class Quantised(Box):
    """One of several levels: relaxed to the interval that they span, hardened to the nearest.

    Args:
        levels: how many, equidistant from ``low`` to ``high``; or the levels themselves.
        low: the lowest level, where ``levels`` is a number.
        high: the highest level, where ``levels`` is a number.
        unit: of the levels.

    Example:
        >>> Quantised([0, 15, 60], unit="deg").harden(torch.tensor([7.0, 30.0, 99.0]))
        tensor([ 0., 15., 60.])
    """

    levels: Tensor

    def __init__(
        self,
        levels: int | Sequence[float] | Tensor,
        low: float = 0.0,
        high: float = 1.0,
        unit: str = "",
    ) -> None:
        if isinstance(levels, int):
            if levels < 2 or not high > low:
                raise InfeasibleError(
                    f"need at least 2 levels and high > low, got {levels} from {low} to {high}"
                )
            values = torch.linspace(low, high, levels, dtype=torch.float64)
        else:
            values = torch.tensor(sorted({float(v) for v in levels}), dtype=torch.float64)
            if len(values) < 2 or not bool(torch.isfinite(values).all()):
                raise InfeasibleError(f"need at least 2 different finite levels, got {levels}")
        super().__init__(float(values[0]), float(values[-1]), unit)
        self.register_buffer("levels", values)

    def harden(self, value: Tensor) -> Tensor:
        """The nearest level."""
        levels = self.levels.to(value.device)
        between = (levels[1:] + levels[:-1]) / 2
        index = torch.bucketize(self.project(value).to(between).contiguous(), between)
        return levels[index].to(value)


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


class MinimumSpacing(FeasibleSet):
    """Positions along the last axis at least ``distance`` apart, in whatever order they come.

    Memory grows with the square of the number of positions: not for many thousands.

    Args:
        distance: smallest gap between neighbours.
        low: lower bound, or None.
        high: upper bound, or None.
        period: positions repeat after it (angles), and the last neighbours the first; without
            bounds. `project` keeps positions near where they were, it does not wrap them.
        unit: of positions and distance.

    Example:
        >>> MinimumSpacing(1.0, low=0.0).project(torch.tensor([2.0, 0.2, 0.0]))
        tensor([2., 1., 0.])
    """

    def __init__(
        self,
        distance: float,
        low: float | None = None,
        high: float | None = None,
        period: float | None = None,
        unit: str = "",
    ) -> None:
        super().__init__(unit)
        if not distance > 0:
            raise InfeasibleError(f"the distance must be positive, got {distance}")
        if period is not None and (low is not None or high is not None):
            raise InfeasibleError("positions have a period or bounds, not both")
        if period is not None and not distance <= period:
            raise InfeasibleError(f"the distance {distance} is longer than the period {period}")
        self.distance = float(distance)
        self.bounds = Box(low, high, unit)
        self.low = low
        self.high = high
        self.period = period

    def project(self, value: Tensor) -> Tensor:
        """Isotonic regression of the sorted positions minus ``i · distance``, then the bounds."""
        wide = self._wide(value)
        n = value.shape[-1]
        room = self._room(n)
        lap = wide - self._wrap(wide)
        positions, order = (wide - lap).sort(dim=-1)
        ladder = self.distance * torch.arange(n, dtype=wide.dtype, device=wide.device)
        slack = _isotonic(positions - ladder)
        if self.period is not None:
            low = _best_window(slack, room)
            slack = torch.minimum(torch.maximum(slack, low), low + room)
        elif self.low is not None:
            slack = slack.clamp(self.low, self.low + room)
        elif self.high is not None:
            slack = slack.clamp_max(self.high - (n - 1) * self.distance)
        spaced = torch.zeros_like(wide).scatter(-1, order, slack + ladder) + lap
        return self.bounds.project(spaced.to(value.dtype))

    def violations(self, value: Tensor) -> Violations:
        """Gaps that are ``too close`` and positions ``below`` or ``above`` the bounds."""
        value = value.detach().cpu()
        positions = self._wrap(value.double()).sort(dim=-1).values
        gaps = positions.diff(dim=-1)
        if self.period is not None:
            gaps = torch.cat([gaps, positions[..., :1] + self.period - positions[..., -1:]], -1)
        rounding = 2 * torch.finfo(value.dtype).eps * value.abs().amax(-1, keepdim=True)
        close = self._broken("too close", self.distance - gaps, rounding)
        return close | self.bounds.violations(value)

    def _wrap(self, value: Tensor) -> Tensor:
        return value if self.period is None else value.remainder(self.period)

    def _room(self, n: int) -> float:
        """How far the first and the last of ``n`` positions can move apart from the minimum."""
        if self.period is not None:
            available, needed = self.period, n * self.distance
        elif self.low is not None and self.high is not None:
            available, needed = self.high - self.low, (n - 1) * self.distance
        else:
            return math.inf
        if needed > available * (1 + 1e-9):
            raise InfeasibleError(
                f"{n} positions {self.distance:g} {self.unit} apart need {needed:g}; the range "
                f"has {available:g}"
            )
        return max(available - needed, 0.0)


class Intersection(FeasibleSet):
    """Values in every one of several sets; `project` is Dykstra's (1983) alternating projection.

    The nearest value is found to rounding where all sets are convex; `MinimumSpacing` is not
    (the order of the positions is free), so that it gives a feasible value near the nearest.
    `harden` projects and then hardens for each set in turn: name the discrete set last, and look
    at `violations`, since rounding up may break a budget.

    Args:
        sets: the sets; nested intersections are flattened.
        iterations: most rounds of projections.
    """

    def __init__(self, *sets: FeasibleSet, iterations: int = 2000) -> None:
        wrong = [s for s in sets if not isinstance(s, FeasibleSet)]
        if not sets or wrong:
            raise TypeError(f"an intersection is of feasible sets, got {wrong or 'none'}")
        super().__init__(sets[0].unit)
        self.parts: list[FeasibleSet] = []
        for s in sets:
            self.parts += s.parts if isinstance(s, Intersection) else [s]
        self.iterations = iterations

    def project(self, value: Tensor) -> Tensor:
        """The nearest value in all sets.

        Raises:
            InfeasibleError: the alternating projections do not meet: no value is in all sets.
        """
        x = self._wide(value)
        size = 1 + float(x.detach().abs().max()) if x.numel() else 1.0
        corrections = [torch.zeros_like(x) for _ in self.parts]
        for _ in range(self.iterations):
            # The iterate may rest for some rounds before it moves on; the corrections do not.
            change = 0.0
            for i, part in enumerate(self.parts):
                moved = x + corrections[i]
                x = part.project(moved)
                change = max(change, float((moved - x - corrections[i]).detach().abs().max()))
                corrections[i] = moved - x
            if change <= 1e-13 * size:
                break
        if not self.contains(x, 1e-6 * size):
            raise InfeasibleError(
                f"no value meets all rules, or {self.iterations} rounds do not reach it: "
                + ", ".join(f"{rule} {text}" for rule, text in self.violations(x).items())
            )
        return x.to(value.dtype)

    def violations(self, value: Tensor) -> Violations:
        """The violations of all sets."""
        return {
            f"{type(part).__name__}: {rule}": violation
            for part in self.parts
            for rule, violation in part.violations(value).items()
        }

    def harden(self, value: Tensor) -> Tensor:
        """Projected, then hardened for each set in turn."""
        value = self.project(value)
        for part in self.parts:
            value = part.harden(value)
        return value


def _bound(value: Tensor | float | None) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.float64)


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


def _isotonic(values: Tensor) -> Tensor:
    """Nearest non-decreasing sequence along the last axis: ``max_i≤k min_j≥k mean(i..j)``."""
    n = values.shape[-1]
    sums = nn.functional.pad(values.cumsum(-1), (1, 0))
    i = torch.arange(n, device=values.device)
    length = (i[None, :] - i[:, None] + 1).to(values.dtype)
    means = (sums[..., None, 1:] - sums[..., :-1, None]) / length.clamp_min(1)
    means = torch.where(length >= 1, means, torch.inf)
    tails = means.flip(-1).cummin(-1).values.flip(-1)
    rows = torch.where(length >= 1, tails, -torch.inf)
    return rows.amax(-2)


def _best_window(slack: Tensor, room: float) -> Tensor:
    """The ``low`` for which clipping a sorted ``slack`` to ``[low, low + room]`` costs least."""
    low, high = slack[..., :1] - room, slack[..., -1:]
    for _ in range(80):
        mid = 0.5 * (low + high)
        pull = (mid - slack).clamp_min(0) - (slack - mid - room).clamp_min(0)
        rising = pull.sum(-1, keepdim=True) > 0
        low, high = torch.where(rising, low, mid), torch.where(rising, mid, high)
    return 0.5 * (low + high)
