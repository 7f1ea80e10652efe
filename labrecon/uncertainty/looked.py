"""One held-out object, reconstructed: how far off its samples are, in deviations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon import posing, stages
from labrecon.job import Job
from labrecon.learners.samples import sample_generator
from labrecon.operator import Operator
from labrecon.posing import Task
from labrecon.solver import Solution
from labrecon.uncertainty.asked import Asked
from labrecon.uncertainty.conformal import scores, stated_deviation
from labrecon.uncertainty.coverage import gradient_size
from labrecon.uncertainty.deviation import deviation_of
from labrecon.uncertainty.heldout import simulated_scan
from labrecon.uncertainty.scatter import relative_scatter

__all__ = ["Looked", "look"]

#: Samples of an object that are looked at. A random choice leaves the guarantee as it is: the
#: expected loss of the choice is that of the object.
SAMPLES = 50_000
#: Of the generator of that choice.
_CHOICE = -13


@dataclass(frozen=True)
class Looked:
    """Some samples of one object.

    Attributes:
        score: see `labrecon.uncertainty.conformal.scores`.
        stated: deviations.
        value: moduli of the estimate.
        gradient: of those.
        error: root mean square error of the estimate.
        scatter: of the data, see `labrecon.uncertainty.scatter.relative_scatter`.
    """

    score: Tensor
    stated: Tensor
    value: Tensor
    gradient: Tensor
    error: float
    scatter: float | None


def look(
    job: Job, asked: Asked, geometry: BaseModel, operator: Operator, x: Tensor, i: int
) -> Looked:
    """Reconstruct a simulated scan of object ``i``, which is ``x``, with its deviation.

    Raises:
        ReconstructionError: it can not be reconstructed, or has no deviation.
    """
    scan = simulated_scan(job, geometry, operator, x, i)
    task = posing.pose(job.instrument, scan, job.plans[0], job.device, operator)
    # Of a recipe with nuisances, so that the error of their estimates is in the intervals.
    task = posing.calibrated(task)
    main = stages.judge(task, _run(task))
    ndim, gauge = operator.domain.ndim, job.instrument.gauge
    deviation, _ = deviation_of(job, main, asked, _run)
    estimate, truth = gauge(main.solution.x), gauge(x.to(job.device))
    with posing.explained("uncertainty"):
        stated = stated_deviation(deviation, ndim)
    generator = sample_generator(job.recipe.seed, i, _CHOICE)
    chosen = torch.randperm(estimate.numel(), generator=generator)[:SAMPLES].to(job.device)

    def some(values: Tensor) -> Tensor:
        return values.flatten()[chosen].cpu().double()

    return Looked(
        some(scores(estimate, truth, stated)),
        some(stated),
        some(estimate.abs()),
        some(gradient_size(estimate, ndim)),
        float((estimate - truth).abs().square().mean().sqrt()),
        relative_scatter(main.task.problem, main.predicted.to(job.device)),
    )


def _run(task: Task) -> Solution:
    solution = stages.run(task)
    if solution.status == "interrupted":
        raise KeyboardInterrupt
    return solution
