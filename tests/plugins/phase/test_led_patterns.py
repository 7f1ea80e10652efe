"""What an LED array can show: the nearest pattern, levels, limits."""

import cvxpy
import numpy as np
import pytest
import torch
from phase_cases import F64, SINES, microscope, normal

from labrecon.design import InfeasibleError
from labrecon_phase.abbe import AbbeImaging
from labrecon_phase.led_patterns import LEDPatterns

ALLOWED = torch.tensor([[1.0, 1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0, 0]])


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_projection_is_the_nearest_pattern(scale: float) -> None:
    """Against cvxpy's quadratic program."""
    value = scale * normal(2, 7)
    found = LEDPatterns(ALLOWED).project(value)
    for row, allowed, made in zip(value, ALLOWED, found, strict=True):
        w = cvxpy.Variable(7)
        limits = [w >= 0, cvxpy.sum(w) == 1, w[np.flatnonzero(allowed.numpy() == 0)] == 0]
        problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(w - row.numpy())), limits)
        problem.solve(solver=cvxpy.CLARABEL)
        np.testing.assert_allclose(made.numpy(), w.value, atol=1e-5 * max(1, scale))
    assert LEDPatterns(ALLOWED).violations(found) == {}


def test_hardened_patterns_are_on_levels() -> None:
    """Ratios to the brightest LED are whole steps; the light stays 1; nothing forbidden is lit."""
    patterns = LEDPatterns(ALLOWED, levels=17)
    hard = patterns.harden(normal(2, 7).abs())
    ratio = 16 * hard / hard.amax(1, keepdim=True)
    torch.testing.assert_close(ratio, ratio.round(), atol=1e-12, rtol=0)
    assert torch.equal(patterns.codes(hard), ratio.round().long())
    assert (
        patterns.off_grid(hard) < 1e-12 < 0.01 < patterns.off_grid(patterns.project(normal(2, 7)))
    )
    assert patterns.violations(hard) == {}
    torch.testing.assert_close(patterns.harden(hard), hard)
    assert bool((hard[ALLOWED == 0] == 0).all())


def test_levels_are_the_nearest() -> None:
    patterns = LEDPatterns(torch.ones(1, 9), levels=11)
    value = patterns.project(normal(1, 9).abs())
    ratio, hard = (v / v.amax() for v in (value, patterns.harden(value)))
    assert float((ratio - hard).abs().max()) <= 0.05 + 1e-12


def test_violations_are_named() -> None:
    value = torch.tensor([[0.5, -0.1, 0.3, 0.2, 0.0, 0.0, 0.0], [0, 0.5, 0.5, 0, 0, 0, 0]])
    broken = LEDPatterns(ALLOWED).violations(value)
    assert {"negative", "not to be lit", "sum"} <= set(broken)


def test_an_exposure_without_leds_is_refused() -> None:
    with pytest.raises(InfeasibleError, match="in every exposure"):
        LEDPatterns(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(InfeasibleError, match="2 levels"):
        LEDPatterns(torch.ones(1, 2), levels=1)


def test_bands_are_those_of_the_objective() -> None:
    """The first five LEDs of the test's array are within the aperture."""
    geometry = microscope(bands=("bright", "dark"))
    feasible = AbbeImaging(geometry, dtype=F64).designs["patterns"]
    lit = feasible.project(torch.full((2, len(SINES)), 0.1, dtype=F64)) > 0
    assert lit.tolist() == [[True] * 5 + [False] * 2, [False] * 5 + [True] * 2]
