"""The end of a calibration: errors, degeneracies, and what keeps them from being right."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from labrecon.calibration.bounded import bounded_step
from labrecon.calibration.derivatives import derivatives
from labrecon.calibration.information import Information, information
from labrecon.calibration.linearised import Linearised, linearised, quadratic
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
PATIENCE = 2


@torch.no_grad()
def conclude(
    problem: Problem,
    unknowns: Unknowns,
    p: Tensor,
    x: Tensor,
    *,
    method: Literal["projection", "alternating"],
    before: Tensor,
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
        before: prediction with the nuisances as they were at the start.
        history: a record per step.
        last: by how much the estimates changed in the end.
        over: in so many steps.
        scales: sizes of differences, see `derivatives`.
        weight: of the quadratic prior; by default the inverse mean square of the object.
        inner: conjugate-gradient iterations per step.
    """
    known = states_level(problem)
    chi2, power = _misfit(problem, x, weight, len(unknowns), inner, refit=method == "alternating")
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
    after, _, _ = residual_power(problem, local)
    ago = (problem.data - before) * local.weights.sqrt()
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
        chi2 / level * float(ago.abs().double().square().sum()) / max(power, 1e-300),
        (ago / math.sqrt(level)).cpu(),
        (after / math.sqrt(level)).cpu(),
        _warnings(told.settled, chi2, inflation, statement, done=done, hopeless=hopeless),
        1.0 if hopeless else inflation,
    )


def _misfit(
    problem: Problem, x: Tensor, weight: float | None, count: int, inner: int, *, refit: bool
) -> tuple[float, float]:
    """χ² per degree of freedom, and in all.

    Degrees of freedom are those of the quadratic prior. An object that another prior made is not
    its best one, hence fitted anew.
    """
    level = 1.0
    if not states_level(problem):
        # Without the degrees of freedom of the object, as a first guess.
        _, power, samples = residual_power(problem, _local(problem, x, weight, 1.0))
        level = power / max(samples, 1)
    if refit:
        x = fit_object(problem, _prior(x, weight, level), x, inner, FINE)
    local = _local(problem, x, weight, level)
    _, power, _ = residual_power(problem, local)
    return reduced_chi2(problem, local, count, inner), power


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
            f"no solution of the model: χ² is {chi2:.3g} per degree of freedom, and 1 where noise "
            f"is all that data and model differ by; settled after {count}"
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
            f"χ² {chi2:.3g} per degree of freedom: another minimum (start nearer, or give bounds "
            "and a scan), a model that lacks something, or noise that is understated; errors are "
            "not told"
        )
    elif inflation > 1:
        told.append(
            f"the data differ from the model by more than their noise (χ² {chi2:.3g} per degree "
            f"of freedom): errors are {inflation:.2g} times what the noise makes, and do not "
            "cover a bias"
        )
    return tuple(told)


def _prior(x: Tensor, weight: float | None, level: float) -> Tikhonov:
    return white_prior(x, level) if weight is None else Tikhonov(weight)


def _local(problem: Problem, x: Tensor, weight: float | None, level: float) -> Linearised:
    """The problem around ``x``; ``level`` is the variance of the noise as far as it is known."""
    return linearised(problem, x, quadratic(_prior(x, weight, level)))
