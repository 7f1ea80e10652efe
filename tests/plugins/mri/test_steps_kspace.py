"""Readout oversampling and partial Fourier."""

import pytest
import torch
from torch import Tensor

from labrecon import Array, Gaussian, Scan
from labrecon.instrument import StepError
from labrecon.operators.fourier import centred_fft, centred_ifft
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.steps.partial_fourier import partial_fourier
from labrecon_mri.steps.remove_oversampling import remove_oversampling

AXES = (-2, -1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def oversampled(old: int, new: int, rows: int = 24, coils: int = 3) -> tuple[Scan, Tensor]:
    """A scan of an object within the middle ``new`` of ``old`` pixels, and its coil images."""
    small = torch.randn(coils, rows, new, dtype=torch.complex64, generator=generator())
    wide = torch.zeros(coils, rows, old, dtype=torch.complex64)
    start = old // 2 - new // 2
    wide[..., start : start + new] = small
    geometry = MRIGeometry(
        matrix=(rows, old), fov=(0.24, 0.01 * old), coils=coils, dwell=1e-6, maps=Array(wide)
    )
    provenance = {"recon_matrix": [rows, new], "recon_fov": [0.24, 0.01 * new]}
    return Scan(centred_fft(wide, AXES), geometry, provenance=provenance), small


@pytest.mark.parametrize(("old", "new"), [(64, 32), (65, 33), (64, 33), (65, 32), (48, 47)])
def test_object_stays_where_it_is(old: int, new: int) -> None:
    before, images = oversampled(old, new)
    done = remove_oversampling(before)
    # Not half a pixel off, and of the same scale.
    assert torch.allclose(done.data, centred_fft(images, AXES), atol=1e-5)
    assert torch.equal(done.geometry.maps.tensor(), images)
    assert done.geometry.matrix == (24, new)
    assert done.geometry.fov == pytest.approx((0.24, 0.01 * new))
    assert done.geometry.pixel == pytest.approx(before.geometry.pixel)
    assert done.geometry.dwell == pytest.approx(1e-6 * old / new)
    again = remove_oversampling(done)
    assert "no axis is oversampled" in again.steps[-1]["result"]


def test_noise_stays_white_and_missing_lines_stay_missing() -> None:
    before, _ = oversampled(128, 64, rows=256)
    mask = torch.zeros(256, 1)
    mask[::3] = 1
    noise = (
        Gaussian(0.7).sample(torch.zeros(3, 256, 128, dtype=torch.complex64), generator()) * mask
    )
    geometry = before.geometry.changed(mask=Array(mask))
    lines = noise[:, 100:124]
    done = remove_oversampling(
        before.replace(data=noise, geometry=geometry, calibration={"calibration": lines})
    )
    assert done.data.shape == (3, 256, 64)
    measured = done.data[:, ::3]
    assert float(measured.real.std()) == pytest.approx(0.7, rel=0.02)
    neighbours = (
        measured[..., 1:] * measured[..., :-1].conj()
    ).mean() / measured.abs().square().mean()
    assert abs(complex(neighbours)) < 0.02
    assert float(done.data[:, 1::3].abs().max()) == 0
    assert torch.equal(done.geometry.mask.tensor(), mask)
    assert torch.allclose(done.calibration["calibration"], done.data[:, 100:124], atol=1e-6)


def test_what_can_not_be_cropped_is_kept() -> None:
    before, _ = oversampled(64, 32)
    echo = torch.ones(64)
    echo[:10] = 0
    partial = before.replace(geometry=before.geometry.changed(mask=Array(echo)))
    assert "not every sample along x" in remove_oversampling(partial).steps[-1]["result"]
    bare = before.replace(provenance={})
    assert remove_oversampling(bare).data is bare.data
    lines = {"calibration": torch.zeros(3, 24, 60, dtype=torch.complex64)}
    with pytest.raises(StepError, match="60 samples along x"):
        remove_oversampling(before.replace(calibration=lines))
    with pytest.raises(StepError, match="one number per axis"):
        remove_oversampling(before.replace(provenance={"recon_fov": [0.2]}))


def test_volumes_are_cropped_along_every_complete_axis() -> None:
    geometry = MRIGeometry(matrix=(12, 10, 16), fov=(0.12, 0.10, 0.16), coils=2)
    images = torch.zeros(2, 12, 10, 16, dtype=torch.complex64)
    small = torch.randn(2, 8, 10, 8, dtype=torch.complex64, generator=generator())
    images[:, 2:10, :, 4:12] = small
    axes = (-3, -2, -1)
    before = Scan(centred_fft(images, axes), geometry, provenance={"recon_fov": [0.08, 0.10, 0.08]})
    done = remove_oversampling(before)
    assert torch.allclose(centred_ifft(done.data, axes), small, atol=1e-5)
    assert done.geometry.matrix == (8, 10, 8)


# -- partial Fourier -------------------------------------------------------------------------------


def partial(part: float, sigma: float, axis: int = 0, n: int = 128) -> tuple[Scan, Tensor]:
    """A scan with a smooth phase that lacks the first lines, and its coil images."""
    geometry = MRIGeometry(matrix=(n, n), fov=(0.2, 0.2))
    x = random_objects(geometry, 1, generator(1))[0]
    images = birdcage_maps(4, (n, n)) * x
    data = Gaussian(sigma).sample(centred_fft(images, AXES), generator(2))
    mask = torch.zeros(n)
    mask[n - int(part * n) :] = 1
    mask = mask[:, None] if axis == 0 else mask
    full = geometry.changed(coils=4, mask=Array(mask))
    return Scan(data * mask, full), images


def error(scan: Scan, images: Tensor) -> float:
    inside = images.abs() > 0.05 * images.abs().max()
    return float((centred_ifft(scan.data, AXES) - images)[inside].norm() / images[inside].norm())


@pytest.mark.parametrize("axis", [0, 1])
def test_missing_side_is_filled(axis: int) -> None:
    before, images = partial(0.625, 1e-6, axis)
    done = partial_fourier(before)
    assert error(done, images) < 0.1 * error(before, images)
    assert done.geometry.mask is None
    told = done.steps[-1]
    assert (told["axis"], told["measured"], told["of"]) == ("yx"[axis], 80, 128)
    assert "48 of 128 samples along" in told["note"]
    measured = before.data != 0
    assert torch.equal(done.data[measured], before.data[measured])
    assert "all of k-space" in partial_fourier(done).steps[-1]["result"]


def test_noise_is_that_of_full_data() -> None:
    before, images = partial(0.75, 0.02)
    done = partial_fourier(before)
    full, _ = partial(1.0, 0.02)
    assert error(done, images) < 1.05 * error(full, images)


def test_nothing_is_made_up_where_more_is_missing() -> None:
    before, _ = partial(0.75, 0.02)
    mask = before.geometry.mask.tensor().clone()
    mask[::2] = 0
    twice = before.replace(geometry=before.geometry.changed(mask=Array(mask)))
    done = partial_fourier(twice)
    assert done.data is twice.data
    assert "not one side" in done.steps[-1]["result"]
    short, _ = partial(0.51, 0.02)
    assert "too few for a phase" in partial_fourier(short).steps[-1]["result"]
    with pytest.raises(StepError, match="from 1 on"):
        partial_fourier(before, iterations=0)
