"""Gauss–Newton on nonlinear problems: scipy's answers, calibration."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor

from labrecon.design import Box
from labrecon.noise import Amplitude, Noise, Poisson
from labrecon.operator import Operator
from labrecon.priors import L1, Tikhonov
from labrecon.problem import Problem
from labrecon.solver import SolverError, solve
from labrecon.solvers import Alternating, GaussNewton
from labrecon.space import Space

ROWS, COLUMNS = 30, 4
F64 = torch.float64


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


class Squares(Operator):
    """``y = g · (B x)²``; the gain ``g`` of the second half of the data is a nuisance."""

    linear = False

    def __init__(self, limits: Box | None = None) -> None:
        super().__init__(Space((COLUMNS,), F64), Space((ROWS,), F64))
        self.register_buffer("matrix", normal(ROWS, COLUMNS).abs() + 0.1)
        self.nuisance("gain", torch.tensor(1.0, dtype=F64), limits)

    def forward(self, x: Tensor) -> Tensor:
        gain = torch.ones(ROWS, dtype=F64)
        gain = torch.cat([gain[: ROWS // 2], self.gain * gain[ROWS // 2 :]])
        return gain * (x @ self.matrix.mT).square()


def data(*batch: int) -> Tensor:
    operator = Squares()
    x = normal(*batch, COLUMNS, seed=3).abs() + 0.5
    clean = operator(x, gain=torch.tensor(1.6, dtype=F64))
    return clean + 0.05 * clean.mean() * normal(*clean.shape, seed=4)


def scipys(y: np.ndarray, weight: float, calibrated: bool) -> tuple[np.ndarray, float]:
    """The minimum of ``½‖A(x; g) − y‖² + ½ weight ‖x‖²``."""
    operator = Squares()
    matrix = operator.matrix.numpy()

    def residual(p: np.ndarray) -> np.ndarray:
        gain = np.ones(ROWS)
        if calibrated:
            gain[ROWS // 2 :] = p[-1]
        return np.concatenate([gain * (matrix @ p[:COLUMNS]) ** 2 - y, weight**0.5 * p[:COLUMNS]])

    found = least_squares(residual, np.ones(COLUMNS + calibrated), xtol=1e-15, ftol=1e-15)
    return found.x[:COLUMNS], float(found.x[-1])


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_answer_is_that_of_scipy(weight: float) -> None:
    y = data(3)
    prior = Tikhonov(weight) if weight else None
    solver = GaussNewton(prior=prior)
    found = solve(solver, Problem(Squares(), y), x0=torch.ones(3, COLUMNS, dtype=F64),
                  iterations=30).x  # fmt: skip
    for made, one in zip(found, y, strict=True):
        np.testing.assert_allclose(made.numpy(), scipys(one.numpy(), weight, False)[0], atol=1e-5)


def test_calibration_is_that_of_scipy() -> None:
    """Alternate steps reach the joint minimum."""
    y = data()
    operator = Squares()
    solver = Alternating(GaussNewton(), nuisances=["gain"])
    start = torch.ones(COLUMNS, dtype=F64)
    state = solver.init(Problem(operator, y), start)
    for _ in range(80):
        state, told = solver.step(Problem(operator, y), state)
    x, gain = scipys(y.numpy(), 0.0, True)
    np.testing.assert_allclose(state.x.numpy(), x, rtol=2e-4)
    assert told["gain"] == pytest.approx(gain, rel=2e-4)
    assert gain == pytest.approx(1.6, rel=0.1)
    assert float(operator.gain) == 1  # the given operator stays as it is


def test_calibration_stays_within_its_limits() -> None:
    told = solve(
        Alternating(GaussNewton(), nuisances=["gain"]),
        Problem(Squares(Box(0.5, 1.2)), data()),
        x0=torch.ones(COLUMNS, dtype=F64),
        iterations=30,
    )
    assert told.history[-1]["gain"] == pytest.approx(1.2)


def test_the_estimate_belongs_to_the_calibrated_operator() -> None:
    """What a report compares with the data is predicted with the nuisances that were found."""
    problem = Problem(Squares(), data())
    solver = Alternating(GaussNewton(), nuisances=["gain"])
    found = solve(solver, problem, x0=torch.ones(COLUMNS, dtype=F64), iterations=40)
    calibrated = solver.calibrated(problem, found.state)
    left = float((calibrated(found.x) - problem.data).norm())
    assert left < 0.5 * float((problem.operator(found.x) - problem.data).norm())
    assert float(calibrated.gain) == pytest.approx(found.history[-1]["gain"])


def test_what_changes_nothing_is_left_as_it_is() -> None:
    class Deaf(Squares):
        def __init__(self) -> None:
            super().__init__()
            self.nuisance("piston", torch.tensor(0.2, dtype=F64))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1e-18 * self.piston

    solver = Alternating(GaussNewton(), nuisances=["gain", "piston"])
    problem = Problem(Deaf(), data())
    told = solve(solver, problem, x0=torch.ones(COLUMNS, dtype=F64), iterations=20).history[-1]
    assert told["piston"] == 0.2
    assert told["gain"] == pytest.approx(1.6, rel=0.1)


@pytest.mark.parametrize("noise", [Poisson(0.1), Amplitude(0.5)], ids=["poisson", "amplitude"])
def test_other_noise_has_its_own_minimum(noise: Noise) -> None:
    """The Fisher information in the place of the Hessian: the point is where the gradient is 0."""
    y = data().clamp_min(0)
    problem = Problem(Squares(), y, noise)
    found = solve(GaussNewton(), problem, x0=torch.ones(COLUMNS, dtype=F64), iterations=40).x
    with torch.enable_grad():
        x = found.clone().requires_grad_()
        (g,) = torch.autograd.grad(problem.loss(x), x)
    scale = torch.autograd.functional.hessian(problem.loss, found).diagonal().sqrt()
    assert float((g / scale).abs().max()) < 1e-4


def test_elements_of_a_batch_do_not_know_of_each_other() -> None:
    y = data(3)
    start = torch.ones(3, COLUMNS, dtype=F64)
    together = solve(GaussNewton(), Problem(Squares(), y), x0=start, iterations=5).x
    alone = [
        solve(GaussNewton(), Problem(Squares(), one[None]), x0=start[:1], iterations=5).x[0]
        for one in y
    ]
    torch.testing.assert_close(together, torch.stack(alone))


def test_what_it_can_not_do_it_says() -> None:
    with pytest.raises(SolverError, match="quadratic prior"):
        GaussNewton(prior=L1(0.1))
    solver = Alternating(GaussNewton(), nuisances=["offset"])
    with pytest.raises(SolverError, match="no nuisance 'offset'; it has gain"):
        solve(solver, Problem(Squares(), data()), iterations=1)


class ArcTangent(Operator):
    """``y = atan x``, from which Newton's steps run away beyond |x| = 1.39."""

    linear = False

    def __init__(self) -> None:
        super().__init__(Space((2,), F64), Space((2,), F64))

    def forward(self, x: Tensor) -> Tensor:
        return x.atan()


def test_steps_that_make_things_worse_are_not_taken() -> None:
    start = torch.tensor([3.0, -4.0], dtype=F64)
    problem = Problem(ArcTangent(), torch.zeros(2, dtype=F64))
    found = solve(GaussNewton(), problem, x0=start, iterations=30, check_every=1)
    torch.testing.assert_close(found.x, torch.zeros(2, dtype=F64), atol=1e-8, rtol=0)
    losses = [record["objective_before"] for record in found.history]
    assert all(after <= before for before, after in itertools.pairwise(losses))
