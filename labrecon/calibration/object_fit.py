"""The object at given nuisances: a quadratic problem, however the final image is made."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon.calibration.linearised import (
    Linearised,
    linearised,
    mean_diagonal,
    object_step,
    quadratic,
)
from labrecon.krylov import cg_start, cg_step
from labrecon.noise import Gaussian
from labrecon.prior import Prior
from labrecon.priors.tikhonov import Tikhonov
from labrecon.problem import Problem
from labrecon.space import squared_norm

__all__ = [
    "FINE",
    "degrees_of_freedom",
    "fit_object",
    "noise_scale",
    "reduced_chi2",
    "residual_power",
    "states_level",
    "white_prior",
]

#: Power of the prior in units of the object's mean square.
WIDE = 100.0
#: Residual of the normal equations, relative to the back-projected data, that is converged.
TOLERANCE = 1e-3
#: The same where χ² is to be that of the best object.
FINE = 1e-5
#: The same for the degrees of freedom, which two random vectors tell to a few per cent.
COARSE = 1e-2
#: First damping of a nonlinear fit, as a fraction of the mean diagonal of the information.
DAMPING = 1e-2
#: Gauss–Newton steps of a nonlinear fit, and conjugate-gradient iterations in each.
STEPS, INNER = 5, 15


def white_prior(x: Tensor, scale: float) -> Tikhonov:
    """Samples that are independent, of mean 0 and of a hundred times the mean square of ``x``.

    Objects are not white: their coarse structure has many times the mean power. A prior without
    the hundred pulls it towards 0, and nuisances with it: an LED shift by five standard errors.

    Args:
        x: an object like the one that is looked for.
        scale: variance of the noise in units of that which the data term assumes.
    """
    parts = 2 if x.is_complex() else 1
    power = float(x.abs().double().square().mean()) / parts
    return Tikhonov(scale / (WIDE * power) if power > 0 and math.isfinite(power) else 0.0)


def fit_object(
    problem: Problem, prior: Prior, x: Tensor, iterations: int, tolerance: float = TOLERANCE
) -> Tensor:
    """``argmin_x`` of data term and quadratic prior, from ``x``.

    Conjugate gradients where the problem is quadratic; damped Gauss–Newton steps elsewhere.
    """
    if problem.operator.linear and isinstance(problem.noise, Gaussian):
        here = linearised(problem, x, quadratic(prior))
        size = _size(problem, here)
        return x + _solved(here, -here.gradient, iterations, size, tolerance)
    damping = DAMPING * mean_diagonal(problem, x)
    for _ in range(STEPS):
        x, damping, _ = object_step(problem, prior, x, damping, min(INNER, iterations))
    return x


def _size(problem: Problem, here: Linearised) -> Tensor:
    """``‖AᴴW y‖²`` per element."""
    back = here.tangent.adjoint((here.weights * problem.data).to(problem.data.dtype))
    return squared_norm(back, here.tangent.domain.ndim)


def _solved(
    here: Linearised, right: Tensor, iterations: int, size: Tensor, tolerance: float
) -> Tensor:
    ndim = here.tangent.domain.ndim
    state = cg_start(here.hessian, right, None, ndim)
    for _ in range(iterations):
        if bool((state.rr <= tolerance**2 * size).all()):
            break
        state = cg_step(here.hessian, state, ndim)
    return state.x


def degrees_of_freedom(here: Linearised, iterations: int) -> float:
    """Real numbers of the object that the data determine: ``tr((JᴴWJ + R)⁻¹ JᴴWJ)``.

    Estimated by two random vectors of signs (Hutchinson 1990).
    """
    domain, found = here.tangent.domain, []
    parts = 2 if domain.dtype.is_complex else 1
    batch = here.gradient.shape[: here.gradient.ndim - domain.ndim]
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        signs = domain.random(*batch, generator=generator, device=here.gradient.device)
        signs = torch.where(signs.real > 0, 1.0, -1.0).to(domain.dtype)
        right = here.hessian(signs) - here.regular(signs)
        size = squared_norm(right, domain.ndim)
        solved = _solved(here, right, iterations, size, COARSE)
        found.append(parts * float((signs.conj() * solved).real.double().sum()))
    # Where the object changes nothing, conjugate gradients divide roundings.
    return min(max(sum(found) / len(found), 0.0), float(parts * here.gradient.numel()))


def residual_power(problem: Problem, here: Linearised) -> tuple[Tensor, float, int]:
    """The residual in standard deviations of the noise, its square, and its real samples."""
    residual = (problem.data - here.predicted) * here.weights.sqrt()
    counted = torch.broadcast_to(here.weights, residual.shape) > 0
    residual = torch.where(counted, residual, 0.0)
    samples = int(counted.sum()) * (2 if residual.is_complex() else 1)
    return residual, float(residual.abs().double().square().sum()), samples


def states_level(problem: Problem) -> bool:
    """Whether the noise has an absolute level: not with σ = 1 and weights 0 and 1 alone."""
    if not isinstance(problem.noise, Gaussian) or not problem.noise.unit:
        return True
    weights = problem.weights
    return weights is not None and not bool(((weights == 0) | (weights == 1)).all())


def noise_scale(problem: Problem, here: Linearised, unknowns: int, iterations: int) -> float:
    """Variance of the noise in units of that which the data term assumes; 1 where it is stated.

    From the residual, per degree of freedom that object and nuisances leave.
    """
    return 1.0 if states_level(problem) else reduced_chi2(problem, here, unknowns, iterations)


def reduced_chi2(problem: Problem, here: Linearised, unknowns: int, iterations: int) -> float:
    """``‖r‖²_W`` per degree of freedom."""
    _, power, samples = residual_power(problem, here)
    left = samples - degrees_of_freedom(here, iterations) - unknowns
    return power / max(left, 1.0)
