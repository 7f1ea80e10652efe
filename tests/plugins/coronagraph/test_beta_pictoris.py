"""The measured sequence of beta Pictoris (VLT/NACO, Absil et al. 2013) and its planet."""

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from scipy import ndimage
from torch import Tensor

from labrecon import Problem, Scan, solve
from labrecon_coronagraph.adi import median_adi, pca_adi
from labrecon_coronagraph.apertures import full_width
from labrecon_coronagraph.detection import Detection, detections, signal_to_noise
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.matched_filter import matched_filter
from labrecon_coronagraph.readers.naco import NacoReader
from labrecon_coronagraph.sky import offset
from labrecon_coronagraph.speckles import planets_without_speckles
from labrecon_coronagraph.steps.centre import centre
from labrecon_coronagraph.steps.high_pass import high_pass
from labrecon_coronagraph.steps.speckles import speckles

SEPARATION, ANGLE = 0.456, 210.0


@pytest.fixture(scope="module")
def path(lab_data: Path) -> Path:
    found = lab_data / "coronagraph" / "naco_betapic" / "naco_betapic_cube.fits"
    if not found.is_file():
        pytest.skip(f"no {found}")
    return found


@pytest.fixture(scope="module")
def scan(path: Path) -> Scan:
    return centre(NacoReader().read(path))


def known(scan: Scan) -> CoronagraphGeometry:
    assert isinstance(scan.geometry, CoronagraphGeometry)
    return scan.geometry


def width(scan: Scan) -> float:
    return full_width(known(scan).psf.tensor())


def at_planet(image: Tensor, scan: Scan, *, summed: bool = True) -> float:
    """Highest signal to noise within two pixels of where the planet is known to be."""
    y, x = offset(1000 * SEPARATION / known(scan).pixel_scale, ANGLE)
    near = torch.tensor([(y + b / 2, x + a / 2) for b in range(-4, 5) for a in range(-4, 5)])
    return float(
        signal_to_noise(image, near[:, 0], near[:, 1], width(scan), summed=summed)[0].max()
    )


def is_planet(found: Detection) -> bool:
    return abs(found.separation - SEPARATION) < 0.02 and abs(found.position_angle - ANGLE) < 2


def test_what_the_reader_finds(path: Path) -> None:
    reader = NacoReader()
    assert reader.matches(path)
    read = reader.read(path)
    assert tuple(read.data.shape) == (61, 101, 101)
    np.testing.assert_array_equal(read.data.numpy(), fits.getdata(path).astype(np.float32))
    pa = fits.getdata(path.with_name("naco_betapic_pa.fits")).ravel().astype(float)
    np.testing.assert_allclose(known(read).angles, pa - 104.84 - 0.45, atol=1e-9)
    assert "-104.84" in read.assumed["offset of the angles"]
    assert width(read) == pytest.approx(4.8, abs=0.3)  # stated with the data


def test_the_star_is_where_it_is_known_to_be(scan: Scan) -> None:
    assert known(scan).centre == pytest.approx((50.9, 50.9), abs=0.25)
    # Not where a reader that trusts the middle of the frame would put it.
    assert min(abs(at - 50) for at in known(scan).centre) > 0.8


def test_pca_shows_the_planet_where_it_is_known(scan: Scan) -> None:
    image = pca_adi(scan.data, known(scan), modes=15)
    found = detections(image, width(scan), known(scan).pixel_scale)
    assert len(found) == 1
    assert is_planet(found[0])
    assert found[0].snr > 8
    assert found[0].significance > 5


def test_ours_and_pca_see_it_above_median_adi(scan: Scan) -> None:
    prepared = speckles(scan, modes=15)
    flux, sigma = matched_filter(prepared)
    ratio = torch.where(sigma > 0, flux / sigma.clamp_min(1e-9), 0.0)
    median = at_planet(median_adi(scan.data, known(scan)), scan)
    pca = at_planet(pca_adi(scan.data, known(scan), modes=15), scan)
    ours = at_planet(ratio, scan, summed=False)
    print(f"signal to noise: median ADI {median:.2f}, PCA {pca:.2f}, ours {ours:.2f}")
    assert median < 5 < min(pca, ours)
    found = detections(ratio, width(scan), known(scan).pixel_scale, summed=False)
    assert [is_planet(one) for one in found] == [True]


@pytest.mark.parametrize("modes", [10, 15])
def test_the_wrong_sense_of_rotation_shows_nothing(scan: Scan, modes: int) -> None:
    angles = tuple(-angle for angle in known(scan).angles)
    wrong = scan.replace(geometry=known(scan).changed(angles=angles))
    image = pca_adi(wrong.data, known(wrong), modes=modes)
    assert detections(image, width(scan), 27.19, threshold=4.5) == []
    flux, sigma = matched_filter(speckles(wrong, modes=modes))
    ratio = torch.where(sigma > 0, flux / sigma.clamp_min(1e-9), 0.0)
    assert detections(ratio, width(scan), 27.19, threshold=4.5, summed=False) == []


def test_pca_against_scipy(scan: Scan) -> None:
    """A reduction written with NumPy and scipy.ndimage.rotate, about the middle of the frame."""
    cube = scan.data.double().numpy()
    frames = len(cube)
    moved = np.stack(
        [ndimage.shift(f, [50 - at for at in known(scan).centre], order=3) for f in cube]
    )
    y, x = np.mgrid[:101, :101]
    disc = np.hypot(y - 50, x - 50) <= 45
    flat = np.where(disc, moved, 0).reshape(frames, -1)
    flat = flat - flat.mean(0)
    u, _, _ = np.linalg.svd(flat, full_matrices=False)
    residual = (flat - u[:, :10] @ (u[:, :10].T @ flat)).reshape(cube.shape)
    turned = [
        ndimage.rotate(f, -a, reshape=False)
        for f, a in zip(residual, known(scan).angles, strict=True)
    ]
    expected = np.median(turned, axis=0)
    ours = pca_adi(scan.data, known(scan), modes=10, annuli=(0.0, 45.0)).numpy()
    inside = (np.hypot(y - 50, x - 50) < 38) & (np.hypot(y - 50, x - 50) > 6)
    correlation = np.corrcoef(ours[inside], expected[inside])[0, 1]
    assert correlation > 0.98


def test_fluxes_do_not_depend_on_how_many_modes_are_taken(scan: Scan) -> None:
    """PCA loses half of the planet from 10 to 20 modes; the model knows what it loses."""
    filtered = high_pass(scan)
    filtered = filtered.replace(geometry=known(filtered).changed(field=(61, 61)))
    peaks, kept = [], []
    for modes in (10, 20):
        flux, _ = matched_filter(speckles(filtered, modes=modes))
        y, x = offset(1000 * 0.448 / known(scan).pixel_scale, 209.5)
        peaks.append(float(flux[30 + round(y), 30 + round(x)]))
        image = pca_adi(filtered.data, known(filtered), modes=modes)
        kept.append(float(image[30 + round(y), 30 + round(x)]))
    assert peaks[1] == pytest.approx(peaks[0], rel=0.08)
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.slow
def test_a_sparse_map_holds_the_planet_alone(scan: Scan) -> None:
    """FISTA with non-negative l1 on the map of fluxes: the brightest pixel is beta Pictoris b."""
    from labrecon.priors.l1 import L1
    from labrecon.solvers.proximal import FISTA

    prepared = speckles(high_pass(scan), modes=15, inner=8.0, outer=30.0)
    prepared = prepared.replace(geometry=known(prepared).changed(field=(61, 61)))
    operator = planets_without_speckles(known(prepared))
    problem = Problem(operator, prepared.data, prepared.noise, prepared.weights)
    scale = operator.adjoint(prepared.weights * prepared.data).max() / known(prepared).sigma ** 2
    solver = FISTA(prior=L1(0.3 * float(scale), nonneg=True))
    x = solve(solver, problem, iterations=30).x
    peak = np.unravel_index(int(x.argmax()), x.shape)
    y, x_ = offset(1000 * SEPARATION / known(scan).pixel_scale, ANGLE)
    assert abs(peak[0] - 30 - y) < 1.5
    assert abs(peak[1] - 30 - x_) < 1.5
