"""Gauss–Newton for nonlinear operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from labrecon.calibration.linearised import mean_diagonal, object_step
from labrecon.options import number, whole
from labrecon.prior import Prior, Zero
from labrecon.priors.tikhonov import Tikhonov
from labrecon.solver import Problem, Solver, SolverError, State, constant

__all__ = ["GaussNewton"]


@dataclass(frozen=True)
class GaussNewtonState(State):
    """Iterate, and damping per element."""

    x: Tensor
    damping: Tensor = constant()


class GaussNewton(Solver):
    """``x ← x + d`` with ``(JᴴWJ + R + μ) d = −∇(D + ½ xᴴR x)``, ``W = w / variance(A x)``.

    Levenberg's and Marquardt's method with the Fisher information of any noise in the place of the
    Hessian; the system is solved by conjugate gradients, and ``μ`` falls with each step that lowers
    the objective and rises where one does not. For nonlinear operators, of which it needs the
    derivative (`Operator.linearize`) and nothing else: Fourier ptychography, phase retrieval,
    polarimetry. Not for linear ones, where `CG` does the same in one step. LED positions, pupil
    aberrations and other nuisances are estimated beside the object by `Alternating`.

    Args:
        prior: `Tikhonov`, whose ``weight · KᴴK`` is ``R``; or none.
        inner: conjugate-gradient iterations per step.
        damping: the first ``μ`` as a fraction of the mean diagonal of ``JᴴWJ``.

    Raises:
        SolverError: a number is out of range, or another prior.
    """

    state_type = GaussNewtonState

    def __init__(
        self, *, prior: Prior | None = None, inner: int = 10, damping: float = 1e-2
    ) -> None:
        super().__init__()
        self.prior = Zero() if prior is None else prior
        if not isinstance(self.prior, Zero | Tikhonov):
            raise SolverError(
                f"GaussNewton takes a quadratic prior (tikhonov), got {type(prior).__name__}: take "
                "FISTA with backtracking for others"
            )
        self.inner = whole("GaussNewton: inner", inner, error=SolverError)
        self.damping = number("GaussNewton: damping", damping, above=0, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> GaussNewtonState:
        """At ``x0``, by default ``operator.initial(y)``: at zero derivatives may vanish."""
        x = problem.operator.initial(problem.data) if x0 is None else self.start(problem, x0)
        return GaussNewtonState(0, x, self.damping * mean_diagonal(problem, x))

    def step(
        self, problem: Problem, state: GaussNewtonState
    ) -> tuple[GaussNewtonState, dict[str, Any]]:
        """One damped step."""
        x, damping, loss = object_step(problem, self.prior, state.x, state.damping, self.inner)
        told = {"objective_before": float(loss.detach().sum())}
        return state.replace(k=state.k + 1, x=x, damping=damping), told
