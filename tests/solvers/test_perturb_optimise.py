"""Perturb and optimise against the posterior in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon.noise import Gaussian, Poisson
from labrecon.operators import FiniteDifference, Matrix
from labrecon.prior import Prior
from labrecon.priors import L1, Tikhonov
from labrecon.problem import Problem, SolverError
from labrecon.solver import solve
from labrecon.solvers.perturb_optimise import PerturbOptimise
from labrecon.space import Space

CHAINS = 8_000


def badly_conditioned(dtype=torch.float64, scale: float = 1.0, sigma: float = 0.1, n: int = 5):
    """Singular values from 1 to 1e-3, and one column that no data see."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(8, n, dtype=dtype, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(n, n, dtype=dtype, generator=generator)).Q
    values = torch.logspace(0, -3, n, dtype=torch.float64).to(left.real.dtype)
    values[-1] = 0
    matrix = scale * (left * values) @ right.mH
    data = scale * torch.randn(8, dtype=dtype, generator=generator)
    return matrix, data, scale * sigma


@torch.no_grad()
def drawn(problem: Problem, prior: Prior, chains: int = CHAINS, **options) -> Tensor:
    solver = PerturbOptimise(prior=prior, chains=chains, **options)
    return solver.step(problem, solver.init(problem))[0].x


def assert_is_posterior(samples: Tensor, precision: Tensor, mean: Tensor) -> None:
    """Mean and covariance within 4.5 standard errors (Wishart); per part where complex."""
    parts = 2 if samples.is_complex() else 1
    expected = parts * torch.linalg.inv(precision)
    off = samples - samples.mean(0)
    found = off.T @ off.conj() / (len(samples) - 1)
    variance = expected.diagonal().real
    error = 4.5 * ((variance.outer(variance) + expected.abs() ** 2) / len(samples)).sqrt()
    assert ((found - expected).abs() <= error).all()
    assert ((samples.mean(0) - mean).abs() <= 4.5 * (variance / len(samples)).sqrt()).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("weighted", [False, True])
def test_samples_are_of_the_posterior(dtype, weighted):
    """Condition 1e4, where Langevin would take as many iterations to forget its start."""
    matrix, data, sigma = badly_conditioned(dtype)
    weights = torch.tensor([4, 1, 0, 1, 0.25, 1, 1, 2], dtype=torch.float64) if weighted else None
    problem = Problem(Matrix(matrix), data, Gaussian(sigma), weights)
    w = (torch.ones(8, dtype=torch.float64) if weights is None else weights) / sigma**2
    precision = matrix.mH @ (w[:, None] * matrix) + 0.01 * torch.eye(5, dtype=dtype)
    mean = torch.linalg.solve(precision, matrix.mH @ (w * data))
    assert_is_posterior(drawn(problem, Tikhonov(0.01)), precision, mean)
    with pytest.raises(AssertionError):
        assert_is_posterior(drawn(problem, Tikhonov(0.02)), precision, mean)


def test_a_prior_on_differences_with_weights_of_its_own():
    matrix, data, sigma = badly_conditioned()
    operator = FiniteDifference(Space((5,), torch.float64))
    weight = torch.rand(operator.range.shape, dtype=torch.float64) + 0.5
    k = torch.stack([operator(e) for e in torch.eye(5, dtype=torch.float64)]).reshape(5, -1).T
    precision = matrix.T @ matrix / sigma**2 + k.T @ (weight.flatten()[:, None] * k)
    mean = torch.linalg.solve(precision, matrix.T @ data / sigma**2)
    problem = Problem(Matrix(matrix), data, Gaussian(sigma))
    assert_is_posterior(drawn(problem, Tikhonov(weight, operator=operator)), precision, mean)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_small_and_large_units_in_single_precision(scale):
    """Weights of ``1/σ²`` alone would have squares that overflow."""
    matrix, data, sigma = badly_conditioned(torch.float32, scale)
    problem = Problem(Matrix(matrix), data, Gaussian(sigma))
    precision = matrix.double().T @ matrix.double() / sigma**2 + torch.eye(5).double()
    mean = torch.linalg.solve(precision, matrix.double().T @ data.double() / sigma**2)
    assert_is_posterior(drawn(problem, Tikhonov(1.0)).double(), precision, mean)


def test_the_estimate_is_the_mean_and_the_deviation_that_of_the_samples():
    matrix, data, sigma = badly_conditioned()
    stack = torch.stack([data, 3 * data])
    problem = Problem(Matrix(matrix), stack, Gaussian(sigma))
    solver = PerturbOptimise(prior=Tikhonov(1.0), chains=4)
    solution = solve(solver, problem, iterations=150, check_every=150)
    precision = matrix.T @ matrix / sigma**2 + torch.eye(5, dtype=torch.float64)
    mean = torch.linalg.solve(precision, matrix.T @ stack.T / sigma**2).T
    torch.testing.assert_close(solution.x, mean, rtol=1e-4, atol=1e-6)
    variance = torch.linalg.inv(precision).diagonal().expand(2, 5)
    torch.testing.assert_close(solution.state.deviation() ** 2, variance, rtol=0.3, atol=0)
    mixing = solution.state.mixing()
    assert mixing.rhat < 1.01


def test_the_seed_and_the_iteration_decide():
    matrix, data, sigma = badly_conditioned()
    problem = Problem(Matrix(matrix), data, Gaussian(sigma))
    first, again = (drawn(problem, Tikhonov(1.0), 3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, drawn(problem, Tikhonov(1.0), 3, seed=1))
    solver = PerturbOptimise(prior=Tikhonov(1.0), chains=3)
    state = solver.step(problem, solver.init(problem))[0]
    assert not torch.equal(solver.step(problem, state)[0].x, state.x)


def test_what_is_not_gaussian_is_refused():
    matrix, data, _sigma = badly_conditioned()
    for prior in (None, L1(1.0)):
        with pytest.raises(SolverError, match="needs the prior 'tikhonov'"):
            PerturbOptimise(prior=prior)
    problem = Problem(Matrix(matrix.abs()), data.abs(), Poisson())
    with pytest.raises(SolverError, match="needs Gaussian noise"):
        drawn(problem, Tikhonov(1.0), 2)
    with pytest.raises(SolverError, match="tolerance"):
        PerturbOptimise(prior=Tikhonov(1.0), tolerance=1.0)


def test_too_few_conjugate_gradients_are_refused():
    matrix, data, sigma = badly_conditioned()
    problem = Problem(Matrix(matrix), data, Gaussian(sigma))
    with pytest.raises(SolverError, match=r"after 2 conjugate-gradient .* Raise inner"):
        drawn(problem, Tikhonov(0.01), 2, inner=2)
