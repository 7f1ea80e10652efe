"""The data term around a point: score, Fisher weights, and the normal equations of the object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.krylov import cg_start, cg_step
from labrecon.noise import Gaussian
from labrecon.operator import Operator
from labrecon.prior import Prior, Zero
from labrecon.priors.tikhonov import Tikhonov
from labrecon.problem import Problem
from labrecon.space import per_element

__all__ = ["Linearised", "linearised", "mean_diagonal", "object_step", "quadratic"]

#: How often a step that makes things worse is tried again with four times the damping.
TRIALS = 5


@dataclass(frozen=True, eq=False)
class Linearised:
    """A problem around ``x``, with ``J = ∂A/∂x`` and ``W = w / variance(A x)``.

    Attributes:
        tangent: ``J``.
        predicted: ``A(x)``.
        weights: ``W``, the Fisher information of the data.
        score: derivative of the data term by the prediction.
        gradient: ``Jᴴ score + R x``.
        hessian: ``u ↦ (Jᴴ W J + R) u``.
        regular: ``u ↦ R u``.
    """

    tangent: Operator
    predicted: Tensor
    weights: Tensor
    score: Tensor
    gradient: Tensor
    hessian: Map
    regular: Map


def linearised(problem: Problem, x: Tensor, regular: Map) -> Linearised:
    """The problem around ``x``; ``regular`` is the Hessian of a quadratic penalty, ``u ↦ R u``."""
    operator = problem.operator
    tangent = operator if operator.linear else operator.linearize(x)
    predicted = operator(x)
    weights = 1 / problem.noise.variance(predicted)
    if not torch.is_grad_enabled():
        weights = weights.detach()
    weights = problem.weighted(weights)
    score = problem.weighted(problem.noise.score(predicted, problem.data))
    normal = _normal(problem, tangent, weights)

    def hessian(u: Tensor) -> Tensor:
        return normal(u) + regular(u)

    gradient = tangent.adjoint(score) + regular(x)
    return Linearised(tangent, predicted, weights, score, gradient, hessian, regular)


def _normal(problem: Problem, tangent: Operator, weights: Tensor) -> Map:
    noise = problem.noise
    cheap = type(tangent).normal is not Operator.normal
    if cheap and isinstance(noise, Gaussian) and noise.sigma.ndim == 0:
        # Left in front: one number for all samples spares a kernel per coil.
        inner, factor = tangent.normal_map(problem.weights), noise.curvature(problem.data)
        return lambda u: factor * inner(u)
    return lambda u: tangent.adjoint(weights * tangent(u))


def quadratic(prior: Prior) -> Map:
    """``u ↦ R u`` of a quadratic prior: `Tikhonov`, or none."""
    if not isinstance(prior, Tikhonov):
        assert isinstance(prior, Zero)
        return lambda u: 0 * u
    k, weight = prior.operator, prior.weight
    if k is None:
        return lambda u: weight * u
    return lambda u: k.adjoint(weight * k(u))


def object_step(
    problem: Problem, prior: Prior, x: Tensor, damping: Tensor, inner: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Levenberg's and Marquardt's step in the object, per batch element.

    ``(JᴴWJ + R + μ) d = −∇(D + g)`` by conjugate gradients; ``μ`` falls with a step that lowers
    the objective, and rises where one does not.

    Args:
        problem: operator, data and noise.
        prior: `Tikhonov` or none.
        x: where to step from.
        damping: ``μ``, per element.
        inner: conjugate-gradient iterations.

    Returns:
        The next ``x`` and ``μ``, and the objective at the given ``x``.
    """
    ndim = problem.operator.domain.ndim
    here = linearised(problem, x, quadratic(prior))

    def objective(at: Tensor) -> Tensor:
        return problem.loss(at) + prior.penalty(at, ndim)

    before = objective(x)
    # Sums of many samples are known to so much: near the solution nothing tells better.
    slack = 100 * torch.finfo(before.dtype).eps * before.detach().abs()
    start, accepted = x, torch.zeros_like(before, dtype=torch.bool)
    for _ in range(TRIALS):
        mu = per_element(damping, ndim)

        def apply(u: Tensor, mu: Tensor = mu) -> Tensor:
            return here.hessian(u) + mu * u

        state = cg_start(apply, -here.gradient, None, ndim)
        for _ in range(inner):
            state = cg_step(apply, state, ndim)
        moved = start + state.x
        better = objective(moved) <= before + slack
        new = better & ~accepted
        x = torch.where(per_element(new, ndim), moved, x)
        damping = torch.where(new, damping / 3, torch.where(accepted, damping, damping * 4))
        accepted = accepted | better
        if bool(accepted.all()):
            break
    return x, damping, before


def mean_diagonal(problem: Problem, x: Tensor) -> Tensor:
    """Mean diagonal of ``JᴴWJ`` per element, by one random probe."""
    generator = torch.Generator().manual_seed(0)
    domain = problem.operator.domain
    with torch.no_grad():
        # The same for all elements, which are not to know of each other.
        probe = domain.random(generator=generator, device=x.device).expand_as(x)
        probe = probe / (2**0.5 if probe.is_complex() else 1.0)
        normal = linearised(problem, x, quadratic(Zero())).hessian
        mean = (probe.conj() * normal(probe)).real.flatten(x.ndim - domain.ndim).mean(-1)
    return mean.clamp_min(torch.finfo(mean.dtype).tiny)
