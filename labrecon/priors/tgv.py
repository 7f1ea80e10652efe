"""Second-order total generalised variation: piecewise smooth images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon.operators.difference import FiniteDifference
from labrecon.options import number
from labrecon.priors.l1 import below_zero, group_length, nonnegative
from labrecon.priors.tv import Differences, in_balls
from labrecon.priors.weighted import grouped

__all__ = ["TGV"]


class TGV(Differences):
    """``g(x) = weight · min_w Σ ‖∇x − w‖₂ + ratio Σ ‖E w‖₂`` with the symmetrised gradient ``E``.

    Keeps smooth slopes that `TV` turns into stairs (Bredies, Kunisch and Pock 2010); affine images
    cost nothing. The prox is a fixed number of primal-dual steps (Chambolle and Pock 2011) over
    ``(u, w)``: about ten times the cost of TV's, and less exact. Where patches are flat, take TV.

    Args:
        weight: strength, in the unit of the data term.
        ratio: price of second derivatives against first ones; about 2 sample distances.
        ndim: differences along the last 1, 2 or 3 axes; others are independent.
        nonneg: also ask for ``x ≥ 0`` (real objects).
        iterations: primal-dual steps per prox.
        spacing: voxel size along these axes, where it differs between them.
    """

    def __init__(
        self,
        weight: Tensor | float = 1.0,
        *,
        ratio: float = 2.0,
        ndim: int = 2,
        nonneg: bool = False,
        iterations: int = 100,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(weight, ndim, nonneg, iterations, spacing)
        self.ratio: float = self._check(number, "ratio", ratio, above=0)

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """The minimum over ``w``, approached from above by the steps of the prox."""
        nabla, there = self.gradient(x), self._there(x)
        w = self._minimise(x, self.weight, moves=False)[1]
        first = group_length(nabla(x) - there * w, self.axis).squeeze(self.axis)
        second = group_length(self._flat(self._second(w, nabla)), self.axis).squeeze(self.axis)
        start = x.ndim - (x.ndim if ndim is None else ndim)
        value = (self.weight * (first + self.ratio * second)).flatten(start).sum(-1)
        return below_zero(x, value, start) if self.nonneg else value

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``argmin_u step · g(u) + ½‖u − x‖²``."""
        return self._minimise(x, step * self.weight, moves=True)[0]

    def _there(self, x: Tensor) -> Tensor:
        """1 where a difference exists, 0 at the far edge of its direction."""
        there = torch.ones(self.ndim, *x.shape[-self.ndim :], dtype=x.real.dtype, device=x.device)
        for d in range(self.ndim):
            there[d].select(d, -1).zero_()
        return there

    def _symmetric(self, r: Tensor) -> Tensor:
        return 0.5 * (r + r.transpose(self.axis, self.axis - 1))

    def _second(self, w: Tensor, nabla: FiniteDifference) -> Tensor:
        """``E w``: the symmetric part of the derivative of the vector field ``w``."""
        return self._symmetric(nabla(w))

    def _minimise(
        self, x: Tensor, strength: Tensor | float, *, moves: bool
    ) -> tuple[Tensor, Tensor]:
        """Chambolle–Pock on the saddle form; ``u`` stays at ``x`` unless it ``moves``."""
        nabla, there, axis = self.gradient(x), self._there(x), self.axis
        p_radius = grouped(strength, axis)
        r_radius = self.ratio * grouped(p_radius, axis - 1)
        # ‖(∇, −M; 0, E)‖ is at most that of the matrix (a, 1; 0, a) with a = ‖∇‖.
        square = nabla.norm() ** 2
        tau = sigma = (square + 0.5 + (square + 0.25) ** 0.5) ** -0.5
        u = u_bar = x
        w = w_bar = p = torch.zeros_like(nabla(x))
        r = torch.zeros_like(nabla(w))
        for _ in range(self.iterations):
            p = in_balls(p + sigma * (nabla(u_bar) - there * w_bar), p_radius, axis)
            r = self._in_balls(r + sigma * self._second(w_bar, nabla), r_radius)
            w_next = w + tau * (there * p - nabla.adjoint(self._symmetric(r)))
            w, w_bar = w_next, 2 * w_next - w
            if moves:
                u_next = (u - tau * nabla.adjoint(p) + tau * x) / (1 + tau)
                u_next = nonnegative(u_next, "TGV") if self.nonneg else u_next
                u, u_bar = u_next, 2 * u_next - u
        return u, w

    def _flat(self, r: Tensor) -> Tensor:
        """The components of a tensor field along one axis."""
        return r.flatten(r.ndim - self.ndim - 2, r.ndim - self.ndim - 1)

    def _in_balls(self, r: Tensor, radius: Tensor | float) -> Tensor:
        n = self.ndim
        flat = self._flat(r)
        flat_radius = (
            radius.squeeze(-n - 1)
            if isinstance(radius, Tensor) and (radius.ndim > n + 1)
            else radius
        )
        return in_balls(flat, flat_radius, self.axis).reshape(r.shape)
