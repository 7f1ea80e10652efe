"""The geometry refuses what can not be; coil noise has the covariance it is given."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from labrecon import Array
from labrecon.noise import Gaussian, NoiseError
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.noise import CoilNoise
from labrecon_mri.phantoms import birdcage_maps

BASE = {"matrix": (16, 20), "fov": (0.2, 0.25)}
K = np.zeros((2, 8, 2))
K[..., 1] = np.linspace(-39, 39, 8)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"matrix": (16,)}, "matrix is"),
        ({"fov": (0.2,)}, "fov needs 2"),
        ({"fov": (0.2, -1.0)}, "positive lengths"),
        ({"mask": np.ones((3, 20))}, "does not broadcast"),
        ({"mask": np.zeros((16, 1))}, "something must have been sampled"),
        ({"mask": np.ones((16, 1)), "trajectory": K}, "not both"),
        ({"trajectory": K[0]}, "shot, sample"),
        ({"trajectory": np.zeros((2, 8, 3))}, "one component per image axis"),
        ({"trajectory": 6 * K}, "times the edge of k-space along x"),
        ({"trajectory": np.full((2, 8, 2), np.nan)}, "NaN"),
        ({"coils": 3, "maps": np.ones((2, 16, 20), complex)}, "maps are"),
        ({"maps": np.ones((1, 16, 16), complex)}, "maps are"),
        ({"frames": {"slice": 3}, "maps": np.ones((2, 1, 1, 16, 20), complex)}, "do not fit"),
        ({"field_map": np.zeros((16, 20))}, "needs a trajectory and the times"),
        ({"trajectory": K, "field_map": np.zeros((16, 20)), "times": np.zeros(5)}, "times are"),
        ({"frames": {"slice": 0}}, "at least 1"),
        ({"fovs": 1}, "Extra inputs"),
    ],
)
def test_refusals(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        MRIGeometry.model_validate({**BASE, **fields})


def test_a_trajectory_in_another_unit_is_doubted() -> None:
    with pytest.warns(UserWarning, match="another unit than cycles/m"):
        MRIGeometry.model_validate({**BASE, "trajectory": K / 80})


def test_json_keeps_every_bit() -> None:
    maps = birdcage_maps(4, (16, 20))
    geometry = MRIGeometry.model_validate(
        {**BASE, "coils": 4, "maps": maps, "trajectory": K, "dwell": 4e-6, "frames": {"slice": 2}}
    )
    again = MRIGeometry.model_validate_json(geometry.model_dump_json())
    assert again == geometry
    assert again.maps is not None
    assert torch.equal(again.maps.tensor(), maps)
    assert again.changed(sigma=2.0) != geometry
    assert geometry.nyquist == (40.0, 40.0)
    assert geometry.pixel == (0.0125, 0.0125)


def test_arrays_refuse_what_was_damaged() -> None:
    held = Array(np.arange(6.0).reshape(2, 3)).to_json()
    assert Array.from_json(held) == Array(np.arange(6.0).reshape(2, 3))
    for damage in ({"shape": [3, 3]}, {"zlib": "AAAA"}, {"shape": [1, 3]}, {"dtype": "object"}):
        with pytest.raises(ValueError, match=r"bytes|no array of numbers"):
            Array.from_json({**held, **damage})
    with pytest.raises(ValueError, match="array of numbers"):
        Array(["a"])


def covariance(coils: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(coils, coils, dtype=torch.complex128, generator=generator)
    return factor @ factor.mH + torch.eye(coils)


def test_coil_noise_has_its_covariance() -> None:
    psi = covariance(3)
    noise = CoilNoise(psi, axis=-2)
    clean = torch.zeros(3, 200_000, dtype=torch.complex128)
    n = noise.sample(clean, torch.Generator().manual_seed(1))
    found = n @ n.mH / n.shape[-1]
    # Per real and imaginary part: the complex average has twice that.
    assert float((found - 2 * psi).abs().max()) < 0.02 * float(psi.abs().max()) * 2
    assert float(n.real.var(-1)[0]) == pytest.approx(float(psi[0, 0].real), rel=0.02)
    white = noise.whiten(n)
    identity = white @ white.mH / n.shape[-1] / 2
    assert float((identity - torch.eye(3)).abs().max()) < 0.02
    assert torch.allclose(noise.variance(clean)[:, 0], psi.diagonal().real)


def test_coil_noise_is_the_likelihood_of_white_data() -> None:
    noise = CoilNoise(covariance(3), axis=-2)
    p = torch.randn(3, 5, dtype=torch.complex128, requires_grad=True)
    y = torch.randn(3, 5, dtype=torch.complex128)
    assert torch.allclose(noise.nll(p, y), Gaussian(1.0).nll(noise.whiten(p), noise.whiten(y)))
    (by_autograd,) = torch.autograd.grad(noise.density(p, y).sum(), p)
    assert torch.allclose(noise.score(p, y), by_autograd)
    largest = torch.linalg.eigvalsh(torch.linalg.inv(covariance(3)))[-1]
    assert noise.curvature(y) == pytest.approx(float(largest))


@pytest.mark.parametrize(
    ("psi", "told"),
    [
        (torch.ones(2, 3), "coil, coil"),
        (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "Hermitian"),
        (torch.ones(2, 2), "positive definite"),
    ],
)
def test_coil_noise_refuses(psi: torch.Tensor, told: str) -> None:
    with pytest.raises(NoiseError, match=told):
        CoilNoise(psi)
