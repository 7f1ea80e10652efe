"""Where to start: values between the bounds, each with a quick fit of the object."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from labrecon.calibration.object_fit import fit_object
from labrecon.calibration.unknowns import Unknowns
from labrecon.priors.tikhonov import Tikhonov
from labrecon.problem import Problem

__all__ = ["searched"]

#: Conjugate-gradient iterations of a quick fit.
QUICK = 10


def searched(problem: Problem, unknowns: Unknowns, prior: Tikhonov, count: int) -> Tensor:
    """The best of so many values of each number, one number after the other, and of the start.

    Args:
        problem: operator, data and noise.
        unknowns: with bounds.
        prior: of the object.
        count: values of each number, evenly from bound to bound.

    Raises:
        ValueError: a number without two finite bounds.
    """
    open_ended = [
        label
        for label, low, high in zip(unknowns.labels, unknowns.low, unknowns.high, strict=True)
        if not bool(torch.isfinite(low) & torch.isfinite(high))
    ]
    if open_ended:
        raise ValueError(
            f"a scan needs bounds of {', '.join(open_ended)}: give bounds, or leave the scan out"
        )
    best = unknowns.start
    least = _objective(problem, unknowns, prior, best)
    for i in range(len(unknowns)):
        values = torch.linspace(0, 1, count, dtype=torch.float64)
        for value in unknowns.low[i] + values * (unknowns.high[i] - unknowns.low[i]):
            tried = best.clone()
            tried[i] = value
            objective = _objective(problem, unknowns, prior, tried)
            if objective < least:
                best, least = tried, objective
    return best


def _objective(problem: Problem, unknowns: Unknowns, prior: Tikhonov, p: Tensor) -> float:
    at = dataclasses.replace(problem, operator=unknowns.placed(p))
    x = fit_object(at, prior, at.operator.initial(at.data), QUICK)
    terms = at.loss(x) + prior.penalty(x, at.operator.domain.ndim)
    return float(terms.double().sum())
