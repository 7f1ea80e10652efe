"""Gauss–Newton on nonlinear problems: scipy's answers, calibration, ptychography."""

from typing import Any

import numpy as np
import pytest
import torch
from phase_cases import F64, microscope, normal, smooth
from scipy.optimize import least_squares
from torch import Tensor

from labrecon.design import Box
from labrecon.noise import Amplitude, Gaussian, Noise, Poisson
from labrecon.operator import Operator
from labrecon.priors import L1, Tikhonov
from labrecon.problem import Problem
from labrecon.solver import SolverError, solve
from labrecon.solvers import GaussNewton
from labrecon.space import Space
from labrecon_phase.abbe import AbbeImaging
from labrecon_phase.geometry import PhaseGeometry

ROWS, COLUMNS = 30, 4


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
    solver = GaussNewton(nuisances=["gain"])
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
        GaussNewton(nuisances=["gain"]),
        Problem(Squares(Box(0.5, 1.2)), data()),
        x0=torch.ones(COLUMNS, dtype=F64),
        iterations=30,
    )
    assert told.history[-1]["gain"] == pytest.approx(1.2)


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
    with pytest.raises(SolverError, match="no nuisance offset; it has gain"):
        solve(GaussNewton(nuisances=["offset"]), Problem(Squares(), data()), iterations=1)


# -- Fourier ptychography ------------------------------------------------------------------------


def ptychography(sample: str = "phase", **more: Any) -> PhaseGeometry:
    """5 × 5 LEDs, one per frame; the outer ones are in the dark field."""
    ticks = torch.linspace(-0.15, 0.15, 5, dtype=F64)
    sines = torch.cartesian_prod(ticks, ticks)
    fields = {
        "shape": (20, 20),
        "na": 0.1,
        "camera_pixel": 8.0,
        "patterns": torch.eye(25),
        "sample": sample,
        "edge": 1.0,
    }
    return microscope(sines, **fields | more)


def phases(geometry: PhaseGeometry) -> Tensor:
    bead = smooth(geometry.object_shape, 0.7, 0.1)
    return bead.roll((5, -6), (0, 1)) + 0.8 * bead.roll((-7, 4), (0, 1))


def nrmse(found: Tensor, truth: Tensor) -> float:
    found, truth = found - found.mean(), truth - truth.mean()
    return float((found - truth).norm() / truth.norm())


@pytest.mark.slow
def test_ptychography_with_calibration() -> None:
    """An array that is 0.3 mm off and a defocused pupil are found beside the object.

    A tilt of the pupil moves the object and is free, so that this is not found to its last digit.
    """
    true = ptychography(led_shift=(0.3, -0.3), aberration=(0.0, 0.0, 0.0, 0.4))
    truth = phases(true)
    y = AbbeImaging(true, dtype=F64)(truth)
    operator = AbbeImaging(ptychography(), dtype=F64)
    problem = Problem(operator, y, Gaussian(1e-3))
    blind = solve(GaussNewton(), problem, iterations=12)
    solver = GaussNewton(nuisances=["led_shift", "zernike"])
    made = solve(solver, problem, iterations=25)
    found = made.history[-1]
    assert found["led_shift.0"] == pytest.approx(0.3, abs=0.01)
    assert found["led_shift.1"] == pytest.approx(-0.3, abs=0.01)
    assert found["zernike.3"] == pytest.approx(0.4, abs=0.02)
    assert found["objective_before"] < 1e-2 * blind.history[-1]["objective_before"]
    assert nrmse(made.x, truth) < 0.2 * nrmse(blind.x, truth)


def test_ptychography_of_a_field_from_amplitudes() -> None:
    """The complex transmission, known up to a phase factor."""
    geometry = ptychography("field", edge=0.0)
    operator = AbbeImaging(geometry, dtype=F64)
    truth = torch.polar(torch.exp(-0.3 * phases(geometry)), phases(geometry))
    y = operator(truth)
    problem = Problem(operator, y, Amplitude(0.01))
    made = solve(GaussNewton(), problem, iterations=25, check_every=1)
    product = (made.x.conj() * truth).sum()
    turned = made.x * product / product.abs()
    assert made.history[-1]["objective_before"] < 1e-2 * made.history[0]["objective_before"]
    assert float((turned - truth).norm() / truth.norm()) < 1e-3
