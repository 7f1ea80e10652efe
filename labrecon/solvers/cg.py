"""Conjugate gradients on the normal equations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.krylov import CGState, cg_start, cg_step
from labrecon.noise import Gaussian
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

    def _equations(self, problem: Problem) -> tuple[Map, Tensor | None]:
        """``v ↦ (AᴴWA + ρ) v`` and ``W``.

        One σ for all samples is left out of ``W`` and goes into ``ρ`` as ``ρ σ²``: the same
        solution, and no number overflows that data in small units would make large.
        """
        noise = problem.noise
        rho: Tensor | float = self.rho
        if isinstance(noise, Gaussian) and noise.sigma.ndim == 0:
            weights = problem.weights
            if not noise.unit:
                rho = rho * noise.sigma.square()
            if problem.prepared is not None:
                normal = problem.prepared.normal
                return lambda v: normal(v) + rho * v, weights
        else:
            weights = data_weights(problem, self.name)
        return lambda v: problem.operator.normal(v, weights) + rho * v, weights

    def _rhs(self, problem: Problem, weights: Tensor | None) -> Tensor:
        return problem.operator.adjoint(problem.data if weights is None else problem.data * weights)

    def init(self, problem: Problem, x0: Tensor | None = None) -> NormalState:
        """The residual at ``x0``."""
        normal, weights = self._equations(problem)
        start = None if x0 is None else self.start(problem, x0)
        rhs = self._rhs(problem, weights)
        return NormalState(0, *cg_start(normal, rhs, start, problem.operator.domain.ndim))

    def step(self, problem: Problem, state: NormalState) -> tuple[NormalState, dict[str, float]]:
        """One conjugate-gradient step."""
        current = CGState(state.x, state.r, state.p, state.rr)
        normal, _ = self._equations(problem)
        following = cg_step(normal, current, problem.operator.domain.ndim)
        return NormalState(state.k + 1, *following), {}

    def stationary(
        self, problem: Problem, state: NormalState
    ) -> tuple[NormalState, dict[str, float]]:
        """``x ← x − ∇(D + ½ρ‖x‖²)/(L + ρ)``, Richardson's iteration, which has the same solution.

        The directions of conjugate gradients are those of one run from its start: they do not
        settle, and at the solution a step has no derivative.
        """
        normal, weights = self._equations(problem)
        r = self._rhs(problem, weights) - normal(state.x)
        ndim = problem.operator.domain.ndim
        tau = self._richardson(problem)
        x = state.x + per_element(tau, ndim).to(r.real) * r
        return state.replace(x=x, r=r, p=r, rr=squared_norm(r, ndim)), {}

    def _richardson(self, problem: Problem) -> Tensor:
        """``1 / ‖AᴴWA + ρ‖`` in the scale of `_equations`."""
        tau = 1 / (torch.as_tensor(problem.lipschitz()) + self.rho)
        noise = problem.noise
        if isinstance(noise, Gaussian) and noise.sigma.ndim == 0 and not noise.unit:
            return tau / noise.sigma.square()
        return tau

    def penalty(self, x: Tensor, ndim: int) -> Tensor:
        """``½ ρ ‖x‖²``."""
        return 0.5 * self.rho * squared_norm(x, ndim)
