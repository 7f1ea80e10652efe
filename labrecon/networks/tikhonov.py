"""Tikhonov: the regularised inverse as a network with one number."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from labrecon.operator import LinearityError
from labrecon.options import number, whole
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstruction, Reconstructor
from labrecon.solvers.quadratic import data_weights

__all__ = ["Tikhonov", "make_tikhonov"]


class Tikhonov(Reconstructor):
    """``argmin ½‖A x − y‖²_W + ½ρ‖x‖²``, by `Operator.solve`: closed where the operator has it.

    The estimator to learn designs with where the operator is linear: it has no local optima of its
    own, and one number, ``ρ``, which is learned as ``exp`` of a parameter.

    Args:
        rho: ``ρ`` at first.
        iterations: of conjugate gradients, where the operator has no closed form.
        learn: whether ``ρ`` is learned.
    """

    def __init__(self, rho: float = 1e-2, *, iterations: int = 20, learn: bool = False) -> None:
        super().__init__()
        start = math.log(number("Tikhonov: rho", rho, above=0))
        self.log_rho = nn.Parameter(torch.tensor(start), requires_grad=bool(learn))
        self.iterations = whole("Tikhonov: iterations", iterations)

    @property
    def rho(self) -> Tensor:
        """``ρ``."""
        return self.log_rho.exp()

    def reconstruct(
        self, problem: Problem, x0: Tensor | None = None, *, trace: bool = False
    ) -> Reconstruction:
        """The regularised least-squares solution.

        Raises:
            LinearityError: the operator is nonlinear.
            SolverError: the noise is not Gaussian.
        """
        operator = problem.operator
        if not operator.linear:
            raise LinearityError(f"Tikhonov needs a linear operator; {operator.name} is not")
        weights = data_weights(problem, "Tikhonov")
        rhs = operator.adjoint(problem.data if weights is None else weights * problem.data)
        rho = self.rho.to(operator.domain.real_dtype)
        x = operator.solve(rhs, rho, weights=weights, x0=x0, iterations=self.iterations)
        return Reconstruction(x, trace=(x,) if trace else ())


def make_tikhonov(
    problem: Problem,
    *,
    rho: float = 1e-2,
    iterations: int = 20,
    learn: bool = True,
    scale: float = 1.0,
    seed: int = 0,
) -> Tikhonov:
    """`Tikhonov` as `labrecon train` and `labrecon design` ask for it.

    Args:
        problem: not used.
        rho: see `Tikhonov`.
        iterations: see `Tikhonov`.
        learn: see `Tikhonov`.
        scale: not used: the estimate is linear in the data.
        seed: not used.
    """
    return Tikhonov(rho, iterations=iterations, learn=learn)
