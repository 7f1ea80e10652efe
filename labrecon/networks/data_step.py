"""The data step of unrolled splittings: a regularised least-squares solve."""

from __future__ import annotations

from torch import Tensor

from labrecon.networks.implicit_solve import implicit_solve
from labrecon.operator import Operator
from labrecon.priors.filter_bank import FilterBank
from labrecon.problem import Problem
from labrecon.solvers.circulant import normal_spectrum
from labrecon.solvers.quadratic import data_weights

__all__ = ["data_step"]


def data_step(
    problem: Problem,
    pull: Tensor | float,
    rho: Tensor | float,
    *,
    filters: FilterBank | None = None,
    x0: Tensor | None = None,
    iterations: int = 50,
    tolerance: float = 1e-6,
    solver: str = "",
) -> Tensor:
    """``(AᴴWA + P)⁻¹ (AᴴWy + pull)`` with ``P = ρ``, or ``Σ_l ρ_l H_lᴴH_l`` of a filter bank.

    A division where ``AᴴWA`` is a filter (Cartesian sampling), `Operator.solve` where the operator
    has its own and there are no filters, else conjugate gradients with implicit gradients.

    Args:
        problem: Gaussian noise, linear operator.
        pull: what draws ``x`` to the prior's copy, such as ``ρ z``.
        rho: weight, or one per filter.
        filters: ``H``.
        x0: where conjugate gradients start.
        iterations: their largest number.
        tolerance: their relative residual.
        solver: the name used in messages.

    Raises:
        SolverError: the noise is not Gaussian.
    """
    operator, domain = problem.operator, problem.operator.domain
    weights = data_weights(problem, solver)
    data = problem.data if weights is None else weights * problem.data
    rhs = operator.adjoint(data) + pull
    spectrum = normal_spectrum(operator, weights)
    if filters is None:
        if spectrum is not None:
            return spectrum._replace(values=spectrum.values + rho).divide(rhs)
        if type(operator).solve is not Operator.solve:
            return operator.solve(
                rhs, rho, weights=weights, x0=x0, iterations=iterations, tolerance=tolerance
            )
    elif spectrum is not None and sorted(spectrum.axes) == list(range(-filters.axes, 0)):
        power = filters.power(rho, domain.shape[-filters.axes :])  # type: ignore[arg-type]
        return spectrum._replace(values=spectrum.values + power).divide(rhs)

    def apply(x: Tensor) -> Tensor:
        if filters is None:
            return operator.normal(x, weights) + rho * x
        per_filter = rho.reshape(-1, *[1] * filters.axes)  # type: ignore[union-attr]
        return operator.normal(x, weights) + filters.adjoint(per_filter * filters(x))

    return implicit_solve(
        apply, rhs, domain.ndim, x0=x0, iterations=iterations, tolerance=tolerance
    )
