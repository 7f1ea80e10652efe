"""Quadratic penalties."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from labrecon.krylov import cg_start, cg_step
from labrecon.operator import LinearityError, Operator
from labrecon.options import whole
from labrecon.priors.weighted import Weighted
from labrecon.space import squared_norm

if TYPE_CHECKING:
    from labrecon.prior import Term
    from labrecon.space import Space

__all__ = ["Tikhonov"]


class Tikhonov(Weighted):
    """``g(x) = ½ weight ‖K x‖²``; ``K`` is the identity unless given.

    Smooth and cheap; it blurs edges in proportion (Tikhonov 1963). For the plain one, `CG` with
    ``rho`` is the fastest solver.

    Args:
        weight: strength, in the unit of the data term; a tensor weighs the samples of ``K x``.
        operator: ``K``, a linear operator on the object (a `FiniteDifference`, say).
        iterations: conjugate-gradient steps of a prox with ``K``.
    """

    def __init__(
        self,
        weight: Tensor | float = 1.0,
        *,
        operator: Operator | None = None,
        iterations: int = 100,
    ) -> None:
        super().__init__(weight)
        if operator is not None and not operator.linear:
            raise LinearityError(f"Tikhonov needs a linear operator; {operator.name} is not")
        self.operator = operator
        self.separable = operator is None
        self.iterations = self._check(whole, "iterations", iterations)

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """``½ Σ weight |K x|²``."""
        start = x.ndim - (x.ndim if ndim is None else ndim)
        z = x if self.operator is None else self.operator(x)
        return 0.5 * (self.weight * (z.conj() * z).real).flatten(start).sum(-1)

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``(I + step · weight · KᴴK)⁻¹ x``."""
        operator = self.operator
        if operator is None:
            return x / (1 + step * self.weight)

        def apply(u: Tensor) -> Tensor:
            return self.inverse(u, step)

        ndim = operator.domain.ndim
        state = cg_start(apply, x, x, ndim)
        enough = 1e-24 * squared_norm(x.detach(), ndim)
        for _ in range(self.iterations):
            if bool((state.rr.detach() <= enough).all()):
                break
            state = cg_step(apply, state, ndim)
        return state.x

    def inverse(self, u: Tensor, step: Tensor | float) -> Tensor:
        """``u + step · weight · KᴴK u``, exact as far as the prox is."""
        operator = self.operator
        if operator is None:
            return u * (1 + step * self.weight)
        # The step belongs to the object, a weight per coefficient to ``K u``.
        if isinstance(self.weight, Tensor) and self.weight.ndim:
            return u + step * operator.normal(u, self.weight)
        return u + step * self.weight * operator.normal(u)

    def split(self, domain: Space) -> list[Term]:
        """``(K, ½ weight ‖·‖²)``."""
        return [(self.operator, self if self.operator is None else Tikhonov(self.weight))]
