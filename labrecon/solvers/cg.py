"""Conjugate gradients on the normal equations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.krylov import CGState, cg_start, cg_step
from labrecon.options import number
from labrecon.solver import Problem, Solver, SolverError, State
from labrecon.solvers.quadratic import data_weights
from labrecon.space import per_element, squared_norm

__all__ = ["CG"]


@dataclass(frozen=True)
class NormalState(State):
    """Iterate, residual of the normal equations, search direction, ``‖r‖²``."""

    x: Tensor
    r: Tensor
    p: Tensor
    rr: Tensor


class CG(Solver):
    """Minimises ``½‖A x − y‖²_W + ½ ρ ‖x‖²`` by conjugate gradients on ``AᴴWA + ρ``.

    The fastest way to a least-squares solution; stopped early it regularises by itself
    (semi-convergence). Gaussian noise only. Not with an unmatched back-projection, with which it
    diverges sooner or later: take `SIRT`.

    Args:
        rho: Tikhonov weight.
    """

    state_type = NormalState
    needs_linear = True
    needs_exact_adjoint = True

    def __init__(self, *, rho: float = 0.0) -> None:
        super().__init__()
        self.rho = number("CG: rho", rho, at_least=0, error=SolverError)

    def _normal(self, problem: Problem) -> Map:
        weights = data_weights(problem, self.name)
        return lambda v: problem.operator.normal(v, weights) + self.rho * v

    def init(self, problem: Problem, x0: Tensor | None = None) -> NormalState:
        """The residual at ``x0``."""
        weights = data_weights(problem, self.name)
        rhs = problem.operator.adjoint(problem.data if weights is None else weights * problem.data)
        start = None if x0 is None else self.start(problem, x0)
        state = cg_start(self._normal(problem), rhs, start, problem.operator.domain.ndim)
        return NormalState(0, *state)

    def step(self, problem: Problem, state: NormalState) -> tuple[NormalState, dict[str, float]]:
        """One conjugate-gradient step."""
        current = CGState(state.x, state.r, state.p, state.rr)
        following = cg_step(self._normal(problem), current, problem.operator.domain.ndim)
        return NormalState(state.k + 1, *following), {}

    def stationary(
        self, problem: Problem, state: NormalState
    ) -> tuple[NormalState, dict[str, float]]:
        """``x ← x − ∇(D + ½ρ‖x‖²)/(L + ρ)``, Richardson's iteration, which has the same solution.

        The directions of conjugate gradients are those of one run from its start: they do not
        settle, and at the solution a step has no derivative.
        """
        weights = data_weights(problem, self.name)
        data = problem.data if weights is None else weights * problem.data
        r = problem.operator.adjoint(data) - self._normal(problem)(state.x)
        ndim = problem.operator.domain.ndim
        tau = 1 / (torch.as_tensor(problem.lipschitz()) + self.rho)
        x = state.x + per_element(tau, ndim).to(r.real) * r
        return state.replace(x=x, r=r, p=r, rr=squared_norm(r, ndim)), {}

    def penalty(self, x: Tensor, ndim: int) -> Tensor:
        """``½ ρ ‖x‖²``."""
        return 0.5 * self.rho * squared_norm(x, ndim)
