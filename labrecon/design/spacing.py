"""Positions that keep a distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from labrecon.design.box import Box
from labrecon.design.feasible_set import FeasibleSet
from labrecon.design.violation import InfeasibleError, Violations

__all__ = ["MinimumSpacing"]


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
