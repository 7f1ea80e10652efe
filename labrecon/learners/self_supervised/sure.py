"""SURE: the error of a reconstruction, estimated from its own data and the noise of these."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from labrecon.learners.self_supervised.inversion import require_linear_inversion
from labrecon.learners.self_supervised.levels import (
    clean_of,
    counting,
    drawn,
    offset,
    require_level,
    variance,
)
from labrecon.learners.self_supervised.term import Pass, Term
from labrecon.options import number
from labrecon.problem import Problem

__all__ = ["Risk", "Where"]

Where = Literal["data", "object"]


class Risk(Term):
    """Stein's unbiased estimate of ``E ‖B (h(y) − A x)‖²`` with ``h(y) = A R(y)`` (Stein 1981).

    ``‖B(h(y) − y)‖² − E‖B n‖² + 2 E[⟨B n, B (h(y + τ n) − h(y))⟩] / τ`` per real sample, with a
    draw ``n`` of the declared noise: the divergence by Monte Carlo (Ramani, Blu and Unser 2008).
    Real and complex Gaussian noise, correlated or not; Poisson noise (PURE: Luisier, Blu and Unser
    2011; Le Montagner, Angelini and Olivo-Marin 2014) to first order in a single count, which is
    exact where ``h`` is linear; other noise as far as it is Gaussian.

    ``where="data"``: ``B`` divides by the standard deviation of the noise, so that the value is
    χ² − 1 for the error alone; where that depends on the data, by the mean one, since the estimate
    would not be unbiased with weights that see the noise. ``where="object"``: ``B`` is the
    operator's own linear inversion, such as filtered back-projection: nearly the error of the
    object, as GSURE has it with the pseudo-inverse (Eldar 2009). Of what no data tell of, nothing
    is learned: add `Equivariance`.

    Args:
        where: see above.
        step: ``τ``. Small against 1, so that the network is linear over it, and large against the
            rounding of single precision.

    Raises:
        ValueError: a number is out of range, or where is unknown.
    """

    def __init__(self, where: Where = "data", *, step: float = 0.1) -> None:
        if where not in get_args(Where):
            raise ValueError(f"where is one of {get_args(Where)}, got {where!r}")
        self.where = where
        self.step = number("step", step, above=0)

    def check(self, problem: Problem) -> None:
        """Raise `ValueError` where the level of the noise is unknown, or there is no ``B``."""
        require_level(problem, "sure")
        if self.where == "object":
            require_linear_inversion(problem.operator, problem.data.device)

    def __call__(self, run: Pass) -> Tensor:
        """The estimated risk of each slice."""
        problem, operator = run.problem, run.problem.operator
        clean = clean_of(problem.noise, problem.data)
        spread = variance(problem, clean)
        counted = counting(problem)
        noise = drawn(problem, clean, run.generators)
        predicted = operator(run.estimate) + offset(problem.noise, clean)
        moved = operator(run.reconstruct(problem.data + self.step * noise))
        change = (moved - operator(run.estimate)) / self.step
        residual = predicted - problem.data
        residual, change = (torch.where(counted, values, 0) for values in (residual, change))
        if self.where == "object":
            residual, change, noise = (operator.initial(v) for v in (residual, change, noise))
            space, power = operator.domain, noise.abs().square()
            count: Tensor | int = space.size
        else:
            precision = _precision(problem, spread)
            root = precision.sqrt()
            residual, change, noise = root * residual, root * change, root * noise
            space, power = operator.range, _parts(problem.data) * precision * spread
            count = counted.flatten(-space.ndim).sum(-1)
        risk = residual.abs().square() - power + 2 * (noise.conj() * change).real
        return risk.flatten(-space.ndim).sum(-1) / (_parts(noise) * count)


def _precision(problem: Problem, spread: Tensor) -> Tensor:
    """``1/σ²``; of the mean ``σ²`` where that depends on the data. 0 where the weight is 0."""
    counted = counting(problem)
    zeros = torch.zeros_like(problem.data.real)
    known = problem.noise.variance(clean_of(problem.noise, zeros))
    if torch.equal(known, problem.noise.variance(clean_of(problem.noise, problem.data))):
        return _inverse(spread, counted)
    ndim = problem.operator.range.ndim
    axes = tuple(range(-ndim, 0))
    mean = spread.sum(axes, keepdim=True) / counted.sum(axes, keepdim=True).clamp_min(1)
    return _inverse(mean, counted)


def _inverse(spread: Tensor, counted: Tensor) -> Tensor:
    # Data without a single count say nothing of their noise.
    known = counted & (spread > 0)
    return torch.where(known, 1 / torch.where(known, spread, 1.0), 0.0)


def _parts(values: Tensor) -> int:
    return 2 if values.is_complex() else 1
