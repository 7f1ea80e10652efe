"""Gradient descent on the data term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.options import flag, number
from labrecon.prior import NotInvertibleError, residual_inverse
from labrecon.schedule import number_at
from labrecon.solver import Problem, Schedule, Solver, SolverError, State, constant
from labrecon.space import per_element

__all__ = ["GradientDescent"]


@dataclass(frozen=True)
class GradientState(State):
    """Iterate, velocity, and the step size found at the start."""

    x: Tensor
    velocity: Tensor
    step_size: Tensor | float = constant()


class GradientDescent(Solver):
    """``v ← β v − τ ∇D(x)``, ``x ← x + v`` (Polyak's heavy ball; β = 0 is plain descent).

    With ``nesterov`` the gradient is taken at ``x + β v``. Works on nonlinear operators, given a
    step size. Not for ill-conditioned linear problems (`CG` is far faster), nor to the end on noisy
    data: without a prior it fits the noise. Landweber's iteration is the linear case.

    Args:
        step_size: ``τ``: a number, a `Schedule`, or None for ``1 / L`` (linear operators).
        momentum: ``β`` in [0, 1), or a `Schedule`.
        nesterov: look ahead before taking the gradient.
    """

    state_type = GradientState

    def __init__(
        self,
        *,
        step_size: float | Schedule | None = None,
        momentum: float | Schedule = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__()
        self.step_size = optional_step(step_size)
        self.momentum = (
            momentum
            if isinstance(momentum, Schedule)
            else number("momentum", momentum, at_least=0, below=1, error=SolverError)
        )
        self.nesterov = flag("nesterov", nesterov, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> GradientState:
        """Zeros or ``x0``, at rest."""
        x = self.start(problem, x0)
        return GradientState(0, x, 0 * x, initial_step(self.step_size, problem))

    def step(self, problem: Problem, state: GradientState) -> tuple[GradientState, dict[str, Any]]:
        """One descent step."""
        tau = step_at(self.step_size, state.k, state.step_size)
        kept = number_at(self.momentum, state.k) * state.velocity
        point = state.x + kept if self.nesterov else state.x
        velocity = kept - tau * problem.gradient(point)
        return state.replace(k=state.k + 1, x=state.x + velocity, velocity=velocity), {}

    def inverse(self, problem: Problem, state: GradientState) -> GradientState:
        """In closed form with momentum; else by fixed-point iteration, where ``τ ‖∇²D‖ < 1``."""
        k = state.k - 1
        before = state.replace(k=k, x=state.x - state.velocity)
        if k == 0:
            return before.replace(velocity=0 * state.x)
        beta = number_at(self.momentum, k)
        if not beta:
            return before.replace(velocity=self._descent_before(problem, before))
        tau = step_at(self.step_size, k, state.step_size)
        if self.nesterov:
            kept = undone(problem, state.x, tau) - before.x
        else:
            kept = state.velocity + tau * problem.gradient(before.x)
        return before.replace(velocity=kept / beta)

    def _descent_before(self, problem: Problem, state: GradientState) -> Tensor:
        """The velocity of a state, where the layer that follows makes no use of it."""
        k = state.k - 1
        if k > 0 and number_at(self.momentum, k):
            raise NotInvertibleError(f"{self.name}: layer {k + 1} forgets the momentum before it")
        tau = step_at(self.step_size, k, state.step_size)
        return state.x - undone(problem, state.x, tau)


def require_step(step_size: float | Schedule, what: str) -> float | Schedule:
    """``step_size`` if it is a `Schedule` or a positive number."""
    if isinstance(step_size, Schedule):
        return step_size
    return number(what, step_size, above=0, error=SolverError)


def optional_step(step_size: float | Schedule | None) -> float | Schedule | None:
    """``step_size`` if it is a `Schedule`, a positive number or None."""
    return None if step_size is None else require_step(step_size, "step_size")


def initial_step(step_size: float | Schedule | None, problem: Problem) -> Tensor | float:
    """A given number, or ``1 / L``, per batch element where it differs; 0 if a schedule decides."""
    if isinstance(step_size, Schedule):
        return 0.0
    if step_size is not None:
        return float(step_size)
    bound = problem.lipschitz()
    if isinstance(bound, Tensor):
        return per_element(1 / bound, problem.operator.domain.ndim)
    return 1 / bound


def step_at(step_size: float | Schedule | None, k: int, constant: Tensor | float) -> Tensor | float:
    """The step size of iteration ``k``."""
    return step_size(k) if isinstance(step_size, Schedule) else constant


def undone(problem: Problem, u: Tensor, step: Tensor | float, back: Map | None = None) -> Tensor:
    """The ``x`` with ``x − τ ∇D(x) = u``.

    Raises:
        NotInvertibleError: ``τ ‖∇²D‖`` is not below 1.
    """
    ndim = problem.operator.domain.ndim
    try:
        return residual_inverse(lambda x: -step * problem.gradient(x, back), u, ndim)
    except NotInvertibleError as error:
        raise NotInvertibleError(
            f"a gradient step of size {_told(step)} can not be undone; it must be below "
            f"1 / ‖∇²D‖, well below for a fast inverse ({error})"
        ) from error


def _told(step: Tensor | float) -> str:
    return f"{float(torch.as_tensor(step).detach().max()):.3g}"


def moved(x: Tensor, direction: Tensor, by: Tensor | float) -> Tensor:
    """``x + by · direction``; in one pass over memory where ``by`` is a plain number."""
    return x + by * direction if isinstance(by, Tensor) else x.add(direction, alpha=by)
