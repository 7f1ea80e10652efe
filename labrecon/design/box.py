"""Bounds of each number, and the values between them that the hardware loads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon.design.feasible_set import FeasibleSet
from labrecon.design.violation import InfeasibleError, Violations

__all__ = ["Binary", "Box", "NonNegative", "Quantised"]


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


def _bound(value: Tensor | float | None) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.float64)
