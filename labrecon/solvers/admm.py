"""The alternating direction method of multipliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from labrecon.options import whole
from labrecon.prior import Prior, Zero
from labrecon.schedule import number_at
from labrecon.solver import Problem, Schedule, Solver, SolverError, State, constant, pick
from labrecon.solvers.gradient import require_step
from labrecon.solvers.quadratic import data_weights, regularised_solve

__all__ = ["ADMM"]


@dataclass(frozen=True)
class ADMMState(State):
    """Iterate; split variable and scaled multiplier of each term of the prior."""

    x: Tensor
    z: tuple[Tensor, ...]
    u: tuple[Tensor, ...]
    identity: int = constant()


class ADMM(Solver):
    """Splits ``z = K x`` for each term ``h(K x)`` of the prior (Boyd et al. 2011).

    ``x ← argmin D(x) + ½ρ Σ‖K x − z + u‖²``, ``z ← prox_{h/ρ}(K x + u)``, ``u ← u + K x − z``.

    The estimate is the ``z`` of the term without ``K``, where there is one (it obeys a bound
    exactly, and a learned prior acts on it last), else ``x``.

    Good where ``(AᴴA + ρ)⁻¹`` is cheap (Fourier operators) or the prior is known only by its prox.
    Its speed depends on ``ρ``: too small or large by 100 costs as much in iterations. Not for
    noise other than Gaussian: take `PDHG`.

    Args:
        prior: ``g``, or one per layer.
        rho: penalty of the splitting: a number or a `Schedule`.
        dual_step: ``η`` in ``u ← u + η (K x − z)``: a number or a `Schedule`.
        inner: conjugate-gradient steps per iteration where there is no closed form.
    """

    state_type = ADMMState
    needs_linear = True
    needs_exact_adjoint = True

    def __init__(
        self,
        *,
        prior: Prior | nn.ModuleList | None = None,
        rho: float | Schedule = 1.0,
        dual_step: float | Schedule = 1.0,
        inner: int = 10,
    ) -> None:
        super().__init__()
        self.prior: nn.Module = Zero() if prior is None else prior
        self.rho = require_step(rho, "rho")
        self.dual_step = require_step(dual_step, "dual_step")
        self.inner = whole("inner", inner, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> ADMMState:
        """``z = K x0`` and ``u = 0``."""
        data_weights(problem, self.name)
        x = self.start(problem, x0)
        prior: Prior = pick(self.prior, 0)  # type: ignore[assignment]
        terms = prior.split(problem.operator.domain)
        z = tuple(x if k is None else k(x) for k, _ in terms)
        identity = next((i for i, (k, _) in enumerate(terms) if k is None), -1)
        return ADMMState(0, x, z, tuple(0 * v for v in z), identity)

    def step(self, problem: Problem, state: ADMMState) -> tuple[ADMMState, dict[str, Any]]:
        """One sweep over ``x``, ``z`` and ``u``."""
        prior: Prior = pick(self.prior, state.k)  # type: ignore[assignment]
        terms = prior.layer(state.k).split(problem.operator.domain)
        rho, eta = number_at(self.rho, state.k), number_at(self.dual_step, state.k)
        targets = [(k, z - u) for (k, _), z, u in zip(terms, state.z, state.u, strict=True)]
        weights = data_weights(problem, self.name)
        x = regularised_solve(problem, weights, targets, rho, state.x, self.inner)
        z, u = [], []
        told: dict[str, Any] = {}
        for (k, h), multiplier in zip(terms, state.u, strict=True):
            split = x if k is None else k(x)
            copy, losses = h.prox_and_losses(split + multiplier, 1 / rho)
            z.append(copy)
            u.append(multiplier + eta * (split - copy))
            told |= losses
        return state.replace(k=state.k + 1, x=x, z=tuple(z), u=tuple(u)), told

    def estimate(self, state: ADMMState) -> Tensor:
        """The copy of the object that the prior touched last."""
        return state.x if state.identity < 0 else state.z[state.identity]
