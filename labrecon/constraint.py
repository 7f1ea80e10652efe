"""Constraints on learned numbers, as parametrisations: whatever the optimiser does, they hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CONSTRAINTS", "Constraint", "Decreasing", "Increasing", "Positive", "UnitInterval"]


class Constraint(nn.Module):
    """A smooth map from free numbers onto those that are allowed.

    It serves `labrecon.Schedule` and `torch.nn.utils.parametrize.register_parametrization` alike.

    Attributes:
        separable: each number depends on one free number only.
    """

    separable = True

    def forward(self, raw: Tensor) -> Tensor:
        """The allowed numbers."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def right_inverse(self, value: Tensor) -> Tensor:
        """The free numbers that give ``value``.

        Raises:
            ValueError: ``value`` is not allowed.
        """
        raise TypeError(f"{type(self).__name__} does not define right_inverse")

    def _require(self, allowed: Tensor, value: Tensor, told: str) -> None:
        if not bool(allowed.all()):
            raise ValueError(f"numbers must be {told}, got {value.tolist()}")


class Positive(Constraint):
    """``exp(r)``: a step of the optimiser changes the number by a factor."""

    def forward(self, raw: Tensor) -> Tensor:
        """``exp(r)``."""
        return raw.exp()

    def right_inverse(self, value: Tensor) -> Tensor:
        """``log v``."""
        self._require((value > 0) & torch.isfinite(value), value, "positive")
        return value.log()


class UnitInterval(Constraint):
    """``1 / (1 + exp(−r))``, in (0, 1): a momentum, a relaxation."""

    def forward(self, raw: Tensor) -> Tensor:
        """``σ(r)``."""
        return raw.sigmoid()

    def right_inverse(self, value: Tensor) -> Tensor:
        """``log v − log(1 − v)``."""
        self._require((value > 0) & (value < 1), value, "in (0, 1)")
        return value.logit()


class Increasing(Constraint):
    """Positive and strictly increasing along the last axis.

    ``v₀ = softplus(r₀)``, ``vₖ = vₖ₋₁ + softplus(rₖ)``.

    Example:
        >>> rising = Increasing()
        >>> rising(rising.right_inverse(torch.tensor([0.5, 1.0, 3.0])))
        tensor([0.5000, 1.0000, 3.0000])
    """

    separable = False
    told = "positive and increasing"

    def forward(self, raw: Tensor) -> Tensor:
        """The running sum of ``softplus(r)``."""
        return functional.softplus(raw).cumsum(-1)

    def right_inverse(self, value: Tensor) -> Tensor:
        """``log(exp(Δv) − 1)`` of the increments."""
        increments = torch.cat([value[..., :1], value.diff(dim=-1)], -1)
        self._require(increments > 0, value, self.told)
        return increments + torch.log(-torch.expm1(-increments))


class Decreasing(Increasing):
    """Positive and strictly decreasing along the last axis."""

    told = "positive and decreasing"

    def forward(self, raw: Tensor) -> Tensor:
        """The running sum of ``softplus(r)`` from the end."""
        return super().forward(raw.flip(-1)).flip(-1)

    def right_inverse(self, value: Tensor) -> Tensor:
        """That of the reversed numbers."""
        return super().right_inverse(value.flip(-1)).flip(-1)


#: By the names that `labrecon.Schedule` takes.
CONSTRAINTS: dict[str, type[Constraint]] = {
    "positive": Positive,
    "unit": UnitInterval,
    "increasing": Increasing,
    "decreasing": Decreasing,
}
