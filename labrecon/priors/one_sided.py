"""Shrinkage towards zero from above, by a bias that networks learn."""

from __future__ import annotations

from torch import Tensor, nn

from labrecon.prior import Prior

__all__ = ["OneSided"]


class OneSided(Prior):
    """``prox(x, t) = max(x − t b, 0)`` with a bias ``b`` per atom, of any sign.

    With ``b ≥ 0`` it is that of ``Σ b x`` on ``x ≥ 0``; what networks learn may be negative.

    Args:
        bias: ``(atom)``.
        ndim: axes of the codes behind that of the atoms.
    """

    separable = True

    def __init__(self, bias: Tensor, ndim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.clone())
        self.ndim = ndim

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``max(x − step · b, 0)``."""
        return (x - step * self.bias.reshape(-1, *(1,) * self.ndim)).relu()
