"""Deep equilibrium networks: DE-Grad and DE-Prox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labrecon.networks.equilibrium import Equilibrium
from labrecon.options import number
from labrecon.prior import Prior
from labrecon.priors.channels import channel_count
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.problem import Problem
from labrecon.schedule import Schedule, number_at
from labrecon.seeds import seeded
from labrecon.solver import Solver, SolverError, State
from labrecon.solvers.gradient import require_step
from labrecon.solvers.proximal import ISTA

__all__ = ["RegularisedGradient", "make_de_grad", "make_de_prox"]


@dataclass(frozen=True)
class GradientState(State):
    """The image."""

    x: Tensor


class RegularisedGradient(Solver):
    """``x ← x − τ (∇D(x) + λ (x − P(x)))`` with a denoiser ``P``: the prox of the prior.

    What the denoiser takes away serves as the gradient of a penalty: regularisation by denoising
    (Romano, Elad and Milanfar 2017), and with ``R = P − I`` the iteration of DE-Grad (Gilton, Ongie
    and Willett 2021, eq. 7). Not for priors with a true prox: `labrecon.solvers.ISTA` and FISTA
    minimise a known objective.

    Args:
        prior: its prox, with step 1, is ``P``.
        step_size: ``τ``.
        weight: ``λ``.
    """

    state_type = GradientState

    def __init__(
        self, *, prior: Prior, step_size: float | Schedule, weight: float | Schedule = 1.0
    ) -> None:
        super().__init__()
        self.prior = prior
        self.step_size = require_step(step_size, "step_size")
        self.weight = require_step(weight, "weight")

    def init(self, problem: Problem, x0: Tensor | None = None) -> GradientState:
        """``x0`` or zero."""
        return GradientState(0, self.start(problem, x0))

    def step(self, problem: Problem, state: GradientState) -> tuple[GradientState, dict[str, Any]]:
        """One descent step on data term and denoiser."""
        x, k = state.x, state.k
        denoised, told = self.prior.layer(k).prox_and_losses(x, 1.0)
        direction = problem.gradient(x) + number_at(self.weight, k) * (x - denoised)
        return GradientState(k + 1, x - number_at(self.step_size, k) * direction), told


def make_de_grad(
    problem: Problem,
    *,
    layers: int = 17,
    features: int = 64,
    step: float = 0.2,
    find: str = "anderson",
    backward: str = "implicit",
    iterations: int = 100,
    tolerance: float = 1e-4,
    scale: float = 1.0,
    seed: int = 0,
) -> Equilibrium:
    """DE-Grad: the fixed point of ``x ← x − η (Aᴴ(A x − y) − R(x))`` (Gilton et al. 2021).

    ``R`` is a chain of convolutions of operator norm 1, which should first be trained as a denoiser
    ``x + R(x)`` (`labrecon.learners`). ``η`` is learned, from ``step`` for ``‖A‖ = 1``; for other
    operators both terms are scaled by ``1 / L`` or ``L`` so that this holds. The authors also clamp
    the image to [−1, 1], which is left out here, since it needs images of that range.

    Args:
        problem: an example, for spaces and ``L``.
        layers: convolutions of ``R``.
        features: channels between them.
        step: ``η`` at the start.
        find: see `Equilibrium`.
        backward: see `Equilibrium`; "jfb" trains several times faster.
        iterations: see `Equilibrium`.
        tolerance: see `Equilibrium`.
        scale: typical size of the object's values; the convolutions see ``x / scale``.
        seed: of the first weights.
    """
    prior = bounded_denoiser(problem, layers, features, scale, seed)
    curvature = largest_curvature(problem)
    solver = RegularisedGradient(
        prior=prior, step_size=learned_number("step", step, 1 / curvature), weight=curvature
    )
    return attached_equilibrium(solver, problem, find, backward, iterations, tolerance)


def make_de_prox(
    problem: Problem,
    *,
    layers: int = 17,
    features: int = 64,
    step: float = 1.0,
    find: str = "anderson",
    backward: str = "implicit",
    iterations: int = 100,
    tolerance: float = 1e-4,
    scale: float = 1.0,
    seed: int = 0,
) -> Equilibrium:
    """DE-Prox: the fixed point of ``x ← g + R(g)``, ``g = x − η Aᴴ(A x − y)`` (Gilton et al. 2021).

    Proximal gradient with a denoiser ``I + R`` for the prox. ``R`` is a chain of convolutions of
    operator norm 1, which should first be trained as a denoiser (`labrecon.learners`). ``η`` is
    learned, from ``step`` over ``L``.

    Args:
        problem: an example, for spaces and ``L``.
        layers: convolutions of ``R``.
        features: channels between them.
        step: ``η`` at the start, for ``‖A‖ = 1``.
        find: see `Equilibrium`.
        backward: see `Equilibrium`; "jfb" trains several times faster.
        iterations: see `Equilibrium`.
        tolerance: see `Equilibrium`.
        scale: typical size of the object's values; the convolutions see ``x / scale``.
        seed: of the first weights.
    """
    prior = bounded_denoiser(problem, layers, features, scale, seed)
    solver = ISTA(
        prior=prior, step_size=learned_number("step", step, 1 / largest_curvature(problem))
    )
    return attached_equilibrium(solver, problem, find, backward, iterations, tolerance)


def bounded_denoiser(
    problem: Problem, layers: int, features: int, scale: float, seed: int
) -> Denoiser:
    """``I + R`` with convolutions ``R`` of operator norm 1."""
    domain = problem.operator.domain
    axes = min(2, domain.ndim)
    with seeded(seed):
        network = DnCNN(
            channel_count(domain.dtype),
            axes=axes,
            features=features,
            depth=layers,
            batch_norm=False,
            spectral=True,
        )
    return Denoiser(network, scale=scale, axes=axes)


def largest_curvature(problem: Problem) -> float:
    """``L`` of the batch element that has the largest."""
    return float(torch.as_tensor(problem.lipschitz()).max())


def learned_number(what: str, value: float, unit: float) -> Schedule:
    """A number in some unit, which is learned from there."""
    return Schedule(number(what, value, above=0, error=SolverError) * unit, learn=True)


def attached_equilibrium(
    solver: Solver,
    problem: Problem,
    find: str,
    backward: str,
    iterations: int,
    tolerance: float,
) -> Equilibrium:
    """The equilibrium of a solver for the objects of a problem."""
    solver = solver.to(problem.operator.domain.real_dtype)
    return Equilibrium(
        solver,
        find=find,
        backward=backward,
        iterations=iterations,
        tolerance=tolerance,
        start="initial",
    )
