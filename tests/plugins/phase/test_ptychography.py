"""Fourier ptychography by Gauss–Newton: objects, LED positions and pupil found together."""

from typing import Any

import pytest
import torch
from phase_cases import F64, microscope, smooth
from torch import Tensor

from labrecon.noise import Amplitude, Gaussian
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import Alternating, GaussNewton
from labrecon_phase.abbe import AbbeImaging
from labrecon_phase.geometry import PhaseGeometry


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


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
    solver = Alternating(GaussNewton(), nuisances=["led_shift", "zernike"])
    made = solve(solver, problem, iterations=25)
    found = made.history[-1]
    assert found["led_shift x"] == pytest.approx(0.3, abs=0.01)
    assert found["led_shift y"] == pytest.approx(-0.3, abs=0.01)
    assert found["zernike Z4"] == pytest.approx(0.4, abs=0.02)
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
