"""GradientSlew: the nearest trajectory within the limits, in the units of the scanner."""

import math

import cvxpy
import numpy as np
import pytest
import torch

from labrecon.design import InfeasibleError
from labrecon.testing.design_checks import check_set
from labrecon_mri.gradient_slew import GradientSlew
from labrecon_mri.scanners import GAMMA, SYSTEMS, find_system
from labrecon_mri.spline import BSpline
from labrecon_mri.trajectories import epi, radial, radial_3d, spiral

MATRIX, FOV = (128, 128), (0.22, 0.22)


def wandering(shots: int, samples: int, axes: int, step: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(shots, samples, axes, generator=generator, dtype=torch.float64)
    return step * steps.cumsum(1)


@pytest.mark.parametrize("start", [None, "zero"])
@pytest.mark.parametrize("norm", ["euclidean", "per-axis"])
@pytest.mark.parametrize("step", [1.0, 20.0, 200.0])
def test_projection_against_cvxpy(step: float, norm: str, start: str | None) -> None:
    limits = GradientSlew(40, 200, dwell=10e-6, norm=norm, start=start)
    wanted = wandering(2, 30, 2, step)
    found = limits.project(wanted)
    for shot, ours in zip(wanted, found, strict=True):
        k = cvxpy.Variable(shot.shape)
        ahead = cvxpy.vstack([k[:1], k]) if start else k
        first, second = k[1:] - k[:-1], ahead[2:] - 2 * ahead[1:-1] + ahead[:-2]
        g, s = GAMMA * 40e-3 * 10e-6, GAMMA * 200 * (10e-6) ** 2
        if norm == "euclidean":
            rules = [cvxpy.norm(first, 2, axis=1) <= g, cvxpy.norm(second, 2, axis=1) <= s]
        else:
            rules = [cvxpy.abs(first) <= g, cvxpy.abs(second) <= s]
        if start:
            rules.append(k[0] == 0)
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(k - shot.numpy())), rules).solve(
            solver="CLARABEL"
        )
        assert np.linalg.norm(ours.numpy() - k.value) < 3e-4 * np.linalg.norm(k.value)
    assert limits.violations(found) == {}
    assert limits.project(found) is found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("axes", [2, 3])
def test_what_it_returns_is_feasible_without_exception(dtype: torch.dtype, axes: int) -> None:
    for system in SYSTEMS:
        limits = GradientSlew.of(system, dwell=10e-6)
        value = wandering(4, 200, axes, 8.0).to(dtype)
        projected = limits.project(value)
        assert projected.dtype == dtype
        assert limits.violations(projected) == {}
        assert float(limits.gradient(projected).norm(dim=-1).max()) <= limits.max_gradient * 1.001


def test_violations_have_units() -> None:
    """A known curve: a circle of radius r in k-space, with speed ω r and acceleration ω² r."""
    dwell, radius, turns = 2e-6, 250.0, 4000.0
    t = torch.arange(500, dtype=torch.float64) * dwell
    angle = 2 * math.pi * turns * t
    circle = radius * torch.stack([angle.cos(), angle.sin()], -1)[None]
    speed, bend = 2 * math.pi * turns * radius, (2 * math.pi * turns) ** 2 * radius
    gradient, slew = 1e3 * speed / GAMMA, bend / GAMMA
    limits = GradientSlew(gradient - 10, slew - 100, dwell=dwell)
    broken = limits.violations(circle)
    assert broken["gradient"].amount == pytest.approx(10, rel=1e-2)
    assert broken["gradient"].unit == "mT/m"
    assert broken["gradient"].count == 499
    assert broken["slew"].amount == pytest.approx(100, rel=1e-2)
    assert broken["slew"].unit == "T/m/s"
    assert GradientSlew(gradient + 1, slew + 1, dwell=dwell).violations(circle) == {}
    away = GradientSlew(1e4, 1e6, dwell=dwell, start="zero").violations(circle + 5.0)
    assert "start" in away


def test_per_axis_allows_more_than_euclidean() -> None:
    k = torch.arange(10, dtype=torch.float64)[None, :, None] * torch.ones(2)
    k = k * GAMMA * 35e-3 * 10e-6
    assert GradientSlew(40, 200, dwell=10e-6, norm="per-axis").violations(k) == {}
    assert "gradient" in GradientSlew(40, 200, dwell=10e-6).violations(k)


@pytest.mark.parametrize("start", [None, "zero"])
def test_conformance_of_the_set(start: str | None) -> None:
    limits = GradientSlew(40, 200, dwell=10e-6, start=start)
    value = limits.project(wandering(2, 16, 2, 3.0))
    finding = check_set(limits, value, torch.Generator().manual_seed(0), "trajectory")
    assert finding.status == "passed", str(finding)


def test_refusals() -> None:
    with pytest.raises(InfeasibleError, match="must be positive"):
        GradientSlew(0, 200, dwell=1e-5)
    with pytest.raises(InfeasibleError, match="norm is"):
        GradientSlew(40, 200, dwell=1e-5, norm="l1")
    limits = GradientSlew(40, 200, dwell=1e-5)
    with pytest.raises(InfeasibleError, match="at least 3 samples"):
        limits.project(torch.zeros(4, 2, 2))
    with pytest.raises(InfeasibleError, match="not finite"):
        limits.project(torch.full((1, 4, 2), math.nan))
    with pytest.raises(ValueError, match="did you mean 'prisma'"):
        find_system("Prizma")


def test_control_points_within_the_limits_give_curves_within_them() -> None:
    spline = BSpline(24, 400, dwell=4e-6)
    on_points = GradientSlew(40, 200, dwell=spline.spacing)
    on_samples = GradientSlew(40, 200, dwell=4e-6)
    control = on_points.project(wandering(3, 24, 2, 60.0))
    curve = spline(control)
    assert on_samples.violations(curve) == {}
    # The limits are used, so that the claim could fail.
    assert float(on_samples.slew(curve).norm(dim=-1).max()) > 0.9 * 200


def test_spline_reproduces_quadratics() -> None:
    spline = BSpline(9, 57, dwell=1e-5)
    t = torch.arange(57, dtype=torch.float64) / 56
    curve = torch.stack([1 + 2 * t - 3 * t * t, t * t], -1)[None]
    assert torch.allclose(spline(spline.fit(curve)), curve, atol=1e-10)
    assert torch.allclose(spline.matrix.sum(-1), torch.ones(57, dtype=torch.float64))
    with pytest.raises(ValueError, match="3 control points"):
        BSpline(2, 10, dwell=1e-5)


def test_radial() -> None:
    k = radial(21, 256, MATRIX, FOV)
    assert k.shape == (21, 256, 2)
    assert torch.equal(k[:, 128], torch.zeros(21, 2, dtype=torch.float64))
    assert float(k.norm(dim=-1).max()) == pytest.approx(128 / 0.44)
    # Straight: no slew at all; the golden angle is 111.25°.
    limits = GradientSlew.of("prisma", dwell=10e-6)
    assert float(limits.slew(k).abs().max()) < 1e-3
    turn = torch.rad2deg(torch.atan2(k[1, -1, 0], k[1, -1, 1]))
    assert float(turn) == pytest.approx(111.246, abs=1e-2)
    even = radial(8, 64, MATRIX, FOV, golden=False)
    turn = torch.rad2deg(torch.atan2(even[2, -1, 0], even[2, -1, 1]))
    assert float(turn) == pytest.approx(45.0)


def test_radial_in_3d_covers_the_sphere() -> None:
    k = radial_3d(3000, 16, (32, 32, 32), (0.2, 0.2, 0.2))
    tip = k[:, 0] / k[:, 0].norm(dim=-1, keepdim=True)
    second = tip.mT @ tip / len(tip)
    assert torch.allclose(second, torch.eye(3, dtype=torch.float64) / 3, atol=0.01)


def test_spiral_keeps_nyquist_between_turns() -> None:
    shots = 8
    k = spiral(shots, 4000, MATRIX, FOV)
    assert float(k[:, 0].abs().max()) == 0
    assert float(k.norm(dim=-1).max()) == pytest.approx(128 / 0.44)
    # Radii at which interleaves cross the +x axis, all shots together: 1/fov apart.
    angle = torch.atan2(k[..., 0], k[..., 1])
    crossing = (angle[:, :-1] < 0) & (angle[:, 1:] >= 0) & (k[:, 1:, 1] > 0)
    radii = k.norm(dim=-1)[:, 1:][crossing].sort().values
    gaps = radii.diff()
    assert float(gaps.max()) < 1.05 / 0.22


def test_the_edge_of_k_space_is_a_limit_too() -> None:
    limits = GradientSlew(40, 200, dwell=10e-6, edge=(200.0, 100.0))
    found = limits.project(wandering(2, 60, 2, 40.0))
    assert limits.violations(found) == {}
    assert float(found[..., 1].abs().max()) <= 100.0
    out = torch.zeros(1, 5, 2, dtype=torch.float64)
    out[..., 1] = 130.0
    broken = limits.violations(out)
    assert broken["edge"].amount == pytest.approx(30.0)
    with pytest.raises(InfeasibleError, match="2 axes"):
        limits.project(torch.zeros(1, 5, 3))


def test_a_spline_from_rest_starts_at_the_centre() -> None:
    spline = BSpline(20, 300, dwell=4e-6, start="zero")
    on_points = GradientSlew(40, 200, dwell=spline.spacing, start="zero")
    curve = spline(on_points.project(wandering(2, 20, 2, 60.0)))
    assert float(curve[:, 0].abs().max()) < 1e-9
    assert GradientSlew(40, 200, dwell=4e-6, start="zero").violations(curve) == {}


def test_centre_out_spokes_and_epi() -> None:
    k = radial(6, 33, MATRIX, FOV, golden=False, centre_out=True)
    assert float(k[:, 0].abs().max()) == 0
    turn = torch.rad2deg(torch.atan2(k[1, -1, 0], k[1, -1, 1]))
    assert float(turn) == pytest.approx(60.0)
    train = epi(4, 32 * 50 + 1, MATRIX, FOV)
    # In the middle of each sweep it is on a line, and every line is met once.
    middle = train[:, 25::50]
    rows = (middle[..., 0] * FOV[0]).flatten().round().sort().values
    assert torch.equal(rows, torch.arange(128, dtype=torch.float64) - 64)
    assert float(middle[..., 1].abs().max()) < 1e-6
    with pytest.raises(ValueError, match="divides the lines"):
        epi(5, 100, MATRIX, FOV)
