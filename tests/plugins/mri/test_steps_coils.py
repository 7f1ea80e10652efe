"""Prewhitening, noise level and coil compression."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon import Array, Gaussian, Scan
from labrecon.instrument import StepError
from labrecon.operators.fourier import centred_fft
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.noise import CoilNoise
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.steps.coil_compression import coil_compression
from labrecon_mri.steps.noise_level import noise_level
from labrecon_mri.steps.prewhiten import noise_covariance, prewhiten

AXES = (-2, -1)
COILS, N = 6, 64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance() -> Tensor:
    """Ψ of unlike, correlated coils, per real and imaginary part."""
    mixing = torch.randn(COILS, COILS, dtype=torch.complex128, generator=generator(5))
    gains = torch.linspace(0.5, 2, COILS, dtype=torch.complex128)
    factor = torch.diag(gains) + 0.2 * mixing
    return 1e-4 * factor @ factor.mH


def scan(noise: bool = True, samples: int = 20000, scale: float = 4.0) -> Scan:
    """A Cartesian scan with correlated noise, and a noise scan of a narrower bandwidth."""
    geometry = MRIGeometry(matrix=(N, N), fov=(0.2, 0.2), coils=COILS)
    single = geometry.changed(coils=1)
    x = random_objects(single, 1, generator(1))[0]
    maps = birdcage_maps(COILS, (N, N))
    clean = centred_fft(maps * x, AXES)
    psi = covariance()
    data = CoilNoise(psi).sample(clean, generator(2))
    calibration = {"calibration": data[:, 20:44]}
    if noise:
        quiet = torch.zeros(COILS, 1, samples, dtype=torch.complex64)
        calibration["noise"] = CoilNoise(psi / scale).sample(quiet, generator(3))[:, 0]
        calibration["noise_scale"] = torch.tensor(scale)
    return Scan(
        data,
        geometry.changed(maps=Array(maps)),
        CoilNoise(psi),
        truth=x,
        calibration=calibration,
    )


def parts(noise: Tensor) -> Tensor:
    """Covariance per real and imaginary part of noise (coil, …)."""
    flat = noise.flatten(1).to(torch.complex128)
    return 0.5 * flat @ flat.mH / flat.shape[1]


def predicted(measured: Scan) -> Tensor:
    """Noise-free data of the truth with the scan's maps."""
    assert isinstance(measured.geometry, MRIGeometry)
    assert measured.geometry.maps is not None
    return centred_fft(measured.geometry.maps.tensor() * measured.truth, AXES)


def test_covariance_is_per_real_and_imaginary_part() -> None:
    n = torch.randn(2, 400_000, dtype=torch.complex128, generator=generator()) * 3 * 2**0.5
    assert torch.allclose(noise_covariance(n), 9 * torch.eye(2).to(n.dtype), atol=0.1)
    assert torch.allclose(
        noise_covariance(n, torch.tensor(0.5)), 0.5 * noise_covariance(n), rtol=1e-12
    )


def test_whitened_noise_is_white_and_of_deviation_one() -> None:
    before = scan()
    after = prewhiten(before)
    noise = after.data - predicted(after)
    # Half a per cent of estimation error from each, the noise scan and the data.
    assert torch.allclose(parts(noise), torch.eye(COILS).to(torch.complex128), atol=0.06)
    assert float((parts(before.data - predicted(before)) - covariance()).abs().max()) < 2e-5
    assert isinstance(after.noise, Gaussian)
    assert float(after.noise.sigma) == 1
    assert after.geometry.sigma == 1
    told = after.steps[-1]
    assert told["deviations"] == pytest.approx(
        covariance().diagonal().real.sqrt().tolist(), rel=0.03
    )
    assert torch.allclose(after.calibration["calibration"], after.data[:, 20:44])
    assert "noise" not in after.calibration
    again = prewhiten(after)
    assert again.data is after.data
    assert "not applicable" in again.steps[-1]["result"]


def test_covariance_of_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "psi.npy", covariance().numpy())
    done = prewhiten(scan(noise=False), covariance=str(tmp_path / "psi.npy"))
    noise = done.data - predicted(done)
    assert torch.allclose(parts(noise), torch.eye(COILS).to(torch.complex128), atol=0.05)
    np.save(tmp_path / "psi.npy", np.eye(COILS - 1))
    with pytest.raises(StepError, match=r"a covariance of 6 coils is \(6, 6\)"):
        prewhiten(scan(), covariance=str(tmp_path / "psi.npy"))
    with pytest.raises(StepError, match="can not be read"):
        prewhiten(scan(), covariance=str(tmp_path / "none.npy"))


def test_noise_scans_that_do_not_serve() -> None:
    def changed(change) -> Scan:
        before = scan()
        kept = dict(before.calibration)
        kept["noise"] = change(kept["noise"].clone())
        return dataclasses.replace(before, calibration=kept)

    with pytest.raises(StepError, match="at least 60 are needed"):
        prewhiten(scan(samples=50))

    def dead(noise: Tensor) -> Tensor:
        noise[2] = 0
        return noise

    def copied(noise: Tensor) -> Tensor:
        noise[3] = 2 * noise[1]
        return noise

    with pytest.raises(StepError, match=r"coils \[2\] have no noise"):
        prewhiten(changed(dead))
    with pytest.raises(StepError, match="a coil is a copy"):
        prewhiten(changed(copied))
    with pytest.raises(StepError, match="NaN"):
        prewhiten(changed(lambda noise: noise / 0))
    with pytest.raises(StepError, match="5 coils, the data have 6"):
        prewhiten(changed(lambda noise: noise[1:]))


def test_data_of_another_shape_are_refused() -> None:
    with pytest.raises(StepError, match=r"\(\*frames, coil, \*matrix\)"):
        prewhiten(scan().replace(data=torch.zeros(COILS, N, N + 1)))


# -- noise level -----------------------------------------------------------------------------------


def white(sigma: float, *, frames: int = 1, coils: int = 3) -> Scan:
    geometry = MRIGeometry(matrix=(N, N), fov=(0.2, 0.2), coils=coils, frames={"slice": frames})
    x = random_objects(MRIGeometry(matrix=(N, N), fov=(0.2, 0.2)), 1, generator(1))[0]
    clean = centred_fft(birdcage_maps(coils, (N, N)) * x, AXES)
    clean = clean.expand(frames, *clean.shape)
    return Scan(Gaussian(sigma).sample(clean, generator(4)), geometry)


@pytest.mark.parametrize("sigma", [0.02, 0.2])
def test_noise_level_of_the_edge(sigma: float) -> None:
    done = noise_level(white(sigma, frames=2))
    assert float(done.noise.sigma) == pytest.approx(sigma, rel=0.06)
    assert done.geometry.sigma == float(done.noise.sigma)
    again = noise_level(done)
    assert "the noise is known" in again.steps[-1]["result"]


def test_noise_level_of_undersampled_data_ignores_what_was_not_measured() -> None:
    full = white(0.05)
    mask = torch.zeros(N, 1)
    mask[::2] = 1
    half = full.replace(data=full.data * mask, geometry=full.geometry.changed(mask=Array(mask)))
    assert float(noise_level(half, part=0.2).noise.sigma) == pytest.approx(0.05, rel=0.1)


def test_noise_level_per_coil_makes_them_alike() -> None:
    before = white(0.05)
    gains = torch.tensor([0.5, 1.0, 4.0]).reshape(3, 1, 1)
    done = noise_level(before.replace(data=gains * before.data), whiten=True)
    assert done.steps[-1]["coils"] == pytest.approx([0.025, 0.05, 0.2], rel=0.15)
    assert float(done.noise.sigma) == 1
    truth = before.data / 0.05
    assert torch.allclose(done.data, truth, rtol=0.15, atol=1e-3)


def test_noise_level_along_a_trajectory() -> None:
    angle = torch.arange(64) * torch.pi / 64
    r = torch.linspace(-1, 1, 129)[:-1] * N / 0.4
    spokes = torch.stack([angle.sin()[:, None] * r, angle.cos()[:, None] * r], -1)
    geometry = MRIGeometry(matrix=(N, N), fov=(0.2, 0.2), trajectory=Array(spokes))
    signal = 30 * torch.exp(-(spokes.norm(dim=-1).square()) / 30**2)
    noisy = Gaussian(0.3).sample(signal[None].to(torch.complex64), generator())
    done = noise_level(Scan(noisy, geometry), part=0.2)
    assert float(done.noise.sigma) == pytest.approx(0.3, rel=0.08)


def test_noise_level_that_can_not_be_told() -> None:
    smooth = white(1e-12)
    r = (torch.arange(N) - N // 2) / 8
    spot = torch.exp(-(r[:, None].square() + r.square())).to(torch.complex64)
    clean = smooth.replace(data=centred_fft(spot, AXES).expand_as(smooth.data))
    assert "rounding" in noise_level(clean).steps[-1]["result"]
    few = smooth.replace(data=smooth.data * (torch.rand(N, N, generator=generator()) < 0.01))
    assert "fewer than 200" in noise_level(few).steps[-1]["result"]
    assert float(noise_level(clean, sigma=0.5).noise.sigma) == 0.5
    with pytest.raises(StepError, match="positive"):
        noise_level(clean, sigma=0)
    with pytest.raises(StepError, match="all zero"):
        noise_level(clean.replace(data=0 * clean.data))


def test_noise_level_of_a_brain_agrees_with_the_corners_of_its_image(lab_data: Path) -> None:
    file = lab_data / "mri" / "brain7_complex_labmidas" / "brain_slice.npz"
    images = torch.from_numpy(np.load(file)["arr_0"].transpose(2, 0, 1).copy())
    geometry = MRIGeometry(matrix=(256, 216), fov=(0.256, 0.216), coils=7)
    done = noise_level(Scan(centred_fft(images, AXES), geometry))
    corners = torch.cat([images[:, :20, :20], images[:, :20, -20:]])
    seen = float(corners.abs().square().mean().sqrt()) / 2**0.5
    # A quarter of this k-space was left empty by the scanner, which lowers the noise of the image.
    assert seen < float(done.noise.sigma) < 1.4 * seen


# -- compression -----------------------------------------------------------------------------------


def test_compression_keeps_signal_and_white_noise() -> None:
    before = prewhiten(scan())
    after = coil_compression(before, coils=4)
    assert after.data.shape == (4, N, N)
    assert after.geometry.coils == 4
    assert after.geometry.maps.shape == (4, N, N)
    assert after.calibration["calibration"].shape[0] == 4
    # Maps are compressed as the data: what they predict still differs by white noise only.
    noise = after.data - predicted(after)
    assert torch.allclose(parts(noise), torch.eye(4).to(torch.complex128), atol=0.06)
    kept = float(after.data.abs().square().sum() / before.data.abs().square().sum())
    # By the calibration lines; of the data, it is the same but for noise at the edge of k-space.
    lines = before.calibration["calibration"]
    values = torch.linalg.svdvals(lines.flatten(1)).square()
    assert after.steps[-1]["energy"] == pytest.approx(float(values[:4].sum() / values.sum()))
    assert kept == pytest.approx(after.steps[-1]["energy"], abs=0.05)
    assert after.curves[-1].marker == 4


def test_compression_by_energy() -> None:
    before = scan().replace(calibration={})
    done = coil_compression(before, energy=0.9)
    values = torch.linalg.svdvals(before.data.flatten(1)).square()
    part = values.cumsum(0) / values.sum()
    n = done.geometry.coils
    assert 1 < n < COILS
    assert float(part[n - 1]) >= 0.9 > float(part[n - 2])
    # No other n channels hold more: Eckart and Young.
    assert float(done.data.abs().square().sum()) == pytest.approx(float(values[:n].sum()), rel=1e-4)
    assert isinstance(done.noise, CoilNoise)
    noise = done.data - predicted(done)
    expected = done.noise.factor @ done.noise.factor.mH
    assert float((parts(noise) - expected).abs().max()) < 3e-5


def test_one_compression_for_all_frames() -> None:
    before = white(0.01, frames=3, coils=5)
    done = coil_compression(before, coils=3)
    alone = coil_compression(
        before.replace(
            data=before.data.transpose(0, 1).flatten(1, 2)[None],
            geometry=before.geometry.changed(
                matrix=(3 * N, N), fov=(0.6, 0.2), frames={"slice": 1}
            ),
        ),
        coils=3,
    )
    assert done.data.shape == (3, 3, N, N)
    joined = done.data.transpose(0, 1).flatten(1, 2)
    assert torch.allclose(joined.abs(), alone.data[0].abs(), atol=1e-4)


def test_compression_that_has_nothing_to_do() -> None:
    before = scan()
    assert "not applicable" in coil_compression(before, coils=6).steps[-1]["result"]
    assert "needed" in coil_compression(before, energy=1.0).steps[-1]["result"]
    with pytest.raises(StepError, match="from 1 on"):
        coil_compression(before, coils=0)
    with pytest.raises(StepError, match="prewhiten before"):
        coil_compression(
            before.replace(noise=Gaussian(torch.linspace(1, 2, COILS).reshape(COILS, 1, 1))),
            coils=2,
        )
    bad = torch.ones(COILS, 1, 1)
    bad[2] = 0
    with pytest.raises(StepError, match="take the bad coil out"):
        coil_compression(before.replace(weights=bad), coils=2)
