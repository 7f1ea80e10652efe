"""Gradient descent on the data term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from labrecon.solver import Problem, Schedule, Solver, SolverError, State

__all__ = ["GradientDescent"]


@dataclass(frozen=True)
class GradientState(State):
    """Iterate, velocity, and the step size found at the start."""

    x: Tensor
    velocity: Tensor
    step_size: float


class GradientDescent(Solver):
    """``v ← β v − τ ∇D(x)``, ``x ← x + v`` (Polyak's heavy ball; β = 0 is plain descent).

    Works on nonlinear operators, given a step size. Slow on ill-conditioned problems, and without
    a prior: noise is fitted if it runs long. Landweber's iteration is the linear case.

    Args:
        step_size: ``τ``: a number, a `Schedule`, or None for ``1 / L`` (linear operators).
        momentum: ``β`` in [0, 1).
    """

    state_type = GradientState

    def __init__(self, *, step_size: float | Schedule | None = None, momentum: float = 0.0) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise SolverError(f"momentum must be in [0, 1), got {momentum}")
        self.step_size = require_step(step_size)
        self.momentum = momentum

    def init(self, problem: Problem, x0: Tensor | None = None) -> GradientState:
        """Zeros or ``x0``, at rest."""
        x = self.start(problem, x0)
        return GradientState(0, x, 0 * x, initial_step(self.step_size, problem))

    def step(self, problem: Problem, state: GradientState) -> tuple[GradientState, dict[str, Any]]:
        """One descent step."""
        tau = step_at(self.step_size, state.k, state.step_size)
        velocity = self.momentum * state.velocity - tau * problem.gradient(state.x)
        return state.replace(k=state.k + 1, x=state.x + velocity, velocity=velocity), {}


def require_step(step_size: float | Schedule | None) -> float | Schedule | None:
    """``step_size`` if it is None, a `Schedule` or a positive number, else `SolverError`."""
    if isinstance(step_size, int | float) and not step_size > 0:
        raise SolverError(f"the step size must be positive, got {step_size}")
    return step_size


def initial_step(step_size: float | Schedule | None, problem: Problem) -> float:
    """A given number, or ``1 / L``; 0 where a schedule decides."""
    if isinstance(step_size, Schedule):
        return 0.0
    return 1 / problem.lipschitz() if step_size is None else float(step_size)


def step_at(step_size: float | Schedule | None, k: int, constant: float) -> Tensor | float:
    """The step size of iteration ``k``."""
    return step_size(k) if isinstance(step_size, Schedule) else constant
