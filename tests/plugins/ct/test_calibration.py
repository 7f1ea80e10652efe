"""The rotation axis and the tilt of a CT detector, estimated jointly with the object."""

import math
from typing import Any

import pytest
import torch
from error_bars import assert_covered, scores

from labrecon.calibration import Calibration, calibrate
from labrecon.noise import Gaussian
from labrecon.priors import TV
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import FISTA, Alternating
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.motion import project
from labrecon_ct.phantoms import random_objects
from labrecon_ct.projector import CTProjector

F64 = torch.float64


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def views(count: int, turn: float = math.pi) -> tuple[float, ...]:
    return tuple(turn * i / count for i in range(count))


def scan(n: int, count: int, finer: int, centre: float) -> tuple[torch.Tensor, CTGeometry]:
    """Data of a body with voxels of a fraction of a column, and a geometry centred at 0."""
    base = {"angles": views(count), "columns": n, "voxel_size": 0.8}
    fine = CTGeometry(
        **{**base, "voxel_size": 0.8 / finer}, centre_offset=centre, volume_shape=(finer * n,) * 2
    )
    body = random_objects(fine, 1, torch.Generator().manual_seed(3))[0]
    return CTProjector(fine, backend="matrix", kernel="strip")(body), CTGeometry(**base)


def noisy(clean: torch.Tensor, sigma: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return clean + sigma * torch.randn(clean.shape, dtype=clean.dtype, generator=generator)


@pytest.mark.slow
def test_a_centre_two_columns_off_is_found() -> None:
    """Simulated on a grid twice as fine as the one that reconstructs."""
    clean, geometry = scan(64, 60, 2, 2.0)
    sigma = 0.01 * float(clean.max())
    operator = CTProjector(geometry, backend="matrix", kernel="strip")
    problem = Problem(operator, noisy(clean, sigma, 0), Gaussian(sigma))
    made, found = calibrate(problem, ["centre"], inner=60)
    (centre,) = found.estimates
    assert centre.value == pytest.approx(2.0, rel=0.05)
    assert centre.unit == "columns"
    assert centre.error is not None
    assert abs(centre.value - 2.0) < 4 * centre.error
    assert found.status == "converged"
    assert found.chi2 < 1.5 < found.chi2_before
    assert float(made.centre) == pytest.approx(centre.value)
    assert float(operator.centre) == 0.0  # the given operator stays as it is


@pytest.mark.slow
def test_total_variation_finds_it_too() -> None:
    clean, geometry = scan(32, 24, 2, 2.0)
    sigma = 0.01 * float(clean.max())
    operator = CTProjector(geometry, backend="matrix", kernel="strip")
    problem = Problem(operator, noisy(clean, sigma, 0), Gaussian(sigma))
    solver = Alternating(FISTA(prior=TV(30.0, ndim=2)), nuisances=["centre"], after=5)
    made = solve(solver, problem, iterations=200)
    found = solver.concluded(problem, made.state, made.history, inner=60)
    (centre,) = found.estimates
    assert centre.value == pytest.approx(2.0, rel=0.05)
    assert centre.error == pytest.approx(
        calibrate(problem, ["centre"], inner=60)[1].estimates[0].error, rel=0.25
    )


@pytest.mark.slow
def test_error_bars_of_the_centre_cover_it() -> None:
    """Of the operator's own model: what a coarser one adds is no noise."""
    clean, geometry = scan(24, 36, 1, 0.4)
    sigma = 0.02 * float(clean.max())
    operator = CTProjector(geometry, backend="matrix", kernel="strip")

    def draw(seed: int) -> Calibration:
        problem = Problem(operator, noisy(clean, sigma, seed), Gaussian(sigma))
        return calibrate(problem, ["centre"], inner=60)[1]

    assert_covered(scores(draw, [0.4], 40))


def test_one_view_does_not_tell_the_centre() -> None:
    """A shift of the axis is a shift of the object there."""
    geometry = CTGeometry(angles=(0.3,), columns=24)
    body = random_objects(geometry, 1, torch.Generator().manual_seed(3))[0]
    operator = CTProjector(geometry, backend="rays", dtype=F64)
    clean = operator(body.double())
    sigma = 0.01 * float(clean.max())
    problem = Problem(operator, noisy(clean, sigma, 0), Gaussian(sigma))
    (centre,) = calibrate(problem, ["centre"], iterations=3, inner=40)[1].estimates
    assert centre.error is None
    assert "not determined" in str(centre)
    assert str(centre.value) not in str(centre)


def volume(**more: Any) -> tuple[CTProjector, torch.Tensor]:
    """Nine slices of 14², as rays see them, and a smooth body."""
    geometry = CTGeometry(**{"angles": views(6), "columns": 16, "rows": 9,
                             "volume_shape": (9, 14, 14)} | more)  # fmt: skip
    z, y, x = torch.meshgrid(
        *(torch.arange(k, dtype=F64) - (k - 1) / 2 for k in geometry.volume_shape), indexing="ij"
    )
    body = torch.exp(-((x - 2) ** 2 + (y + 1) ** 2) / 12 - (z - 0.4) ** 2 / 8)
    return CTProjector(geometry, backend="rays", dtype=F64), body


CONE = {"beam": "cone", "source_origin": 60.0, "origin_detector": 30.0, "column_pitch": 1.5}
# As of a slab: the detector turns about a row that is not among these.
SLAB = {**CONE, "row_offset": 5.5, "slice_offset": -5.0}


@pytest.mark.parametrize("more", [{}, CONE, SLAB], ids=["parallel", "cone", "slab"])
class TestTilt:
    def test_is_the_tilt_of_the_geometry(self, more: Any) -> None:
        operator, body = volume(**more)
        tilted, _ = volume(**more, detector_tilt=math.radians(3.0))
        moved = operator(body, tilt=torch.tensor(3.0, dtype=F64))
        torch.testing.assert_close(moved, tilted(body))
        assert float((moved - operator(body)).norm() / moved.norm()) > 0.02
        assert float(tilted.tilt) == pytest.approx(3.0)
        assert tilted.nuisances["tilt"].unit == "deg"

    def test_adjoint_is_exact(self, more: Any) -> None:
        operator, body = volume(**more)
        there = operator.at(tilt=torch.tensor(-2.0, dtype=F64))
        y = torch.randn(operator.range.shape, dtype=F64,
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
        left, right = (there(body) * y).sum(), (body * there.adjoint(y)).sum()
        assert float(left) == pytest.approx(float(right), rel=1e-12)

    def test_gradient_by_rays_is_that_of_differences(self, more: Any) -> None:
        operator, body = volume(**more)
        h = torch.tensor(1e-4, dtype=F64)
        tilt = torch.tensor(1.0, dtype=F64)
        differences = (operator(body, tilt=tilt + h) - operator(body, tilt=tilt - h)) / (2 * h)
        v = torch.randn(operator.range.shape, dtype=F64,
                        generator=torch.Generator().manual_seed(1))  # fmt: skip
        with torch.enable_grad():
            learned = tilt.clone().requires_grad_()
            value = (operator(body, tilt=learned) * v).sum()
            (g,) = torch.autograd.grad(value, learned)
        assert float(g) == pytest.approx(float((differences * v).sum()), rel=1e-4)

    def test_gradient_of_other_backends_turns_the_detector(self, more: Any) -> None:
        """``u ∂_v p − v ∂_u p``, for smooth bodies."""
        operator, body = volume(**more)
        h = torch.tensor(0.5, dtype=F64)
        differences = (operator(body, tilt=h) - operator(body, tilt=-h)) / (2 * h)
        with torch.enable_grad():
            tilt = torch.zeros((), dtype=F64, requires_grad=True)
            motion = operator._motion(operator.geometry)._replace(tilt=tilt)
            v = torch.zeros(operator.range.shape, dtype=F64, requires_grad=True)
            lines = project(body[None], motion, _full(operator))[0]
            (g,) = torch.autograd.grad(lines, tilt, v, create_graph=True)
            (column,) = torch.autograd.grad(g, v)
        inner = (slice(2, -2), slice(None), slice(2, -2))
        error = (column - differences)[inner].norm() / differences[inner].norm()
        assert float(error) < 0.2


def _full(operator: CTProjector) -> Any:
    from labrecon_ct.backends.rays import RayBackend
    from labrecon_ct.poses import poses

    geometry = operator.geometry
    return RayBackend(geometry, poses(geometry, operator.angles, operator.centre))


@pytest.mark.slow
def test_a_tilt_is_found() -> None:
    operator, body = volume(angles=views(16))
    clean = operator(body, tilt=torch.tensor(2.0, dtype=F64))
    sigma = 0.01 * float(clean.max())
    problem = Problem(operator, noisy(clean, sigma, 0), Gaussian(sigma))
    found = calibrate(problem, ["tilt", "centre"], inner=60)[1]
    tilt, centre = found.estimates
    assert tilt.error is not None
    assert tilt.value == pytest.approx(2.0, rel=0.05)
    assert centre.value == pytest.approx(0.0, abs=0.05)


def test_a_flat_scan_has_no_tilt() -> None:
    operator = CTProjector(CTGeometry(angles=views(4), columns=8))
    problem = Problem(operator, torch.zeros(operator.range.shape), Gaussian(1.0))
    with pytest.raises(ValueError, match=r"no nuisance 'tilt'; it has centre"):
        calibrate(problem, ["tilt"])


def test_long_use_at_other_values_makes_a_matrix() -> None:
    from labrecon_ct.backends.choice import MATRIX_PAYS
    from labrecon_ct.backends.matrix import MatrixBackend

    operator = CTProjector(CTGeometry(angles=views(6), columns=16), backend="matrix")
    operator.place({"centre": torch.tensor(1.5, dtype=F64)})
    body = random_objects(operator.geometry, 1, torch.Generator().manual_seed(3))[0]
    first = operator(body)
    for _ in range(MATRIX_PAYS):
        last = operator(body)
    assert operator._moved is not None
    assert isinstance(operator._moved.at, MatrixBackend)
    torch.testing.assert_close(first, last, rtol=1e-5, atol=1e-6)
