"""The quadratic data term that CG, ADMM and HQS solve in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.krylov import cg_start, cg_step
from labrecon.noise import Gaussian
from labrecon.operator import Operator
from labrecon.solver import Problem, SolverError

__all__ = ["data_weights", "regularised_solve"]


def data_weights(problem: Problem, solver: str) -> Tensor | None:
    """``w / σ²``, so that ``D(x) = ½ Σ weights |A x − y|²``; None where all are 1.

    Raises:
        SolverError: the noise is not Gaussian.
    """
    noise = problem.noise
    if not isinstance(noise, Gaussian):
        raise SolverError(
            f"{solver} needs Gaussian noise; for {type(noise).__name__} take PDHG, FISTA or MLEM"
        )
    if noise.unit:
        return problem.weights
    inverse = torch.as_tensor(noise.curvature(problem.data))
    return inverse if problem.weights is None else inverse * problem.weights


def regularised_solve(
    problem: Problem,
    weights: Tensor | None,
    terms: list[tuple[Operator | None, Tensor]],
    rho: Tensor | float,
    x: Tensor,
    iterations: int,
) -> Tensor:
    """``argmin_x D(x) + ½ρ Σ ‖K x − v‖²`` over the terms ``(K, v)``, from ``x``.

    One identity term is left to ``operator.solve`` (closed form where the operator has one).
    """
    operator = problem.operator
    data = problem.data if weights is None else weights * problem.data
    rhs = operator.adjoint(data)
    for k, v in terms:
        rhs = rhs + rho * (v if k is None else k.adjoint(v))
    if len(terms) == 1 and terms[0][0] is None:
        # No tolerance: from a warm start, one relative to the right-hand side would stop the
        # outer iteration at that accuracy.
        return operator.solve(rhs, rho, weights=weights, x0=x, iterations=iterations, tolerance=0.0)

    def apply(u: Tensor) -> Tensor:
        total = operator.normal(u, weights)
        for k, _ in terms:
            total = total + rho * (u if k is None else k.normal(u))
        return total

    state = cg_start(apply, rhs, x, operator.domain.ndim)
    for _ in range(iterations):
        state = cg_step(apply, state, operator.domain.ndim)
    return state.x
