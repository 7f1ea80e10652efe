"""The alternating direction method of multipliers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from labrecon.prior import Prior, Zero
from labrecon.solver import Problem, Schedule, Solver, SolverError, State, pick
from labrecon.solvers.gradient import require_step
from labrecon.solvers.quadratic import data_weights, regularised_solve

__all__ = ["ADMM"]


@dataclass(frozen=True)
class ADMMState(State):
    """Iterate; split variable and scaled multiplier of each term of the prior."""

    x: Tensor
    z: tuple[Tensor, ...]
    u: tuple[Tensor, ...]


class ADMM(Solver):
    """Splits ``z = K x`` for each term ``h(K x)`` of the prior (Boyd et al. 2011).

    ``x ← argmin D(x) + ½ρ Σ‖K x − z + u‖²``, ``z ← prox_{h/ρ}(K x + u)``, ``u ← u + K x − z``.

    Good where ``(AᴴA + ρ)⁻¹`` is cheap (Fourier operators) or the prior is known only by its prox.
    Its speed depends on ``ρ``: too small or large by 100 costs as much in iterations.

    Args:
        prior: ``g``, or one per layer.
        rho: penalty of the splitting: a number or a `Schedule`.
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
        inner: int = 10,
    ) -> None:
        super().__init__()
        if inner < 1:
            raise SolverError(f"inner must be at least 1, got {inner}")
        self.prior: nn.Module = Zero() if prior is None else prior
        self.rho = require_step(rho)
        self.inner = inner

    def init(self, problem: Problem, x0: Tensor | None = None) -> ADMMState:
        """``z = K x0`` and ``u = 0``."""
        data_weights(problem, self.name)
        x = self.start(problem, x0)
        prior: Prior = pick(self.prior, 0)  # type: ignore[assignment]
        terms = prior.split(problem.operator.domain)
        z = tuple(x if k is None else k(x) for k, _ in terms)
        return ADMMState(0, x, z, tuple(0 * v for v in z))

    def step(self, problem: Problem, state: ADMMState) -> tuple[ADMMState, dict[str, float]]:
        """One sweep over ``x``, ``z`` and ``u``."""
        prior: Prior = pick(self.prior, state.k)  # type: ignore[assignment]
        terms = prior.split(problem.operator.domain)
        rho = self.rho(state.k) if isinstance(self.rho, Schedule) else self.rho
        assert rho is not None
        targets = [(k, z - u) for (k, _), z, u in zip(terms, state.z, state.u, strict=True)]
        weights = data_weights(problem, self.name)
        x = regularised_solve(problem, weights, targets, rho, state.x, self.inner)
        z, u = [], []
        for (k, h), multiplier in zip(terms, state.u, strict=True):
            moved = (x if k is None else k(x)) + multiplier
            z.append(h.prox(moved, 1 / rho))
            u.append(moved - z[-1])
        return ADMMState(state.k + 1, x, tuple(z), tuple(u)), {}
