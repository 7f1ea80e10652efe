"""Delays of the gradients, estimated jointly with the image."""

from typing import Any

import pytest
import torch
from error_bars import assert_covered, scores

from labrecon.calibration import Calibration, calibrate
from labrecon.noise import Gaussian
from labrecon.operator import Operator
from labrecon.problem import Problem
from labrecon_mri.forward_model import forward_model
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.nufft import NUFFT
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.trajectories import radial, spiral

F64, C128 = torch.float64, torch.complex128
FOV = (0.22, 0.22)
DELAYS = (-0.5, 0.5)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def model(n: int, shots: int, samples: int, pixels: int, coils: int = 4) -> Operator:
    path = radial(shots, samples, (n, n), FOV)
    return forward_model(
        MRIGeometry.model_validate(
            {
                "matrix": (pixels, pixels),
                "fov": FOV,
                "coils": coils,
                "trajectory": path,
                "maps": birdcage_maps(coils, (pixels, pixels)),
            }
        )
    )


def delayed(operator: Operator, delays: tuple[float, float]) -> torch.Tensor:
    """Data of a body with these delays."""
    geometry = MRIGeometry(matrix=operator.domain.shape, fov=FOV)
    body = random_objects(geometry, 1, torch.Generator().manual_seed(1))[0]
    return operator(body, **{"sampling.delay": torch.tensor(delays, dtype=F64)})


@pytest.mark.slow
def test_half_a_sample_is_found_on_both_axes() -> None:
    """The body has pixels of half the size of those that are reconstructed."""
    clean = delayed(model(48, 60, 96, 96), DELAYS) / 2
    sigma = 2e-3 * float(clean.abs().max())
    data = Gaussian(sigma).sample(clean, torch.Generator().manual_seed(0))
    problem = Problem(model(48, 60, 96, 48), data, Gaussian(sigma))
    made, found = calibrate(problem, ["delay"], inner=50)
    for estimate, truth in zip(found.estimates, DELAYS, strict=True):
        assert estimate.value == pytest.approx(truth, rel=0.05)
        assert estimate.unit == "samples"
        assert estimate.error is not None
        assert 0 < estimate.error < 0.01
    assert found.chi2 < 1.2 < 10 < found.chi2_before
    assert [e.label for e in found.estimates] == ["delay y", "delay x"]
    assert made.get_parameter("sampling.delay").tolist() == [e.value for e in found.estimates]


@pytest.mark.slow
def test_error_bars_of_the_delays_cover_them() -> None:
    operator = model(16, 24, 32, 16, coils=2)
    clean = delayed(operator, (0.2, -0.1))
    sigma = 0.02 * float(clean.abs().max())

    def draw(seed: int) -> Calibration:
        data = Gaussian(sigma).sample(clean, torch.Generator().manual_seed(seed))
        return calibrate(Problem(operator, data, Gaussian(sigma)), ["delay"], inner=50)[1]

    assert_covered(scores(draw, [0.2, -0.1], 60))


def transform(path: torch.Tensor) -> NUFFT:
    return NUFFT((6, 6), FOV, path, dtype=C128, backend="exact")


@pytest.mark.parametrize("path", [radial(5, 12, (6, 6), FOV), spiral(2, 20, (6, 6), FOV)])
class TestDelay:
    def test_moves_the_samples_along_the_readout(self, path: torch.Tensor) -> None:
        (rate,) = torch.gradient(path, dim=1)
        delay = torch.tensor([0.4, -0.3], dtype=F64)
        moved = transform(path + delay * rate)
        x = torch.randn(6, 6, dtype=C128, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(transform(path)(x, delay=delay), moved(x))

    def test_adjoint_and_normal_follow(self, path: torch.Tensor) -> None:
        operator = transform(path)
        there = operator.at(delay=torch.tensor([0.4, -0.3], dtype=F64))
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(6, 6, dtype=C128, generator=generator)
        y = torch.randn(operator.range.shape, dtype=C128, generator=generator)
        left, right = (there(x).conj() * y).sum(), (x.conj() * there.adjoint(y)).sum()
        torch.testing.assert_close(left, right)
        torch.testing.assert_close(there.normal(x), there.adjoint(there(x)))
        # What was kept for one delay does not serve another.
        assert not torch.allclose(operator.normal(x), there.normal(x))
        torch.testing.assert_close(operator.normal(x), operator.adjoint(operator(x)))

    def test_gradient_is_that_of_differences(self, path: torch.Tensor) -> None:
        operator = transform(path)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(6, 6, dtype=C128, generator=generator)
        y = torch.randn(operator.range.shape, dtype=C128, generator=generator)
        at = torch.tensor([0.2, 0.1], dtype=F64)

        def value(delay: torch.Tensor) -> torch.Tensor:
            return (y.conj() * operator(x, delay=delay)).real.sum()

        with torch.enable_grad():
            learned = at.clone().requires_grad_()
            (g,) = torch.autograd.grad(value(learned), learned)
        for i in range(2):
            h = torch.zeros(2, dtype=F64)
            h[i] = 1e-5
            expected = (value(at + h) - value(at - h)) / 2e-5
            assert float(g[i]) == pytest.approx(float(expected), rel=1e-6)


def test_a_readout_of_one_sample_has_no_delay() -> None:
    operator = transform(torch.zeros(3, 1, 2, dtype=F64))
    x = torch.ones(6, 6, dtype=C128)
    moved = operator(x, delay=torch.tensor([1.0, 1.0], dtype=F64))
    torch.testing.assert_close(moved, operator(x))
