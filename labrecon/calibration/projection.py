"""Variable projection: Gauss–Newton in the nuisances, with the object eliminated in each step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.calibration.bounded import bounded_step
from labrecon.calibration.conclusion import conclude
from labrecon.calibration.derivatives import FIRST_SCALE, derivatives
from labrecon.calibration.information import Information, information
from labrecon.calibration.linearised import linearised, mean_diagonal, quadratic
from labrecon.calibration.object_fit import fit_object, noise_scale, white_prior
from labrecon.calibration.result import Calibration
from labrecon.calibration.search import searched
from labrecon.calibration.unknowns import Bounds, Unknowns
from labrecon.operator import Operator
from labrecon.options import number, whole
from labrecon.priors.tikhonov import Tikhonov
from labrecon.problem import Problem

__all__ = ["calibrate"]

#: How often a step that makes things worse is tried again, shorter.
TRIALS = 5
#: First weight of the prior, as a fraction of the mean diagonal of the information.
FIRST_WEIGHT = 1e-3
#: A step of so many standard errors is converged.
CONVERGED = 0.02
Watch = Callable[[dict[str, float]], object]


@dataclass(frozen=True, eq=False)
class _Point:
    """Values of the nuisances and the object that fits them, with what steps have learned.

    ``level`` is the variance of the noise in units of that which is assumed, ``last`` the last step
    that was tried and ``distance`` its length in standard errors.
    """

    p: Tensor
    problem: Problem
    x: Tensor
    prior: Tikhonov
    scales: Tensor
    last: Tensor
    level: float = 1.0
    damping: float = 0.0
    responses: list[Tensor] | None = None
    distance: float = math.inf

    @property
    def objective(self) -> float:
        ndim = self.problem.operator.domain.ndim
        terms = self.problem.loss(self.x) + self.prior.penalty(self.x, ndim)
        return float(terms.double().sum())

    def at(self, p: Tensor, unknowns: Unknowns, x: Tensor, inner: int) -> _Point:
        """At other values, with the object fitted from ``x``."""
        problem = dataclasses.replace(self.problem, operator=unknowns.placed(p))
        fitted = fit_object(problem, self.prior, x, inner)
        return dataclasses.replace(self, p=p, problem=problem, x=fitted)


@torch.no_grad()
def calibrate(
    problem: Problem,
    names: Sequence[str],
    *,
    weight: float | None = None,
    bounds: Bounds | None = None,
    iterations: int = 20,
    inner: int = 100,
    scan: int = 0,
    watch: Watch | None = None,
) -> tuple[Operator, Calibration]:
    """``argmin_p min_x D(A(x; p)) + ½ weight ‖x‖²``, and how well ``p`` is known.

    Variable projection (Golub and Pereyra 1973) with Kaufman's Jacobian (1975): what the object
    explains is projected out of ``∂A/∂p``, so that a step in ``p`` takes along the object that
    follows it. For nonlinear operators and other noise the same with the tangent and the Fisher
    information: a joint Gauss–Newton step. The quadratic prior serves the calibration alone; the
    image may be made with any other. Errors are those of `Information`.

    Not for nuisances of many numbers, each of which costs a solve per step, nor for objects that
    only another prior holds together (few views and TV): there, take `Alternating`.

    Args:
        problem: operator, data and noise; leading axes of the data share the nuisances.
        names: of nuisances of the operator.
        weight: of the prior; by default the inverse mean square of the object.
        bounds: lowest and highest value of nuisances, by name.
        iterations: steps in the nuisances, at most.
        inner: conjugate-gradient iterations of a solve, at most.
        scan: values between the bounds of each number that are tried before the first step, one
            number after the other: for an objective with several minima.
        watch: told of each step.

    Returns:
        A copy of the operator with the estimates, and what was found.

    Raises:
        ValueError: see `Unknowns`; a number out of range, or a scan without bounds.
        NoiseError: the noise does not state its variance, or data that it can not make.
        SolverError: data or weights that are not finite.
    """
    whole("calibrate: iterations", iterations)
    whole("calibrate: inner", inner)
    whole("calibrate: scan", scan, at_least=0)
    if weight is not None:
        number("calibrate: weight", weight, at_least=0)
    problem = dataclasses.replace(problem, prepared=None)
    problem.validate()
    unknowns = Unknowns(problem.operator, names, bounds)
    here = _begun(problem, unknowns, weight, inner)
    if scan:
        here = here.at(searched(problem, unknowns, here.prior, scan), unknowns, here.x, inner)
    history = [_record(here, unknowns, 0)]
    for step in range(1, iterations + 1):
        here = _step(here, unknowns, weight, inner)
        history.append(_record(here, unknowns, step))
        if watch is not None:
            watch(history[-1])
        if here.distance <= CONVERGED:
            break
    made = conclude(
        here.problem,
        unknowns,
        here.p,
        here.x,
        weight=weight,
        inner=inner,
        method="projection",
        history=history,
        last=here.last,
        over=1,
        scales=here.scales,
    )
    return here.problem.operator, made


def _begun(problem: Problem, unknowns: Unknowns, weight: float | None, inner: int) -> _Point:
    x = problem.operator.initial(problem.data)
    typical = FIRST_WEIGHT * float(mean_diagonal(problem, x).mean())
    prior = Tikhonov(typical if weight is None else weight)
    scales = torch.full((len(unknowns),), FIRST_SCALE, dtype=torch.float64)
    begun = _Point(unknowns.start, problem, x, prior, scales, torch.zeros_like(unknowns.start))
    return begun.at(unknowns.start, unknowns, x, inner)


def _step(here: _Point, unknowns: Unknowns, weight: float | None, inner: int) -> _Point:
    """The object fitted to the present values, then a joint step."""
    local = linearised(here.problem, here.x, quadratic(here.prior))
    here = dataclasses.replace(here, level=noise_scale(here.problem, local, len(unknowns), inner))
    if weight is None:
        prior = white_prior(here.x, here.level)
        x = fit_object(here.problem, prior, here.x, inner)
        here = dataclasses.replace(here, prior=prior, x=x)
        local = linearised(here.problem, x, quadratic(prior))
    columns, scales = derivatives(unknowns, here.p, here.x, local.predicted, here.scales)
    told = information(local, here.x, columns, inner, here.responses)
    here = dataclasses.replace(here, scales=scales, responses=told.responses)
    return _descended(here, unknowns, told, inner)


def _descended(here: _Point, unknowns: Unknowns, told: Information, inner: int) -> _Point:
    """The joint step, shortened until it lowers the objective; the same point where none does."""
    before = here.objective
    slack = 10 * torch.finfo(here.problem.data.real.dtype).eps * abs(before)
    damping = here.damping
    for _ in range(TRIALS):
        matrix = told.schur + damping * torch.diag(told.schur.diagonal())
        step = bounded_step(matrix, told.gradient, here.p, unknowns.low, unknowns.high)
        p = unknowns.feasible(here.p + step)
        step = p - here.p
        distance = math.sqrt(max(float(step @ told.schur @ step), 0.0) / here.level)
        assert here.responses is not None
        x = here.x - sum(float(d) * z for d, z in zip(step, here.responses, strict=True))
        moved = here.at(p, unknowns, x, inner)
        if moved.objective <= before + slack:
            return dataclasses.replace(moved, damping=damping / 10, distance=distance, last=step)
        if distance <= CONVERGED:
            break
        damping = max(10 * damping, 0.3)
    return dataclasses.replace(here, damping=damping, distance=distance, last=step)


def _record(here: _Point, unknowns: Unknowns, step: int) -> dict[str, float]:
    values = dict(zip(unknowns.labels, here.p.tolist(), strict=True))
    moved = {} if math.isinf(here.distance) else {"distance": here.distance}
    return {"step": float(step), "objective": here.objective, **moved, **values}
