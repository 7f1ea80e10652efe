"""Deep equilibrium networks whose data step is a solve: DE-ADMM and DE-HQS."""

from __future__ import annotations

from labrecon.networks.deep_equilibrium import (
    attached_equilibrium,
    bounded_denoiser,
    largest_curvature,
    learned_number,
)
from labrecon.networks.equilibrium import Equilibrium
from labrecon.problem import Problem
from labrecon.solvers.admm import ADMM
from labrecon.solvers.hqs import HQS
from labrecon.solvers.quadratic import data_weights

__all__ = ["make_de_admm", "make_de_hqs"]


def make_de_admm(
    problem: Problem,
    *,
    layers: int = 17,
    features: int = 64,
    coupling: float = 0.25,
    inner: int = 10,
    find: str = "anderson",
    backward: str = "implicit",
    iterations: int = 100,
    tolerance: float = 1e-4,
    scale: float = 1.0,
    seed: int = 0,
) -> Equilibrium:
    """DE-ADMM: the fixed point of ADMM with a denoiser for the prox (Gilton et al. 2021, sec. 3.3).

    ``x ← argmin D(x) + ½ρ‖x − z + u‖²``, ``z ← (I + R)(x + u)``, ``u ← u + x − z``. The state is
    ``(z, u)``, and the estimate ``z``, which the denoiser made last: with ``backward="jfb"`` a step
    that ended in ``x`` would leave ``R`` without a gradient. ``R`` is a chain of convolutions of
    operator norm 1, which should first be trained as a denoiser (`labrecon.learners`). Needs a
    linear operator and Gaussian noise; good where the operator has a closed-form ``solve``.

    Args:
        problem: an example, for spaces and ``L``.
        layers: convolutions of ``R``.
        features: channels between them.
        coupling: ``ρ`` at the start, in units of ``L``; it is learned.
        inner: conjugate-gradient steps of ``x`` where there is no closed form.
        find: see `Equilibrium`.
        backward: see `Equilibrium`; "jfb" trains several times faster.
        iterations: see `Equilibrium`.
        tolerance: see `Equilibrium`.
        scale: typical size of the object's values; the convolutions see ``x / scale``.
        seed: of the first weights.

    Raises:
        SolverError: the noise is not Gaussian, or a number is wrong.
        PriorError: a size of ``R`` is wrong.
        LinearityError: the operator is nonlinear.
    """
    data_weights(problem, "DE-ADMM")
    solver = ADMM(
        prior=bounded_denoiser(problem, layers, features, scale, seed),
        rho=learned_number("coupling", coupling, largest_curvature(problem)),
        inner=inner,
    )
    return attached_equilibrium(solver, problem, find, backward, iterations, tolerance)


def make_de_hqs(
    problem: Problem,
    *,
    layers: int = 17,
    features: int = 64,
    coupling: float = 0.25,
    inner: int = 10,
    find: str = "anderson",
    backward: str = "implicit",
    iterations: int = 100,
    tolerance: float = 1e-4,
    scale: float = 1.0,
    seed: int = 0,
) -> Equilibrium:
    """DE-HQS: the fixed point of ``x ← argmin D(x) + ½μ‖x − z‖²``, ``z ← (I + R)(x)``.

    MoDL (Aggarwal et al. 2019) at infinite depth. ``R`` is a chain of convolutions of operator norm
    1, which should first be trained as a denoiser (`labrecon.learners`). Unlike with `make_de_admm`
    there are no multipliers, so that the coupling decides between data and denoiser; it converges
    in fewer steps. Needs a linear operator and Gaussian noise.

    Args:
        problem: an example, for spaces and ``L``.
        layers: convolutions of ``R``.
        features: channels between them.
        coupling: ``μ`` at the start, in units of ``L``; it is learned.
        inner: conjugate-gradient steps of ``x`` where there is no closed form.
        find: see `Equilibrium`.
        backward: see `Equilibrium`; "jfb" trains several times faster.
        iterations: see `Equilibrium`.
        tolerance: see `Equilibrium`.
        scale: typical size of the object's values; the convolutions see ``x / scale``.
        seed: of the first weights.

    Raises:
        SolverError: the noise is not Gaussian, or a number is wrong.
        PriorError: a size of ``R`` is wrong.
        LinearityError: the operator is nonlinear.
    """
    data_weights(problem, "DE-HQS")
    solver = HQS(
        prior=bounded_denoiser(problem, layers, features, scale, seed),
        mu=learned_number("coupling", coupling, largest_curvature(problem)),
        inner=inner,
    )
    return attached_equilibrium(solver, problem, find, backward, iterations, tolerance)
