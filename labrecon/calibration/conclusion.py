"""The end of a calibration: errors, degeneracies, and what keeps them from being right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from labrecon.calibration.bounded import bounded_step
from labrecon.calibration.derivatives import derivatives
from labrecon.calibration.information import Information, information
from labrecon.calibration.linearised import Linearised, linearised, quadratic
from labrecon.calibration.nuisance_step import placed_problem
from labrecon.calibration.object_fit import (
    FINE,
    fit_object,
    reduced_chi2,
    residual_power,
    states_level,
    white_prior,
)
from labrecon.calibration.result import NO_SOLUTION, Calibration, Estimate
from labrecon.calibration.uncertainty import Uncertainty, uncertainty
from labrecon.calibration.unknowns import Unknowns
from labrecon.priors.tikhonov import Tikhonov
from labrecon.problem import Problem

__all__ = ["conclude"]

#: χ² per degree of freedom beyond which the model, not the noise, makes the residual. Errors are
#: larger by its root then (Birge 1932).
MISFIT = 1.5
#: χ² per degree of freedom beyond which the estimates solve nothing, and have no errors.
HOPELESS = 10.0
#: A change of so many standard errors at the end is converged.
CONVERGED = 0.1
#: A joint step of so many standard errors tells of nuisances that stand still because the object
#: does not follow them. Less may come from another prior.
STALLED = 3.0
#: Solves of the end may take so many times more iterations than those of a step.
PATIENCE = 6


@torch.no_grad()
def conclude(
    problem: Problem,
    unknowns: Unknowns,
    p: Tensor,
    x: Tensor,
    *,
    method: Literal["projection", "alternating"],
    history: list[dict[str, float]],
    last: Tensor,
    over: int,
    scales: Tensor,
    weight: float | None = None,
    inner: int = 100,
) -> Calibration:
    """Errors at the end of a calibration, and its result.

    Where the noise states its level, χ² tells whether the model explains the data. If it is beyond
    1.5 per degree of freedom errors are larger by its root; beyond 10 there are none.

    Args:
        problem: with the operator at the estimates.
        unknowns: names, bounds.
        p: the estimates.
        x: the object there.
        method: that led there.
        history: a record per step.
        last: by how much the estimates changed in the end.
        over: in so many steps.
        scales: sizes of differences, see `derivatives`.
        weight: of the quadratic prior; by default the inverse mean square of the object.
        inner: conjugate-gradient iterations per step.
    """
    known = states_level(problem)
    best = _best(problem, unknowns, x, weight, inner)
    chi2 = best.chi2
    level = 1.0 if known else chi2
    inflation = math.sqrt(chi2) if known and chi2 > MISFIT else 1.0
    hopeless = known and not chi2 <= HOPELESS
    local = _local(problem, x, weight, level)
    columns, _ = derivatives(unknowns, p, x, local.predicted, scales)
    told = information(local, x, columns, PATIENCE * inner)
    scale = level * inflation**2
    errors = uncertainty(told, unknowns, p, scale)
    moved = math.sqrt(max(float(last @ told.schur @ last), 0.0) / scale)
    lacking = _lacking(told, unknowns, p, errors)
    if hopeless:
        errors = _withheld(errors)
    done = moved <= CONVERGED and lacking <= STALLED
    steps = int(history[-1]["step"])
    statement = _statement(done, hopeless, steps, over, moved, lacking, chi2)
    return Calibration(
        method,
        _estimates(unknowns, p, errors),
        errors.correlation,
        steps,
        "iterations" if not done else "misfit" if hopeless else "converged",
        statement,
        history,
        known,
        chi2 / level,
        best.chi2_before / level,
        (best.before / math.sqrt(level)).cpu(),
        (best.after / math.sqrt(level)).cpu(),
        _warnings(told.settled, chi2, inflation, statement, done=done, hopeless=hopeless),
        1.0 if hopeless else inflation,
    )


@dataclass(frozen=True, eq=False)
class _Best:
    """Normalised residuals of the best objects at the start and at the estimates, and their χ²."""

    before: Tensor
    after: Tensor
    chi2_before: float
    chi2: float


def _best(
    problem: Problem, unknowns: Unknowns, x: Tensor, weight: float | None, inner: int
) -> _Best:
    """χ² per degree of freedom with the values at the start, and with the estimates.

    Both are of objects that are fitted with the same prior, from the same one, with the same
    effort: else that of the start could have more freedom, and fit the noise. They differ by twice
    the data term per degree of freedom, which is the difference of χ² for Gaussian noise. Where the
    variance follows the prediction, χ² itself is not what a fit minimises, and may well be lower
    for the worse one.
    """
    level = 1.0
    if not states_level(problem):
        # Without the degrees of freedom of the object, as a first guess.
        _, power, samples = residual_power(problem, _local(problem, x, weight, 1.0))
        level = power / max(samples, 1)
    prior = _prior(x, weight, level)
    earlier = placed_problem(problem, unknowns, unknowns.start)
    past = fit_object(earlier, prior, x, inner, FINE)
    before, _, _ = residual_power(earlier, _local(earlier, past, weight, level))
    x = fit_object(problem, prior, x, inner, FINE)
    local = _local(problem, x, weight, level)
    after, power, samples = residual_power(problem, local)
    chi2 = reduced_chi2(problem, local, len(unknowns), inner)
    left = power / chi2 if chi2 > 0 else max(samples, 1)
    worse = float((earlier.loss(past) - problem.loss(x)).double().sum())
    return _Best(before, after, chi2 + 2 * worse / left, chi2)


def _lacking(told: Information, unknowns: Unknowns, p: Tensor, errors: Uncertainty) -> float:
    """The longest joint step of a number that is known, in its standard errors."""
    step = bounded_step(told.schur, told.gradient, p, unknowns.low, unknowns.high)
    sizes = [abs(float(d)) / e for d, e in zip(step, errors.errors, strict=True) if e]
    return max(sizes, default=0.0)


def _withheld(errors: Uncertainty) -> Uncertainty:
    """No errors: what the noise makes of them is nothing beside the misfit."""
    count = len(errors.errors)
    return Uncertainty(
        (None,) * count,
        tuple(why or NO_SOLUTION for why in errors.reasons),
        ((None,) * count,) * count,
    )


def _estimates(unknowns: Unknowns, p: Tensor, errors: Uncertainty) -> tuple[Estimate, ...]:
    rows = zip(
        unknowns.labels,
        unknowns.units,
        unknowns.start.tolist(),
        p.tolist(),
        errors.errors,
        errors.reasons,
        strict=True,
    )
    return tuple(Estimate(*row) for row in rows)


def _statement(
    done: bool, hopeless: bool, steps: int, over: int, moved: float, lacking: float, chi2: float
) -> str:
    count = f"{steps} step" if steps == 1 else f"{steps} steps"
    ended = "the last one" if over == 1 else f"the last {over}"
    settled = f"{ended} moved the estimates by {moved:.2g} standard errors"
    if lacking > STALLED:
        settled += f", and the object would let them move by {lacking:.2g}"
    if not done:
        return f"not converged after {count}: {settled}"
    if hopeless:
        return (
            f"no solution of the model: χ² of the best object is {chi2:.3g} per degree of "
            "freedom, and 1 where noise is all that data and model differ by; settled after "
            f"{count}"
        )
    return f"converged after {count}: {settled}"


def _warnings(
    settled: bool, chi2: float, inflation: float, statement: str, *, done: bool, hopeless: bool
) -> tuple[str, ...]:
    told = [] if done and not hopeless else [statement]
    if not settled:
        told.append(
            "the solves for the errors have not converged: errors may be too small; raise "
            "calibrate.inner"
        )
    if hopeless:
        told.append(
            f"χ² of the best object {chi2:.3g} per degree of freedom: another minimum (start "
            "nearer, or give bounds and a scan), a model that lacks something, or noise that is "
            "understated; errors are not told"
        )
    elif inflation > 1:
        told.append(
            f"the data differ from the model by more than their noise (χ² of the best object "
            f"{chi2:.3g} per degree of freedom): errors are {inflation:.2g} times what the noise "
            "makes, and do not cover a bias"
        )
    return tuple(told)


def _prior(x: Tensor, weight: float | None, level: float) -> Tikhonov:
    return white_prior(x, level) if weight is None else Tikhonov(weight)


def _local(problem: Problem, x: Tensor, weight: float | None, level: float) -> Linearised:
    """The problem around ``x``; ``level`` is the variance of the noise as far as it is known."""
    return linearised(problem, x, quadratic(_prior(x, weight, level)))
