"""How a gradient that external code does not give is estimated, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from labrecon.operator import GradientError

__all__ = ["SPSA", "FiniteDifference", "central", "step_for"]

#: A scalar-valued function of one array: its inner product with the cotangent.
Score = Callable[[Tensor], float]


@dataclass(frozen=True)
class FiniteDifference:
    """Central differences, one entry after the other: ``2 n`` forward calls per gradient.

    Args:
        step: in the unit of the parameter; by default ``ε^(1/3)`` of its scale.
        at_most: forward calls that a gradient may cost.
    """

    step: float | None = None
    at_most: int = 2000

    def cost(self, size: int) -> int:
        """Forward calls per gradient of ``size`` entries."""
        return 2 * size

    def gradient(self, score: Score, value: Tensor, precision: torch.dtype) -> Tensor:
        """``∂ score / ∂ value`` at ``value``."""
        self.require(value.numel())
        h = step_for(value, precision, self.step)
        slopes = []
        for i in range(value.numel()):
            e = torch.zeros_like(value).flatten()
            e[i] = h
            e = e.reshape(value.shape)
            slopes.append((score(value + e) - score(value - e)) / (2 * h))
        return torch.tensor(slopes, dtype=value.dtype, device=value.device).reshape(value.shape)

    def require(self, size: int) -> None:
        """Raise `GradientError` if a gradient of ``size`` entries costs too much."""
        if self.cost(size) > self.at_most:
            raise GradientError(
                f"finite differences of {size} numbers take {self.cost(size)} forward calls per "
                f"gradient, above the limit of {self.at_most}: supply vjp or adjoint, take SPSA, "
                "or raise FiniteDifference(at_most=…)"
            )


@dataclass(frozen=True)
class SPSA:
    """Simultaneous perturbation: ``2 · probes`` forward calls per gradient, however many entries.

    An unbiased but noisy estimate (Spall 1992): its error falls with ``1/√probes``. It suits
    stochastic optimisation of many parameters, and nothing that needs an exact gradient.

    Args:
        step: in the unit of the parameter; by default ``ε^(1/3)`` of its scale.
        probes: random directions averaged.
        generator: source of the directions; each gradient draws new ones.
    """

    step: float | None = None
    probes: int = 8
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def cost(self, size: int) -> int:
        """Forward calls per gradient."""
        return 2 * self.probes

    def gradient(self, score: Score, value: Tensor, precision: torch.dtype) -> Tensor:
        """An estimate of ``∂ score / ∂ value`` at ``value``."""
        h = step_for(value, precision, self.step)
        total = torch.zeros_like(value)
        for _ in range(self.probes):
            coin = torch.rand(value.shape, generator=self.generator) < 0.5
            sign = torch.where(coin, -1.0, 1.0).to(value)
            total += sign * ((score(value + h * sign) - score(value - h * sign)) / (2 * h))
        return total / self.probes

    def require(self, size: int) -> None:
        """Any size will do."""


def step_for(
    value: Tensor, precision: torch.dtype, step: float | None = None, *, rough: bool = False
) -> float:
    """A step of central differences: ``ε^(1/3)`` of the scale of ``value``, or the one given.

    ``rough``: of a function that is itself a central difference, with rounding ``ε^(2/3)``.
    """
    if step is not None:
        return step
    scale = float(value.detach().abs().double().square().mean().sqrt())
    epsilon = max(torch.finfo(precision).eps, torch.finfo(value.dtype).eps)
    return epsilon ** (2 / 9 if rough else 1 / 3) * (scale if scale > 0 else 1.0)


def central(
    function: Callable[..., tuple[Tensor, ...]],
    at: tuple[Tensor, ...],
    along: tuple[Tensor, ...],
    precision: torch.dtype,
    *,
    rough: bool = False,
) -> tuple[Tensor, ...]:
    """Directional derivatives of ``function`` at ``at`` along ``along``: two calls."""
    h = math.inf
    for value, u in zip(at, along, strict=True):
        largest = float(u.detach().abs().max())
        if largest > 0:
            h = min(h, step_for(value, precision, rough=rough) / largest)
    if h == math.inf:
        return tuple(torch.zeros_like(y) for y in function(*at))
    plus = function(*(value + h * u for value, u in zip(at, along, strict=True)))
    minus = function(*(value - h * u for value, u in zip(at, along, strict=True)))
    return tuple((a - b) / (2 * h) for a, b in zip(plus, minus, strict=True))
