"""The instrument's own first estimate: filtered back-projection, a zero-filled image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from labrecon.solver import Problem, Solver, State

__all__ = ["Direct"]


@dataclass(frozen=True)
class DirectState(State):
    """The estimate."""

    x: Tensor


class Direct(Solver):
    """``x = operator.initial(y)``, in one step: what each instrument offers as direct inversion.

    Use it on complete, clean data, and as a first look. Not on few, noisy or badly sampled data:
    it knows no noise, weights or prior.
    """

    state_type = DirectState
    one_step = True

    def init(self, problem: Problem, x0: Tensor | None = None) -> DirectState:
        """Zeros."""
        return DirectState(0, self.start(problem, x0))

    def step(self, problem: Problem, state: DirectState) -> tuple[DirectState, dict[str, float]]:
        """The direct inversion."""
        return DirectState(state.k + 1, problem.operator.initial(problem.data)), {}
