"""Total variation: piecewise constant images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labrecon.operators.difference import FiniteDifference
from labrecon.options import flag, number, whole
from labrecon.prior import PriorError
from labrecon.priors.box import NonNegative
from labrecon.priors.dual_gradient import tv_followed
from labrecon.priors.dual_steps import momenta, tv_in_place
from labrecon.priors.l1 import GroupL1, below_zero, group_length, nonnegative, squared_length
from labrecon.priors.weighted import Weighted, grouped
from labrecon.space import Space

if TYPE_CHECKING:
    from labrecon.prior import Term

__all__ = ["TV", "Differences", "gradient_of"]


@lru_cache(maxsize=32)
def gradient_of(domain: Space, ndim: int, spacing: tuple[float, ...] | None) -> FiniteDifference:
    """The gradient over the last ``ndim`` axes of a space (it holds no tensor: it is shared)."""
    return FiniteDifference(domain, ndim, spacing=spacing)


class Differences(Weighted):
    """What priors on the gradient over the last axes have in common.

    Args:
        weight: strength, in the unit of the data term.
        ndim: differences along the last 1, 2 or 3 axes; others are independent.
        nonneg: also ask for ``x ≥ 0`` (real objects).
        iterations: steps per prox.
        spacing: voxel size along these axes, where it differs between them.
    """

    def __init__(
        self,
        weight: Tensor | float,
        ndim: int,
        nonneg: bool,
        iterations: int,
        spacing: Sequence[float] | None,
    ) -> None:
        super().__init__(weight)
        self.ndim = self._check(whole, "ndim", ndim)
        if self.ndim > 3:
            raise PriorError(f"{type(self).__name__}: ndim is 1, 2 or 3, got {ndim}")
        self.nonneg = self._check(flag, "nonneg", nonneg)
        self.iterations = self._check(whole, "iterations", iterations)
        self.spacing: tuple[float, ...] | None = None
        if spacing is not None:
            self.spacing = tuple(self._check(number, "spacing", h, above=0) for h in spacing)
            if len(self.spacing) != self.ndim:
                raise PriorError(f"{type(self).__name__}: spacing needs {ndim} numbers")

    @property
    def axis(self) -> int:
        """The direction axis of ``∇x``, counted from the end."""
        return -self.ndim - 1

    def gradient(self, x: Tensor) -> FiniteDifference:
        """``∇`` for objects like ``x``."""
        if x.ndim < self.ndim:
            raise PriorError(
                f"{type(self).__name__}: {self.ndim} axes of an object with {x.ndim}; set ndim"
            )
        return gradient_of(Space(x.shape[-self.ndim :], x.dtype), self.ndim, self.spacing)


class TV(Differences):
    """``g(x) = Σ weight · ‖∇x‖₂``: isotropic total variation, real or complex.

    The prox is a fixed number of accelerated steps on the dual problem (Beck and Teboulle 2009,
    FGP), with the positivity constraint inside. It favours constant patches with sharp edges and
    lowers their contrast; not for textures or smooth gradients, which it turns into stairs (see
    `TGV`). `PDHG` and `ADMM` split it and need no inner iteration.

    Args:
        weight: strength, in the unit of the data term.
        ndim: differences along the last 1, 2 or 3 axes; others are independent.
        nonneg: also ask for ``x ≥ 0`` (real objects).
        iterations: dual steps per prox.
        spacing: voxel size along these axes, where it differs between them.
    """

    def __init__(
        self,
        weight: Tensor | float = 1.0,
        *,
        ndim: int = 2,
        nonneg: bool = False,
        iterations: int = 30,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(weight, ndim, nonneg, iterations, spacing)

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """``Σ weight · ‖∇x‖₂``; infinite where ``nonneg`` is broken."""
        length = group_length(self.gradient(x)(x), self.axis).squeeze(self.axis)
        start = x.ndim - (x.ndim if ndim is None else ndim)
        value = (self.weight * length).flatten(start).sum(-1)
        return below_zero(x, value, start) if self.nonneg else value

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``argmin_u step · g(u) + ½‖u − x‖²``."""
        spacing, strength = self.gradient(x).spacing, step * self.weight
        if self.nonneg and x.is_complex():
            nonnegative(x, "TV")
        if not _differentiated(x, strength):
            return tv_in_place(x, strength, spacing, self.iterations, nonneg=self.nonneg)
        return tv_followed(
            x, strength, spacing, self.iterations, nonneg=self.nonneg, again=self._by_autograd
        )

    def _by_autograd(self, x: Tensor, strength: Tensor | float) -> Tensor:
        nabla = self.gradient(x)
        radius = grouped(strength, self.axis)
        rate = nabla.norm() ** -2
        # The dual variable is scaled by the strength, so that a strength of 0 needs no division.
        p = q = torch.zeros_like(nabla(x))
        for momentum in momenta(self.iterations):
            moved = in_balls(q + rate * nabla(self._primal(x, nabla, q)), radius, self.axis)
            q = moved + momentum * (moved - p)
            p = moved
        return self._primal(x, nabla, p)

    def _primal(self, x: Tensor, nabla: FiniteDifference, p: Tensor) -> Tensor:
        u = x - nabla.adjoint(p)
        return nonnegative(u, "TV") if self.nonneg else u

    def split(self, domain: Space) -> list[Term]:
        """``(∇, Σ weight · ‖·‖₂)``, and non-negativity if asked for."""
        nabla = gradient_of(domain, self.ndim, self.spacing)
        terms: list[Term] = [(nabla, GroupL1(self.weight, axis=-domain.ndim - 1))]
        return [*terms, (None, NonNegative())] if self.nonneg else terms


def _differentiated(*values: Tensor | float) -> bool:
    tensors = [value for value in values if isinstance(value, Tensor)]
    return torch.is_grad_enabled() and any(value.requires_grad for value in tensors)


def in_balls(p: Tensor, radius: Tensor | float, axis: int) -> Tensor:
    """``p`` with its vectors along ``axis`` shortened to ``radius`` at most."""
    tiny = torch.finfo(p.dtype).tiny
    # A bound below the root: its derivative at 0 is infinite.
    length = squared_length(p, axis).clamp_min(tiny).sqrt()
    return p * (radius / length).clamp_max(1)
