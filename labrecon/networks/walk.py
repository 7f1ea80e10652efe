"""Some layers of an unrolled solver, one after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from labrecon.problem import Problem
from labrecon.solver import Solver, State

__all__ = ["Walked", "walk"]


class Walked(NamedTuple):
    """Where layers lead, and what each of them told and estimated."""

    state: State
    told: list[dict[str, Any]]
    estimates: list[Tensor]


def walk(solver: Solver, problem: Problem, state: State, layers: int, *, trace: bool) -> Walked:
    """The state after ``layers`` steps."""
    told: list[dict[str, Any]] = []
    estimates: list[Tensor] = []
    for _ in range(layers):
        state, news = solver.step(problem, state)
        told.append(news)
        if trace:
            estimates.append(solver.estimate(state))
    return Walked(state, told, estimates)
