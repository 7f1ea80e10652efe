"""How a gradient that external code does not give is estimated, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from labrecon.operator import GradientError

__all__ = ["SPSA", "FiniteDifference", "slope_along", "step_for"]

#: ``A`` as a function of one of its arguments.
Curve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FiniteDifference:
    """Central differences, one entry after the other: ``2 n`` forward calls per gradient.

    Args:
        step: in the unit of the parameter; by default ``ε^(1/3)`` of its scale, which is 1 where
            it is zero: state it there.
        at_most: forward calls that a gradient may cost.
    """

    step: float | None = None
    at_most: int = 2000

    def cost(self, size: int) -> int:
        """Forward calls per gradient of ``size`` entries."""
        return 2 * size

    def gradient(self, curve: Curve, v: Tensor, value: Tensor, precision: torch.dtype) -> Tensor:
        """``∂ Re⟨v, curve⟩ / ∂ value`` at ``value``, one entry after the other."""
        self.require(value.numel())
        h = step_for(value, precision, self.step)
        slopes = []
        for i in range(value.numel()):
            e = torch.zeros_like(value).flatten()
            e[i] = h
            slopes.append(_slope(curve, v, value, e.reshape(value.shape), h))
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
        step: in the unit of the parameter; by default ``ε^(1/3)`` of its scale, see
            `FiniteDifference`.
        probes: random directions averaged.
        generator: source of the directions; each gradient draws new ones.
    """

    step: float | None = None
    probes: int = 8
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def cost(self, size: int) -> int:
        """Forward calls per gradient."""
        return 2 * self.probes

    def gradient(self, curve: Curve, v: Tensor, value: Tensor, precision: torch.dtype) -> Tensor:
        """An estimate of ``∂ Re⟨v, curve⟩ / ∂ value`` at ``value``."""
        h = step_for(value, precision, self.step)
        total = torch.zeros_like(value)
        for _ in range(self.probes):
            coin = torch.rand(value.shape, generator=self.generator) < 0.5
            sign = torch.where(coin, -1.0, 1.0).to(value)
            total += sign * _slope(curve, v, value, h * sign, h)
        return total / self.probes

    def require(self, size: int) -> None:
        """Any size will do."""


def _slope(curve: Curve, v: Tensor, value: Tensor, move: Tensor, h: float) -> float:
    """``Re⟨v, curve(value + move) − curve(value − move)⟩ / 2h``."""
    change = curve(value + move) - curve(value - move)
    # The difference first, and in double: the two sums alone may agree to all their digits.
    return float((v.conj() * change).sum(dtype=_wide(v)).real) / (2 * h)


def _wide(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.is_complex() else torch.float64


def step_for(
    value: Tensor, precision: torch.dtype, step: float | None = None, *, rough: bool = False
) -> float:
    """A step of central differences: ``ε^(1/3)`` of the scale of ``value``, or the one given.

    ``rough``: of a function that is itself a central difference, with rounding ``ε^(2/3)``.

    Raises:
        GradientError: the step given is lost in the rounding of ``value``.
    """
    epsilon = max(torch.finfo(precision).eps, torch.finfo(value.dtype).eps)
    if step is not None:
        largest = float(value.detach().abs().max()) if value.numel() else 0.0
        if step < 8 * torch.finfo(value.dtype).eps * largest:
            raise GradientError(
                f"the step {step:g} is lost in the rounding of a value of {largest:g} in "
                f"{value.dtype}: take a larger one, or a parameter in float64"
            )
        return step
    scale = float(value.detach().abs().double().square().mean().sqrt())
    return epsilon ** (2 / 9 if rough else 1 / 3) * (scale if scale > 0 else 1.0)


def slope_along(
    curve: Callable[[Tensor], tuple[Tensor, ...]],
    value: Tensor,
    direction: Tensor,
    precision: torch.dtype,
    step: float | None = None,
    *,
    rough: bool = False,
) -> tuple[Tensor, ...] | None:
    """Directional derivatives of ``curve`` at ``value``: two calls; None where nothing moves."""
    largest = float(direction.detach().abs().max()) if direction.numel() else 0.0
    if largest == 0.0:
        return None
    h = step_for(value, precision, step, rough=rough) / largest
    plus, minus = curve(value + h * direction), curve(value - h * direction)
    return tuple((a - b) / (2 * h) for a, b in zip(plus, minus, strict=True))
