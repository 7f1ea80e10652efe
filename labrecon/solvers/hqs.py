"""Half-quadratic splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from labrecon.options import number, whole
from labrecon.prior import Prior, Zero
from labrecon.schedule import number_at
from labrecon.solver import Problem, Schedule, Solver, SolverError, State, pick
from labrecon.solvers.gradient import require_step
from labrecon.solvers.quadratic import data_weights, regularised_solve

__all__ = ["HQS"]


@dataclass(frozen=True)
class HQSState(State):
    """The two copies of the image."""

    x: Tensor
    z: Tensor


class HQS(Solver):
    """``x ← argmin D(x) + ½μ‖x − z‖²``, ``z ← prox_{g/μ}(x)`` (Geman and Yang 1995).

    With a fixed ``μ`` the limit minimises ``D`` plus the Moreau envelope of ``g``, not ``D + g``;
    ``growth > 1`` raises ``μ`` and closes the gap. The usual frame of plug-and-play denoisers. The
    estimate is ``z``, on which the prior acted last.

    Args:
        prior: ``g``, or one per layer.
        mu: coupling: a number or a `Schedule`.
        growth: factor of ``mu`` per iteration.
        inner: conjugate-gradient steps per iteration where there is no closed form.
    """

    state_type = HQSState
    needs_linear = True
    needs_exact_adjoint = True

    def __init__(
        self,
        *,
        prior: Prior | nn.ModuleList | None = None,
        mu: float | Schedule = 1.0,
        growth: float = 1.0,
        inner: int = 10,
    ) -> None:
        super().__init__()
        self.prior: nn.Module = Zero() if prior is None else prior
        self.mu = require_step(mu, "mu")
        self.growth = number("growth", growth, at_least=1, error=SolverError)
        self.inner = whole("inner", inner, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> HQSState:
        """Both copies at ``x0`` or zero."""
        data_weights(problem, self.name)
        x = self.start(problem, x0)
        return HQSState(0, x, x)

    def step(self, problem: Problem, state: HQSState) -> tuple[HQSState, dict[str, Any]]:
        """The data step, then the prior step."""
        mu = self._mu(state.k)
        weights = data_weights(problem, self.name)
        terms = [(None, state.z)]
        x = regularised_solve(problem, weights, terms, mu, state.x, self.inner)  # type: ignore[arg-type]
        prior: Prior = pick(self.prior, state.k)  # type: ignore[assignment]
        z, told = prior.layer(state.k).prox_and_losses(x, 1 / mu)
        return HQSState(state.k + 1, x, z), told

    def inverse(self, problem: Problem, state: HQSState) -> HQSState:
        """``z = x + (1/μ) ∇D(x)``; the ``x`` before by the prior's inverse.

        Exact where the data step is: the operator has a closed-form `solve`, or ``inner`` is as
        large as conjugate gradients need.
        """
        k = state.k - 1
        z = state.x + problem.gradient(state.x) / self._mu(k)
        if k == 0:
            return HQSState(k, z, z)
        prior: Prior = pick(self.prior, k - 1)  # type: ignore[assignment]
        return HQSState(k, prior.layer(k - 1).inverse(z, 1 / self._mu(k - 1)), z)

    def _mu(self, k: int) -> Tensor | float:
        return number_at(self.mu, k) * self.growth**k

    def estimate(self, state: HQSState) -> Tensor:
        """The copy that obeys the prior."""
        return state.z
