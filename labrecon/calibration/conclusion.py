"""The end of a calibration: errors, degeneracies, and what keeps them from being right."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from labrecon.calibration.derivatives import derivatives
from labrecon.calibration.information import information
from labrecon.calibration.linearised import Linearised, linearised, quadratic
from labrecon.calibration.object_fit import (
    reduced_chi2,
    residual_power,
    states_level,
    white_prior,
)
from labrecon.calibration.result import Calibration, Estimate
from labrecon.calibration.uncertainty import uncertainty
from labrecon.calibration.unknowns import Unknowns
from labrecon.priors.tikhonov import Tikhonov
from labrecon.problem import Problem

__all__ = ["conclude"]

#: χ² per degree of freedom beyond which the model, not the noise, makes the residual.
MISFIT = 1.5
#: A change of so many standard errors at the end is converged.
CONVERGED = 0.1
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
    local = _local(problem, x, weight, 1.0)
    _, power, samples = residual_power(problem, local)
    if not known:
        # Without the degrees of freedom of the object, as a first guess.
        local = _local(problem, x, weight, power / max(samples, 1))
    chi2 = reduced_chi2(problem, local, len(unknowns), inner)
    if not known:
        local = _local(problem, x, weight, chi2)
    scale = 1.0 if known else chi2
    columns, _ = derivatives(unknowns, p, x, local.predicted, scales)
    told = information(local, x, columns, PATIENCE * inner)
    errors = uncertainty(told, unknowns, p, scale)
    estimates = tuple(
        Estimate(label, unit, float(start), float(value), error, reason)
        for label, unit, start, value, error, reason in zip(
            unknowns.labels,
            unknowns.units,
            unknowns.start,
            p,
            errors.errors,
            errors.reasons,
            strict=True,
        )
    )
    after, _, _ = residual_power(problem, local)
    ago = (problem.data - before) * local.weights.sqrt()
    warnings = []
    if not told.settled:
        warnings.append(
            "the solves for the errors have not converged: errors may be too small; raise "
            "calibrate.inner"
        )
    if known and chi2 > MISFIT:
        warnings.append(
            f"the data differ from the model by more than their noise (χ² {chi2:.3g} per degree "
            "of freedom): the errors count the noise alone"
        )
    distance = math.sqrt(max(float(last @ told.schur @ last), 0.0) / scale)
    done = distance <= CONVERGED
    steps = int(history[-1]["step"])
    ended = "the last one" if over == 1 else f"the last {over}"
    statement = (
        f"{'' if done else 'not '}converged after {steps} steps: {ended} moved the estimates by "
        f"{distance:.2g} standard errors"
    )
    if not done:
        warnings.append(statement)
    root = math.sqrt(scale)
    return Calibration(
        method,
        estimates,
        errors.correlation,
        steps,
        "converged" if done else "iterations",
        statement,
        history,
        known,
        chi2 / scale,
        chi2 / scale * float(ago.abs().double().square().sum()) / max(power, 1e-300),
        (ago / root).cpu(),
        (after / root).cpu(),
        tuple(warnings),
    )


def _local(problem: Problem, x: Tensor, weight: float | None, level: float) -> Linearised:
    """The problem around ``x``; ``level`` is the variance of the noise as far as it is known."""
    prior = white_prior(x, level) if weight is None else Tikhonov(weight)
    return linearised(problem, x, quadratic(prior))
