"""The adjoint of a small linear model from its matrix."""

from __future__ import annotations

from dataclasses import dataclass

from labrecon.operator import GradientError
from labrecon.space import Space

__all__ = ["Columns"]


@dataclass(frozen=True)
class Columns:
    """The adjoint of a *linear* model from its matrix, a forward call per sample of the domain.

    Args:
        at_most: columns, so forward calls; made when an adjoint is first needed, and again after
            a parameter has changed.
        memory: MiB that the matrix may take.
    """

    at_most: int = 4096
    memory: float = 512.0

    def cost(self, domain: Space, range: Space) -> str:
        """What the matrix costs, in words."""
        calls = domain.size * (2 if domain.dtype.is_complex else 1)
        return f"{calls} forward calls once, and {self._mib(domain, range):.3g} MiB"

    def require(self, domain: Space, range: Space) -> None:
        """Raise `GradientError` if the matrix is too large."""
        if domain.size > self.at_most or self._mib(domain, range) > self.memory:
            raise GradientError(
                f"the adjoint by columns takes {self.cost(domain, range)}, above the limit of "
                f"{self.at_most} calls or {self.memory:g} MiB: write the adjoint, or raise "
                "Columns(at_most=…, memory=…)"
            )

    @staticmethod
    def _mib(domain: Space, range: Space) -> float:
        parts = 2 if domain.dtype.is_complex else 1
        return parts * domain.size * range.size * range.dtype.itemsize / 2**20
