"""Photon counts: MLEM and PDHG against an independent optimiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from labrecon.noise import Gaussian, Poisson, PoissonGaussian
from labrecon.operators import Matrix
from labrecon.priors import NonNegative
from labrecon.problem import Problem
from labrecon.solver import SolverError, solve
from labrecon.solvers import FISTA, MLEM, PDHG

F64 = torch.float64
BACKGROUND = 2.0


def problem(noise=None, weights=None) -> Problem:
    generator = torch.Generator().manual_seed(4)
    a = torch.rand(25, 8, dtype=F64, generator=generator)
    x = torch.rand(8, dtype=F64, generator=generator) * 20
    y = torch.poisson(a @ x + BACKGROUND, generator=generator)
    return Problem(Matrix(a), y, noise or Poisson(BACKGROUND), weights=weights)


def optimum(given: Problem) -> float:
    a, y = given.operator.matrix.detach().numpy(), given.data.numpy()
    w = np.ones_like(y) if given.weights is None else given.weights.numpy()

    def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
        m = a @ x + BACKGROUND
        return w @ (m - y * np.log(m)), a.T @ (w * (1 - y / m))

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000, "maxfun": 50000}
    best = minimize(
        cost, np.ones(8), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 8, options=options
    )
    x = torch.as_tensor(best.x)
    return float(given.loss(x))


WEIGHTS = torch.linspace(0, 2, 25, dtype=F64)
SOLVERS = [
    ("mlem", MLEM(), 30000),
    ("pdhg", PDHG(prior=NonNegative(), ratio=10.0), 6000),
    ("pdhg-preconditioned", PDHG(prior=NonNegative(), ratio=10.0, preconditioned=True), 6000),
    ("fista", FISTA(prior=NonNegative(), restart=True), 4000),
    (
        "fista-backtracking",
        FISTA(prior=NonNegative(), step_size=10.0, backtracking=True, restart=True),
        4000,
    ),
]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weighted"])
@pytest.mark.parametrize(("name", "solver", "iterations"), SOLVERS, ids=[s[0] for s in SOLVERS])
def test_likelihood_of_scipys_optimum(name: str, solver, iterations: int, weights) -> None:
    given = problem(weights=weights)
    x = solve(solver, given, iterations=iterations, check_every=500, tolerance=1e-13).x
    assert bool((x >= 0).all())
    assert float(given.loss(x)) == pytest.approx(optimum(given), rel=1e-6)


@pytest.mark.parametrize("noise", [Poisson(BACKGROUND), PoissonGaussian(1.5, BACKGROUND)])
def test_mlem_raises_the_likelihood_in_each_step(noise) -> None:
    history = solve(MLEM(), problem(noise), iterations=200, check_every=1, objective=True).history
    losses = np.array([record["objective"] for record in history])
    assert bool((np.diff(losses) <= 1e-10).all())
    assert losses[-1] < losses[0]


def test_mlem_predicts_the_measured_total_without_background() -> None:
    generator = torch.Generator().manual_seed(4)
    a = torch.rand(25, 8, dtype=F64, generator=generator)
    y = torch.poisson(a @ torch.full((8,), 5.0, dtype=F64), generator=generator)
    x = solve(MLEM(), Problem(Matrix(a), y, Poisson()), iterations=1).x
    torch.testing.assert_close((a @ x).sum(), y.sum())


def test_mlem_refuses_gaussian_noise_and_a_negative_start() -> None:
    given = problem()
    with pytest.raises(SolverError, match="Gaussian"):
        solve(MLEM(), Problem(given.operator, given.data, Gaussian()))
    with pytest.raises(SolverError, match="x0"):
        solve(MLEM(), given, x0=-torch.ones(8, dtype=F64))


def test_a_masked_sample_has_no_say() -> None:
    weights = torch.ones(25, dtype=F64)
    weights[3] = 0
    given = problem(weights=weights)
    spoilt = given.data.clone()
    spoilt[3] = 1e6
    for solver in (MLEM(), PDHG(prior=NonNegative()), FISTA(prior=NonNegative(), step_size=0.1)):
        a = solve(solver, given, iterations=20).x
        b = solve(solver, Problem(given.operator, spoilt, given.noise, weights), iterations=20).x
        torch.testing.assert_close(a, b)
