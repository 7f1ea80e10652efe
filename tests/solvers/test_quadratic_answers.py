"""Least squares against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import lsqr
from torch import Tensor

from labrecon.noise import Gaussian, Poisson
from labrecon.operators import Convolution, FiniteDifference, Identity, Matrix
from labrecon.priors import Tikhonov
from labrecon.problem import Problem
from labrecon.solver import Solver, SolverError, solve
from labrecon.solvers import ADMM, CG, FISTA, HQS, ISTA, PDHG, SIRT, GradientDescent
from labrecon.space import Space

F64 = torch.float64


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_cg_equals_scipy_lsqr(dtype: torch.dtype) -> None:
    a, y = draw(40, 15, dtype=dtype), draw(40, seed=1, dtype=dtype)
    for damp in (0.0, 0.7):
        expected = lsqr(a.numpy(), y.numpy(), damp=damp, atol=1e-14, btol=1e-14)[0]
        x = solve(CG(rho=damp**2), Problem(Matrix(a), y), iterations=40).x
        np.testing.assert_allclose(x.numpy(), expected, rtol=1e-9, atol=1e-11)


def test_cg_ends_after_as_many_steps_as_there_are_unknowns() -> None:
    a, y = draw(12, 6), draw(12, seed=1)
    x = solve(CG(), Problem(Matrix(a), y), iterations=6).x
    torch.testing.assert_close(x, torch.linalg.lstsq(a, y[:, None]).solution[:, 0])


def closed_form(a: Tensor, y: Tensor, w: Tensor, rho: float, k: Tensor | None = None) -> Tensor:
    penalty = torch.eye(a.shape[1], dtype=a.dtype) if k is None else k.mT @ k
    return torch.linalg.solve(a.mT @ (w[:, None] * a) + rho * penalty, a.mT @ (w * y))


TIKHONOV = [
    (lambda prior: CG(rho=0.3), 60),
    (lambda prior: ISTA(prior=prior), 6000),
    (lambda prior: FISTA(prior=prior), 3000),
    (lambda prior: FISTA(prior=prior, restart=True), 2000),
    (lambda prior: ADMM(prior=prior, rho=3.0), 800),
    (lambda prior: PDHG(prior=prior), 6000),
]


@pytest.mark.parametrize(("make", "iterations"), TIKHONOV)
def test_weighted_tikhonov_has_its_closed_form(make, iterations: int) -> None:
    """Weights, a noise level per sample, and a penalty together."""
    a, y = draw(20, 8), draw(20, seed=1)
    w, sigma = draw(20, seed=2).abs() + 0.1, draw(20, seed=3).abs() + 0.5
    problem = Problem(Matrix(a), y, Gaussian(sigma), weights=w)
    x = solve(make(Tikhonov(0.3)), problem, iterations=iterations).x
    torch.testing.assert_close(x, closed_form(a, y, w / sigma**2, 0.3), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [FISTA(prior=None), ADMM(prior=None), PDHG(prior=None)],
    ids=["fista", "admm", "pdhg"],
)
def test_smoothness_penalty_has_its_closed_form(solver: Solver) -> None:
    a, y = draw(20, 8), draw(20, seed=1)
    nabla = FiniteDifference(Space((8,), F64))
    dense = torch.stack([nabla(e)[0] for e in torch.eye(8, dtype=F64)], dim=1)
    solver.prior = Tikhonov(0.8, operator=nabla)
    x = solve(solver, Problem(Matrix(a), y), iterations=1500).x
    ones = torch.ones(20, dtype=F64)
    torch.testing.assert_close(x, closed_form(a, y, ones, 0.8, dense), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.8}], ids=["plain", "heavy ball"])
def test_gradient_descent_reaches_least_squares(options: dict[str, float]) -> None:
    a, y = draw(20, 5), draw(20, seed=1)
    x = solve(GradientDescent(**options), Problem(Matrix(a), y), iterations=1500).x
    torch.testing.assert_close(x, torch.linalg.lstsq(a, y[:, None]).solution[:, 0])


def test_momentum_is_faster_on_an_ill_conditioned_problem() -> None:
    a = torch.diag(torch.logspace(0, -1.5, 10, dtype=F64))
    problem = Problem(Matrix(a), torch.ones(10, dtype=F64))
    losses = [
        float(problem.loss(solve(GradientDescent(momentum=b), problem, iterations=300).x))
        for b in (0.0, 0.9)
    ]
    assert losses[1] < 1e-2 * losses[0]


def test_sirt_reaches_weighted_least_squares() -> None:
    """Its limit minimises ‖Ax − y‖ weighted by the inverse row sums."""
    a = draw(14, 6).abs() + 0.01
    y = draw(14, seed=1)
    x = solve(SIRT(), Problem(Matrix(a), y), iterations=20000, check_every=1000).x
    torch.testing.assert_close(x, closed_form(a, y, 1 / a.sum(1), 0.0), rtol=1e-6, atol=1e-8)


def test_sirt_ignores_empty_rows_and_columns() -> None:
    a = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=F64)
    y = torch.tensor([3.0, 99.0, 1.0], dtype=F64)
    x = solve(SIRT(), Problem(Matrix(a), y), iterations=2000).x
    torch.testing.assert_close(x, torch.tensor([1.0, 1.0, 0.0], dtype=F64))


def test_sirt_nonneg_never_goes_below_zero() -> None:
    a, y = draw(14, 6).abs(), draw(14, seed=1)
    seen: list[float] = []

    def watch(state, _) -> None:
        seen.append(float(state.x.min()))

    problem = Problem(Matrix(a), y)
    solve(SIRT(nonneg=True), problem, iterations=30, check_every=1, callbacks=[watch])
    assert min(seen) >= 0
    assert len(seen) == 30


@pytest.mark.parametrize("solver", [SIRT(), PDHG(preconditioned=True)], ids=["sirt", "pdhg"])
def test_row_and_column_sums_need_entries_that_are_not_negative(solver: Solver) -> None:
    a = draw(6, 4)
    a[:, 0] = -1.0
    with pytest.raises(SolverError, match="negative"):
        solve(solver, Problem(Matrix(a), draw(6, seed=1)))


def test_admm_solves_a_blur_in_closed_form() -> None:
    kernel = torch.tensor([[0.1, 0.2, 0.1], [0.2, 0.8, 0.2], [0.0, 0.1, 0.0]], dtype=F64)
    blur = Convolution(Space((8, 8), F64), kernel)
    y = draw(8, 8, seed=1)
    dense = torch.stack([blur(e.reshape(8, 8)).flatten() for e in torch.eye(64, dtype=F64)], dim=1)
    expected = closed_form(dense, y.flatten(), torch.ones(64, dtype=F64), 0.2)
    x = solve(ADMM(prior=Tikhonov(0.2), rho=0.5), Problem(blur, y), iterations=300).x
    torch.testing.assert_close(x.flatten(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("solver", [CG(), ADMM(), HQS()], ids=lambda s: s.name)
def test_quadratic_solvers_refuse_other_noise(solver: Solver) -> None:
    problem = Problem(Identity(Space((4,), F64)), torch.ones(4, dtype=F64), Poisson())
    with pytest.raises(SolverError, match=r"Gaussian.*Poisson"):
        solve(solver, problem)


class Unmatched(Matrix):
    adjoint_mismatch = 0.02


@pytest.mark.parametrize("solver", [CG(), ADMM(), HQS(), PDHG()], ids=lambda s: s.name)
def test_an_unmatched_adjoint_is_refused(solver: Solver) -> None:
    with pytest.raises(SolverError, match=r"exact adjoint.*2\.0%"):
        solve(solver, Problem(Unmatched(draw(6, 4).abs()), draw(6, seed=1)))


@pytest.mark.parametrize("solver", [SIRT(), FISTA(), GradientDescent()], ids=lambda s: s.name)
def test_an_unmatched_adjoint_is_tolerated(solver: Solver) -> None:
    assert solve(solver, Problem(Unmatched(draw(6, 4).abs()), draw(6, seed=1)), iterations=3)
