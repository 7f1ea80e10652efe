"""Numbers that follow a law of the layer, for networks whose layers share everything else."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from labrecon.options import number
from labrecon.schedule import Schedule
from labrecon.solver import SolverError

__all__ = ["MomentumLaw", "SoftplusLaw"]


class SoftplusLaw(Schedule):
    """``factor · softplus(w k + b)`` in layer ``k``: positive, and monotone as the sign of ``w``.

    Whatever the optimiser does: ``w`` keeps its sign, since ``±softplus`` of a free number stands
    for it. Two numbers, for any number of layers.

    Args:
        slope: ``w`` at first, not 0.
        offset: ``b`` at first.
        factor: not learned: the unit of the numbers.
        learn: whether gradients are on.

    Raises:
        SolverError: the slope is 0, or the factor not positive.

    Example:
        >>> law = SoftplusLaw(-0.5, 1.0, learn=False)
        >>> [round(float(law(k)), 3) for k in range(3)]
        [1.313, 0.974, 0.693]
    """

    def __init__(
        self, slope: float, offset: float, *, factor: float = 1.0, learn: bool = True
    ) -> None:
        slope = number("slope", slope, error=SolverError)
        if slope == 0:
            raise SolverError("a law with slope 0 is a number: take a Schedule of one")
        # softplus(raw) = |slope|
        raw = abs(slope) + math.log(-math.expm1(-abs(slope)))
        super().__init__([raw, offset], constraint=None, learn=learn)
        self.sign = math.copysign(1.0, slope)
        self.factor = number("factor", factor, above=0, error=SolverError)

    def values(self) -> Tensor:
        """``w`` and ``b``."""
        slope = self.sign * functional.softplus(self.raw[:1])
        return functional.pad(slope, (0, 1)) + functional.pad(self.raw[1:], (1, 0))

    def __call__(self, k: int) -> Tensor:
        """``factor · softplus(w k + b)``."""
        slope, offset = self.values()
        return self.factor * functional.softplus(slope * k + offset)


class MomentumLaw(SoftplusLaw):
    """``1 − softplus(b) / softplus(w k + b)``: 0 in the first layer, rising, below 1.

    Args:
        slope: ``w > 0`` at first; it stays positive.
        offset: ``b`` at first.
        learn: whether gradients are on.

    Raises:
        SolverError: the slope is not positive.
    """

    def __init__(self, slope: float, offset: float, *, learn: bool = True) -> None:
        super().__init__(number("slope", slope, above=0, error=SolverError), offset, learn=learn)

    def __call__(self, k: int) -> Tensor:
        """``1 − softplus(b) / softplus(w k + b)``."""
        return 1 - super().__call__(0) / super().__call__(k)
