"""LEDPatterns: brightness patterns that an LED array can show, of equal light in each exposure."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.design import FeasibleSet, InfeasibleError, Simplex, Violations

__all__ = ["LEDPatterns"]


class LEDPatterns(FeasibleSet):
    """``w ≥ 0`` with ``Σ_l w = 1`` in each exposure, and 0 where an LED may not be lit.

    The light of an exposure is its brightness times its duration: what an array is set to are the
    ratios ``w / max w`` on the grid of its levels, and the exposure lasts until ``Σ w = 1``.
    `project` is the nearest pattern; `harden` rounds the ratios to levels.

    Args:
        allowed: (exposure, led) or (led,), 1 where an LED may be lit.
        levels: brightness levels, off included.

    Raises:
        InfeasibleError: an exposure may light nothing.

    Example:
        >>> patterns = LEDPatterns(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), levels=5)
        >>> patterns.harden(torch.tensor([[0.5, 0.4, 0.02, 0.9]]))
        tensor([[0.5714, 0.4286, 0.0000, 0.0000]])
    """

    allowed: Tensor

    def __init__(self, allowed: Tensor, levels: int = 256) -> None:
        super().__init__("of an exposure's light")
        self.register_buffer("allowed", (allowed > 0).double())
        self.levels = int(levels)
        self.simplex = Simplex(1.0)
        if self.levels < 2 or not bool((self.allowed.sum(-1) > 0).all()):
            raise InfeasibleError("in every exposure an LED may be lit, at one of 2 levels or more")

    def project(self, value: Tensor) -> Tensor:
        """The nearest point of the simplex of the LEDs that may be lit."""
        self._require_finite(value)
        allowed = self.allowed.to(value.device).expand(value.shape)
        # Far below everything else they stay at zero.
        low = value.detach().amin(-1, keepdim=True) - 2.0
        return self.simplex.project(torch.where(allowed > 0, value, low)) * allowed.to(value.dtype)

    def violations(self, value: Tensor) -> Violations:
        """What is ``negative``, ``not to be lit``, and how far the ``sum`` is from 1."""
        allowed = self.allowed.to(value.device).expand(value.shape)
        lit = torch.where(allowed > 0, -torch.inf, value.detach().abs().double())
        return self.simplex.violations(value) | self._broken("not to be lit", lit)

    def harden(self, value: Tensor) -> Tensor:
        """Ratios to the brightest LED, rounded to levels."""
        value = self.project(value)
        steps = self.codes(value).to(value.dtype)
        return steps / steps.sum(-1, keepdim=True)

    def codes(self, value: Tensor) -> Tensor:
        """What the controller is sent: whole numbers from 0 to ``levels − 1``."""
        ratio = value.detach().double() / value.detach().double().amax(-1, keepdim=True)
        return (ratio * (self.levels - 1)).round().long()

    def off_grid(self, value: Tensor) -> float:
        """Largest distance of a brightness ratio from its level, in levels."""
        ratio = value.detach().double() / value.detach().double().amax(-1, keepdim=True)
        return float((ratio * (self.levels - 1) - self.codes(value)).abs().max())
