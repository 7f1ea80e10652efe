"""A step in the nuisances with the object as it is: half of an alternating method."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labrecon.calibration.bounded import bounded_step
from labrecon.calibration.derivatives import derivatives
from labrecon.calibration.unknowns import Unknowns
from labrecon.problem import Problem

__all__ = ["Placed", "nuisance_step", "placed_problem"]

#: How often a step that makes things worse is tried again with four times the damping.
TRIALS = 5


@dataclass(frozen=True, eq=False)
class Placed:
    """Values of the nuisances, and what steps have learned.

    Attributes:
        p: the values.
        scales: sizes of the differences, see `derivatives`.
        damping: of the next step, as a fraction of the diagonal.
    """

    p: Tensor
    scales: Tensor
    damping: float


@torch.no_grad()
def nuisance_step(problem: Problem, unknowns: Unknowns, x: Tensor, at: Placed) -> Placed:
    """Levenberg's and Marquardt's step in ``p`` at a fixed object.

    ``(JᴴWJ + μ diag) d = −Jᴴ score`` within the bounds, taken if it does not raise the data term.

    Args:
        problem: its operator has the values ``at.p``.
        unknowns: names, bounds.
        x: the object.
        at: where to step from.
    """
    predicted = problem.operator(x)
    before = float(problem.loss(x).double().sum())
    score = _wide(problem.weighted(problem.noise.score(predicted, problem.data)))
    weights = problem.weighted(1 / problem.noise.variance(predicted)).double()
    columns, scales = derivatives(unknowns, at.p, x, predicted, at.scales)
    wide = [_wide(column) for column in columns]
    gradient = torch.stack([(c.conj() * score).real.sum() for c in wide]).cpu()
    matrix = torch.stack(
        [torch.stack([(a.conj() * weights * b).real.sum() for b in wide]) for a in wide]
    ).cpu()
    damping = at.damping
    for _ in range(TRIALS):
        damped = matrix + damping * torch.diag(matrix.diagonal())
        step = bounded_step(damped, gradient, at.p, unknowns.low, unknowns.high)
        p = unknowns.feasible(at.p + step)
        moved = placed_problem(problem, unknowns, p)
        if float(moved.loss(x).double().sum()) <= before:
            return Placed(p, scales, max(damping / 3, 1e-6))
        damping *= 4
    return Placed(at.p, scales, damping)


def placed_problem(problem: Problem, unknowns: Unknowns, p: Tensor) -> Problem:
    """The problem with other values of the nuisances."""
    return replace(problem, operator=unknowns.placed(p), prepared=None)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.complex128) if values.is_complex() else values.double()
