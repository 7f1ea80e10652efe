"""Positions of an LED array and the pupil, estimated jointly with the object."""

from typing import Any

import pytest
import torch
from error_bars import scores
from phase_cases import F64, microscope, smooth

from labrecon.calibration import Calibration, calibrate
from labrecon.noise import Gaussian
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import Alternating, GaussNewton
from labrecon_phase.abbe import AbbeImaging
from labrecon_phase.geometry import PhaseGeometry

SHIFT = (1.0, -0.6)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def ptychography(size: int, leds: int = 5, **more: Any) -> PhaseGeometry:
    """One LED per frame; the outer ones are in the dark field."""
    ticks = torch.linspace(-0.15, 0.15, leds, dtype=F64)
    fields = {"shape": (size, size), "na": 0.1, "camera_pixel": 8.0, "patterns": torch.eye(leds**2),
              "sample": "phase", "edge": 1.0, "upsample": 2}  # fmt: skip
    return microscope(torch.cartesian_prod(ticks, ticks), **fields | more)


def phases(geometry: PhaseGeometry) -> torch.Tensor:
    """Two beads, at the same places on any grid."""
    rows, columns = geometry.object_shape
    bead = smooth((rows, columns), 0.7, 0.1)
    moved = bead.roll((rows // 8, -columns // 7), (0, 1))
    return moved + 0.8 * bead.roll((-rows // 6, columns // 10), (0, 1))


def photographed(geometry: PhaseGeometry, sigma: float, seed: int) -> torch.Tensor:
    clean = AbbeImaging(geometry, dtype=F64)(phases(geometry))
    return Gaussian(sigma).sample(clean, torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["projection", "alternating"])
def test_an_array_one_millimetre_off_is_found(method: str) -> None:
    """Simulated with object pixels two thirds as large as those that are reconstructed."""
    sigma = 0.01
    data = photographed(ptychography(14, led_shift=SHIFT, upsample=3), sigma, 0)
    operator = AbbeImaging(ptychography(14), dtype=F64)
    problem = Problem(operator, data, Gaussian(sigma))
    if method == "projection":
        found = calibrate(problem, ["led_shift"], inner=40)[1]
    else:
        solver = Alternating(GaussNewton(), nuisances=["led_shift"])
        made = solve(solver, problem, iterations=20, check_every=1)
        found = solver.concluded(problem, made.state, made.history, inner=40)
    for estimate, truth in zip(found.estimates, SHIFT, strict=True):
        assert estimate.value == pytest.approx(truth, rel=0.05)
        assert estimate.unit == "mm"
        assert estimate.error is not None
    assert found.chi2 < 1.2 < 10 < found.chi2_before


@pytest.mark.slow
def test_the_prior_does_not_pull_the_array() -> None:
    """Of data without noise the truth is found: to less than a tenth of what noise would make."""
    operator = AbbeImaging(ptychography(8, 4), dtype=F64)
    true = AbbeImaging(ptychography(8, 4, led_shift=SHIFT), dtype=F64)
    clean = true(phases(ptychography(8, 4)))
    found = calibrate(Problem(operator, clean, Gaussian(0.01)), ["led_shift"], inner=40)[1]
    for estimate, truth in zip(found.estimates, SHIFT, strict=True):
        assert estimate.error is not None
        assert abs(estimate.value - truth) < 0.1 * estimate.error


@pytest.mark.nightly
def test_error_bars_of_the_array_are_the_spread_of_its_estimates() -> None:
    """A millimetre off. Their mean is off by 1.0 and 1.2 errors: see the docs."""
    operator = AbbeImaging(ptychography(8, 4), dtype=F64)
    true = AbbeImaging(ptychography(8, 4, led_shift=SHIFT), dtype=F64)
    clean = true(phases(ptychography(8, 4)))

    def draw(seed: int) -> Calibration:
        data = Gaussian(0.01).sample(clean, torch.Generator().manual_seed(seed))
        return calibrate(Problem(operator, data, Gaussian(0.01)), ["led_shift"], inner=40)[1]

    found = torch.tensor(scores(draw, SHIFT, 34))
    # But for one draw in a thousand.
    assert bool(((found.std(0) > 0.64) & (found.std(0) < 1.43)).all())
    assert bool((found.mean(0).abs() < 2).all())


@pytest.mark.slow
def test_piston_is_not_told_as_if_it_were_known() -> None:
    operator = AbbeImaging(ptychography(8, 4), dtype=F64)
    data = photographed(ptychography(8, 4), 0.01, 0)
    problem = Problem(operator, data, Gaussian(0.01))
    found = calibrate(problem, ["zernike"], iterations=1, inner=20)[1]
    piston = found.estimates[0]
    assert piston.label == "zernike Z1"
    assert piston.error is None
    assert piston.reason == "changes nothing in the data"
    assert any(e.error is not None for e in found.estimates)
