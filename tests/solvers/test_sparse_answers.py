"""L1 and its relatives against scikit-learn, CVXPY and their optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Lasso
from torch import Tensor

from labrecon.operator import LinearityError, Operator
from labrecon.operators import Matrix
from labrecon.prior import Prior, soft_threshold
from labrecon.priors import L1, NonNegative
from labrecon.problem import Problem
from labrecon.solver import Solver, SolverError, solve
from labrecon.solvers import ADMM, FISTA, HQS, ISTA, PDHG
from labrecon.space import Space

F64 = torch.float64
M, N, WEIGHT = 30, 20, 1.5


def problem(seed: int = 0, rows: int = M, columns: int = N) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, columns, dtype=F64, generator=generator)
    x = torch.zeros(columns, dtype=F64)
    x[: columns // 4] = torch.randn(columns // 4, dtype=F64, generator=generator) * 2
    y = a @ x + 0.1 * torch.randn(rows, dtype=F64, generator=generator)
    return Problem(Matrix(a), y)


def lasso(given: Problem, weight: float) -> Tensor:
    a, y = given.operator.matrix.detach().numpy(), given.data.numpy()
    model = Lasso(alpha=weight / len(y), fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    return torch.as_tensor(model.fit(a, y).coef_)


REACH = [
    ("ista", lambda prior: ISTA(prior=prior), 4000),
    ("ista-backtracking", lambda prior: ISTA(prior=prior, step_size=1.0, backtracking=True), 4000),
    ("fista", lambda prior: FISTA(prior=prior), 3000),
    ("fista-restart", lambda prior: FISTA(prior=prior, restart=True), 600),
    ("fista-backtracking", lambda p: FISTA(prior=p, step_size=1.0, backtracking=True), 3000),
    ("admm", lambda prior: ADMM(prior=prior, rho=20.0, inner=20), 400),
    ("pdhg", lambda prior: PDHG(prior=prior), 6000),
    ("hqs", lambda prior: HQS(prior=prior, mu=1.0, growth=1.02, inner=20), 400),
]


@pytest.mark.parametrize(("name", "make", "iterations"), REACH, ids=[r[0] for r in REACH])
def test_objective_of_scikit_learns_lasso(name: str, make, iterations: int) -> None:
    given = problem()
    solver: Solver = make(L1(WEIGHT))
    expected = lasso(given, WEIGHT)
    x = solve(solver, given, iterations=iterations).x
    best = float(FISTA(prior=L1(WEIGHT)).objective(given, expected))
    found = float(FISTA(prior=L1(WEIGHT)).objective(given, x))
    # HQS closes its gap as 1/mu, and slows down as mu grows.
    assert found - best <= (1e-4 if name == "hqs" else 1e-6) * best
    if name != "hqs":
        # The search compares losses; they agree to rounding where the iterates do to its root.
        close = 1e-5 if "backtracking" in name else 1e-8
        torch.testing.assert_close(x, expected, rtol=1e-7, atol=close)


def test_all_reach_one_minimiser_and_its_optimality_conditions() -> None:
    given = problem()
    minimisers = [
        solve(make(L1(WEIGHT)), given, iterations=20000, tolerance=1e-16).x
        for name, make, _ in REACH
        if name in ("ista", "fista-restart", "admm", "pdhg")
    ]
    for x in minimisers[1:]:
        torch.testing.assert_close(x, minimisers[0], rtol=0, atol=1e-12)
    x = minimisers[0]
    slope = given.gradient(x)
    on = x != 0
    assert 0 < int(on.sum()) < N
    torch.testing.assert_close(slope[on], -WEIGHT * x[on].sign(), rtol=0, atol=1e-10)
    assert bool((slope[~on].abs() <= WEIGHT + 1e-10).all())


@pytest.mark.parametrize("seed", range(20))
def test_published_rates_hold(seed: int) -> None:
    """ISTA is monotone; F_k − F* ≤ L‖x*‖²/2k and, for FISTA, 2L‖x*‖²/(k+1)²."""
    given = problem(seed, rows=15)
    best = lasso(given, WEIGHT)
    prior = L1(WEIGHT)
    lowest = float(ISTA(prior=prior).objective(given, best))
    bound = given.lipschitz() * float(best.square().sum())
    for solver, rate in (
        (ISTA(prior=prior), lambda k: 0.5 / k),
        (FISTA(prior=prior), lambda k: 2 / (k + 1) ** 2),
    ):
        history = solve(solver, given, iterations=300, check_every=1, objective=True).history
        values = np.array([record["objective"] for record in history])
        k = np.arange(1, 301)
        assert bool((values - lowest <= bound * rate(k) + 1e-10).all())
        if not solver.momentum:
            assert bool((np.diff(values) <= 1e-10).all())


def test_an_orthonormal_operator_needs_one_step() -> None:
    q = torch.linalg.qr(problem().operator.matrix.detach()[:N])[0]
    y = problem().data[:N]
    given = Problem(Matrix(q), y)
    x = solve(ISTA(prior=L1(0.4), step_size=1.0), given, iterations=1).x
    torch.testing.assert_close(x, soft_threshold(q.mT @ y, 0.4))


def test_weights_per_coefficient_and_nonnegativity_against_cvxpy() -> None:
    import cvxpy

    given = problem()
    weight = torch.linspace(0.0, 3.0, N, dtype=F64)
    a, y = given.operator.matrix.detach().numpy(), given.data.numpy()
    x = cvxpy.Variable(N)
    cost = 0.5 * cvxpy.sum_squares(a @ x - y) + weight.numpy() @ cvxpy.abs(x)
    for nonneg in (False, True):
        exact = cvxpy.Problem(cvxpy.Minimize(cost), [x >= 0] if nonneg else [])
        exact.solve(cvxpy.CLARABEL)
        solver = FISTA(prior=L1(weight, nonneg=nonneg), restart=True)
        found = solve(solver, given, iterations=3000).x
        assert float(solver.objective(given, found)) == pytest.approx(exact.value, rel=1e-6)


@pytest.mark.parametrize(("name", "make", "iterations"), REACH[:7], ids=[r[0] for r in REACH[:7]])
def test_nonnegative_least_squares(name: str, make, iterations: int) -> None:
    from scipy.optimize import nnls

    given = problem()
    expected = nnls(given.operator.matrix.detach().numpy(), given.data.numpy())[0]
    x = solve(make(NonNegative()), given, iterations=iterations).x
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)
    assert bool((x >= 0).all())


def test_hqs_with_fixed_mu_minimises_the_moreau_envelope() -> None:
    """The envelope of an L1 penalty is Huber's."""
    given, mu = problem(), 3.0
    a, y = given.operator.matrix.detach().numpy(), given.data.numpy()

    def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
        r = a @ x - y
        inside = mu * np.abs(x) <= WEIGHT
        huber = np.where(inside, 0.5 * mu * x**2, WEIGHT * np.abs(x) - 0.5 * WEIGHT**2 / mu)
        slope = np.where(inside, mu * x, WEIGHT * np.sign(x))
        return 0.5 * r @ r + huber.sum(), a.T @ r + slope

    options = {"ftol": 1e-15, "gtol": 1e-11, "maxiter": 5000}
    best = minimize(cost, np.zeros(N), jac=True, method="L-BFGS-B", options=options)
    state = solve(HQS(prior=L1(WEIGHT), mu=mu, inner=20), given, iterations=200).state
    found = cost(state.x.numpy())[0]
    assert abs(found - best.fun) <= 1e-8 * best.fun
    np.testing.assert_allclose(state.x.numpy(), best.x, atol=1e-4)


class Shrink(Prior):
    """Known by its prox only, as a denoiser is."""

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        return soft_threshold(x, step * WEIGHT)


@pytest.mark.parametrize("make", [r[1] for r in REACH], ids=[r[0] for r in REACH])
def test_a_prior_known_by_its_prox_gives_the_same_bits(make) -> None:
    given = problem()
    known = solve(make(L1(WEIGHT)), given, iterations=30, objective=True)
    implicit = solve(make(Shrink()), given, iterations=30, objective=True)
    assert torch.equal(known.x, implicit.x)
    assert "objective" in known.history[-1]
    assert "objective" not in implicit.history[-1]
    assert implicit.history[-1]["data_term"] == pytest.approx(float(given.loss(implicit.x)))


def test_a_prior_per_layer_is_used_in_turn() -> None:
    given = problem()
    layers = torch.nn.ModuleList([L1(0.5), L1(2.0)])
    solver = ISTA(prior=layers, step_size=0.01)
    x = torch.zeros(N, dtype=F64)
    for weight in (0.5, 2.0, 2.0):
        x = soft_threshold(x - 0.01 * given.gradient(x), 0.01 * weight)
    solution = solve(solver, given, iterations=3, objective=True)
    torch.testing.assert_close(solution.x, x, rtol=0, atol=1e-14)
    assert "objective" not in solution.history[-1]


class Square(Operator):
    """``y = x²``, nonlinear."""

    linear = False

    def __init__(self, n: int) -> None:
        super().__init__(Space((n,), F64), Space((n,), F64))

    def forward(self, x: Tensor) -> Tensor:
        return x * x


def test_backtracking_on_a_nonlinear_operator() -> None:
    truth = torch.tensor([1.0, 0.5, 2.0], dtype=F64)
    given = Problem(Square(3), truth**2)
    x0 = torch.ones(3, dtype=F64)
    with pytest.raises(LinearityError, match="step_size or backtracking"):
        solve(FISTA(), given, x0=x0)
    solver = FISTA(step_size=10.0, backtracking=True)
    torch.testing.assert_close(solve(solver, given, x0=x0, iterations=800).x, truth)


def test_backtracking_without_a_step_size_finds_one() -> None:
    truth = torch.tensor([1.0, 0.5, 2.0], dtype=F64)
    given, x0 = Problem(Square(3), truth**2), torch.ones(3, dtype=F64)
    solution = solve(FISTA(backtracking=True), given, x0=x0, iterations=800)
    torch.testing.assert_close(solution.x, truth)


def test_backtracking_that_can_not_succeed_says_so() -> None:
    from labrecon.noise import Poisson

    dark = Problem(Matrix(torch.eye(3, dtype=F64)), torch.ones(3, dtype=F64), Poisson())
    with pytest.raises(SolverError, match="finite at the first estimate"):
        solve(ISTA(step_size=1.0, backtracking=True), dark)
