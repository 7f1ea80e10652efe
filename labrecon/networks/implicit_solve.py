"""A linear solve inside a network, differentiated by the implicit function theorem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from labrecon.functional import Map
from labrecon.krylov import cg_start, cg_step
from labrecon.space import squared_norm

__all__ = ["implicit_solve"]


class _Solved(torch.autograd.Function):
    """The solution ``x``, as a function of the residual ``b − M x`` at it: ``dx = M⁻¹ dr``."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, solve: Map) -> Tensor:
        ctx.solve = solve
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.solve(gradients[0]), None, None


def implicit_solve(
    apply: Map,
    rhs: Tensor,
    ndim: int,
    *,
    x0: Tensor | None = None,
    iterations: int = 50,
    tolerance: float = 1e-6,
) -> Tensor:
    """``M⁻¹ b`` for a self-adjoint, positive ``M`` by conjugate gradients, differentiable.

    The gradient is that of the exact solution, ``dx = M⁻¹ (db − dM x)``, found by one more solve
    with ``M``: it reaches ``b`` and everything that ``apply`` depends on (weights of the penalty,
    parameters of the operator), and no iteration is kept in memory. It is as accurate as the two
    solves are. Not for a solve stopped early on purpose, whose own gradient differs: unroll that.

    Args:
        apply: ``x ↦ M x``, over the last ``ndim`` axes.
        rhs: ``b (*batch, *shape)``.
        ndim: axes of one element.
        x0: where to start; the solution does not depend on it, so that it gets no gradient.
        iterations: at most so many, in each direction.
        tolerance: stop when ``‖b − M x‖ ≤ tolerance ‖b‖`` for every batch element.

    Raises:
        RuntimeError: the gradient is differentiated again.

    Example:
        >>> weight = torch.tensor(3.0, requires_grad=True)
        >>> x = implicit_solve(lambda v: (1 + weight) * v, torch.tensor([8.0]), 1)
        >>> x.detach(), torch.autograd.grad(x.sum(), weight)[0]
        (tensor([2.]), tensor(-0.5000))
    """

    def solve(b: Tensor, start: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            state = cg_start(apply, b, start, ndim)
            enough = tolerance**2 * squared_norm(b, ndim)
            for _ in range(iterations):
                if bool((state.rr <= enough).all()):
                    break
                state = cg_step(apply, state, ndim)
        return state.x

    # Where the start solves it already, it is returned as it is, with the graph that led to it.
    x = solve(rhs, x0).detach()
    if not torch.is_grad_enabled():
        return x
    solved: Tensor = _Solved.apply(rhs - apply(x), x, solve)
    return solved
