"""A task solved, and its residual judged."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from labrecon.calibration import Calibration
from labrecon.chunks import Joined, predict, solve_stack
from labrecon.clock import Watcher
from labrecon.posing import Task, explained
from labrecon.problem import Problem
from labrecon.quality import Quality, assess
from labrecon.solver import Solution, State, solve
from labrecon.solvers.alternating import Alternating

if TYPE_CHECKING:
    from labrecon.uncertainty.intervals import Intervals

__all__ = ["Outcome", "first_estimate", "judge", "run"]


@dataclass(frozen=True)
class Outcome:
    """A task and its solution, with the prediction ``A x`` and the residual statistics.

    ``intervals`` are the error bars, where they were asked for; ``calibration`` is what was
    estimated of the instrument, before the solve or in it.
    """

    task: Task
    solution: Solution
    predicted: Tensor
    quality: Quality
    intervals: Intervals | None = None
    calibration: Calibration | None = None


def run(
    task: Task,
    watcher: Watcher | None = None,
    begun: Solution | None = None,
    x0: Tensor | None = None,
) -> Solution:
    """Solve a task.

    Args:
        task: what to solve.
        watcher: told of each check.
        begun: an interrupted or finished solution of the same task, to go on from.
        x0: first estimate; by default what the plan says.

    Raises:
        ReconstructionError: the solve diverged, ran out of memory, or can not treat the problem.
        KeyboardInterrupt: Ctrl-C in the solve of a stack in parts, which can not be resumed.
    """
    with explained(task.plan.title):
        if begun is None:

            def solve_part(problem: Problem, x0: Tensor | None, seconds: float | None) -> Solution:
                some = dataclasses.replace(task, problem=problem)
                return _solve(some, watcher, None, x0, seconds)

            seconds = task.plan.solver.seconds
            return solve_stack(
                task.solver, task.problem, solve_part, size=task.size, x0=x0, seconds=seconds
            )
        if begun.status == "interrupted":
            seconds = task.plan.solver.seconds
            return _joined(begun, _solve(task, watcher, begun.state, seconds=seconds))
        return begun


def judge(task: Task, solution: Solution) -> Outcome:
    """The prediction of a solution, and its residual against the data."""
    with explained(task.plan.title):
        problem, state, calibration = task.problem, solution.state, task.calibration
        if isinstance(state, Joined):
            device = problem.data.device
            predicted = predict(problem.operator, solution.x, state.size, device)
            quality = assess(_on_cpu(problem), predicted)
        else:
            predicted = task.solver.calibrated(problem, state)(solution.x)
            quality = assess(problem, predicted)
            if isinstance(task.solver, Alternating):
                table = task.plan.calibrate
                calibration = task.solver.concluded(
                    problem, state, solution.history, weight=table.weight, inner=table.inner
                )
        return Outcome(task, solution, predicted, quality, calibration=calibration)


def _on_cpu(problem: Problem) -> Problem:
    weights = None if problem.weights is None else problem.weights.cpu()
    noise = copy.deepcopy(problem.noise).cpu()
    return dataclasses.replace(problem, data=problem.data.cpu(), noise=noise, weights=weights)


def first_estimate(task: Task) -> Tensor | None:
    """Where the plan starts a solve: the operator's own first estimate, or None for zeros."""
    if task.plan.solver.start == "zero":
        return None
    return task.problem.operator.initial(task.problem.data)


def _solve(
    task: Task,
    watcher: Watcher | None,
    state: State | None,
    x0: Tensor | None = None,
    seconds: float | None = None,
) -> Solution:
    table, problem = task.plan.solver, task.problem
    # A direct method is done in one step, whatever limit the recipe has.
    one_step = bool(getattr(task.solver, "one_step", False))
    iterations = 1 if one_step else table.iterations

    def watch(_: State, record: dict[str, float]) -> None:
        if watcher is not None:
            watcher.step(task.plan.title, record, iterations)

    if x0 is None and state is None:
        x0 = first_estimate(task)
    solution = solve(
        task.solver,
        problem,
        x0=x0,
        state=state,
        iterations=iterations,
        tolerance=table.tolerance,
        seconds=seconds,
        check_every=table.check_every,
        objective=table.objective and not one_step,
        callbacks=[watch],
    )
    unfinished = bool(solution.history) and "unfinished" in solution.history[-1]
    if one_step and solution.status == "iterations" and not unfinished:
        return dataclasses.replace(solution, status="converged")
    return solution


def _joined(first: Solution, then: Solution) -> Solution:
    history = [dict(r, seconds=r["seconds"] + first.seconds) for r in then.history]
    return Solution(
        then.x, then.state, then.status, [*first.history, *history], first.seconds + then.seconds
    )
