"""The heuristic deviation of a reconstruction: bootstrap, ensemble, or samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from labrecon import posing
from labrecon.chunks import elements_that_fit, why_coupled
from labrecon.errors import ReconstructionError
from labrecon.job import Job
from labrecon.posing import Task
from labrecon.problem import Problem
from labrecon.solver import Solution
from labrecon.solvers.chains import ChainState
from labrecon.stages import Outcome
from labrecon.uncertainty.asked import Asked
from labrecon.uncertainty.bootstrap import bootstrap_deviation, require_noise_level
from labrecon.uncertainty.intervals import Intervals, make_intervals
from labrecon.uncertainty.scatter import compared, relative_scatter

__all__ = ["deviation_of", "intervals_of"]

Run = Callable[[Task], Solution]


def intervals_of(job: Job, main: Outcome, asked: Asked, run: Run) -> Intervals:
    """The intervals of a reconstruction.

    Args:
        job: whose reconstruction it is.
        main: the reconstruction.
        asked: how.
        run: solves a task.

    Raises:
        ReconstructionError: the noise level is not known, too few samples, or no spread.
    """
    with posing.explained("uncertainty"):
        deviation, told = deviation_of(job, main, asked, run)
        truth = main.task.scan.truth
        estimate = job.instrument.gauge(main.solution.x)
        if asked.card is not None and asked.card.scatter is not None:
            problem = main.task.problem
            found = relative_scatter(problem, main.predicted.to(problem.data.device))
            if why := compared(found, asked.card.scatter):
                job.warnings.append(why)
        return make_intervals(
            deviation,
            estimate,
            main.task.problem.operator.domain.ndim,
            method=asked.method,
            level=asked.level,
            card=asked.card,
            row=asked.row,
            why=asked.why,
            told=told,
            truth=None if truth is None else job.instrument.gauge(truth.to(estimate.device)),
        )


def deviation_of(
    job: Job, main: Outcome, asked: Asked, run: Run
) -> tuple[Tensor, dict[str, float]]:
    """The deviation ``(*batch, *object)`` of the object without its gauge, and what is told of it.

    That of samples is with the gauge, which wanders from sample to sample, and wider by it.

    Raises:
        ReconstructionError: see `intervals_of`.
    """
    if asked.method == "posterior":
        return _of_samples(main)
    if asked.method == "ensemble":
        return _of_ensemble(job, main, asked, run)
    task, gauge = main.task, job.instrument.gauge
    together = _together(task, asked.draws)

    def reconstruct(problem: Problem) -> Tensor:
        size = task.size if together == 1 else None
        return gauge(run(dataclasses.replace(task, problem=problem, size=size)).x)

    with posing.explained("uncertainty by bootstrap"):
        deviation = bootstrap_deviation(
            reconstruct,
            task.problem,
            gauge(main.solution.x),
            main.predicted.to(task.problem.data.device),
            draws=asked.draws,
            seed=job.recipe.seed,
            together=together,
        )
    return deviation, {"draws": float(asked.draws)}


def _together(task: Task, draws: int) -> int:
    """Draws that can be solved as one stack."""
    problem = task.problem
    if why_coupled(task.solver, problem.operator.domain.ndim) is not None:
        return 1
    memory, device = task.plan.solver.memory, problem.data.device
    return elements_that_fit(problem.operator, (draws, *problem.batch), device, memory)


def _of_samples(main: Outcome) -> tuple[Tensor, dict[str, float]]:
    state = main.solution.state
    if not isinstance(state, ChainState):
        raise ReconstructionError(
            "uncertainty: the stack was solved in parts, of which only the means are kept: raise "
            "solver.memory, or take the method 'bootstrap'"
        )
    with posing.explained("uncertainty by samples"):
        require_noise_level(main.task.problem)
        mixing = state.mixing()
        told = {"samples": float(state.kept * len(state.x))}
        if mixing is not None:
            told |= {"rhat": mixing.rhat, "effective_samples": mixing.effective}
        return state.deviation(), told


def _of_ensemble(
    job: Job, main: Outcome, asked: Asked, run: Run
) -> tuple[Tensor, dict[str, float]]:
    gauge, operator = job.instrument.gauge, main.task.problem.operator
    made = [gauge(main.solution.x)]
    for plan in asked.members:
        own = operator if plan.operator == main.task.plan.operator else None
        task = posing.pose(job.instrument, main.task.scan, plan, job.device, own)
        made.append(gauge(run(task).x))
    stack = torch.stack(made)
    square = (stack - stack.mean(0)).abs().square().sum(0) / (len(made) - 1)
    return square.sqrt(), {"networks": float(len(made))}
