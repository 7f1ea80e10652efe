"""Preparation steps: the star's centre, bad frames and pixels, crop, high pass."""

import math
from typing import Any

import hcipy
import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon import Scan
from labrecon.instrument import StepError
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.injection import Planet, planet_frames
from labrecon_coronagraph.matched_filter import matched_filter
from labrecon_coronagraph.sequence import ADISequence
from labrecon_coronagraph.sky import offset
from labrecon_coronagraph.steps.bad_frames import bad_frames
from labrecon_coronagraph.steps.bad_pixels import bad_pixels
from labrecon_coronagraph.steps.centre import centre
from labrecon_coronagraph.steps.crop import crop
from labrecon_coronagraph.steps.high_pass import high_pass
from labrecon_coronagraph.steps.speckles import speckles


def geometry(frames: int = 12, **changes: Any) -> CoronagraphGeometry:
    at = torch.arange(17, dtype=torch.float64) - 8
    psf = torch.exp(-4 * math.log(2) * (at[:, None] ** 2 + at**2) / 3.8**2)
    return CoronagraphGeometry.model_validate(
        {
            "shape": (51, 51),
            "pixel_scale": 27.19,
            "wavelength": 3.8,
            "angles": tuple(np.linspace(0.0, 60.0, frames)),
            "centre": (25.0, 25.0),
            "psf": psf,
            **changes,
        }
    )


def known(scan: Scan) -> CoronagraphGeometry:
    assert isinstance(scan.geometry, CoronagraphGeometry)
    return scan.geometry


def star(at: tuple[float, float], frames: int, kind: str, size: int = 51) -> Tensor:
    """Images of a star by HCIPy, 3.5 pixels per λ/D, behind a vortex or without a mask."""
    grid = hcipy.make_pupil_grid(64)
    aperture = hcipy.evaluate_supersampled(hcipy.make_circular_aperture(1), grid, 4)
    vortex = hcipy.VortexCoronagraph(grid, charge=2)
    lyot = hcipy.Apodizer(hcipy.evaluate_supersampled(hcipy.make_circular_aperture(0.95), grid, 4))
    pitch = 1 / 3.5
    focal = hcipy.CartesianGrid(
        hcipy.RegularCoords(pitch, [size, size], [-at[1] * pitch, -at[0] * pitch])
    )
    propagator = hcipy.FraunhoferPropagator(grid, focal)
    modes = hcipy.make_zernike_basis(30, 1, grid, 2)
    rng = np.random.default_rng(1)
    images = []
    exposures = 10 if kind == "vortex" else 1  # that an AO's residuals are averaged over
    for _ in range(frames * exposures):
        phase = modes.linear_combination(0.06 * rng.normal(size=30) / np.sqrt(np.arange(1, 31)))
        wavefront = hcipy.Wavefront(aperture * np.exp(1j * phase))
        if kind == "vortex":
            wavefront = lyot.forward(vortex.forward(wavefront))
        images.append(propagator.forward(wavefront).power.shaped)
    cube = np.stack(images).reshape(frames, exposures, size, size).mean(1)
    return torch.from_numpy(1e4 * cube / cube.max() + 5 * rng.normal(size=cube.shape))


@pytest.mark.parametrize("kind", ["vortex", "no mask"])
@pytest.mark.parametrize("at", [(25.9, 25.35), (23.5, 26.0)])
def test_the_star_is_found_to_a_tenth_of_a_pixel(kind: str, at: tuple[float, float]) -> None:
    scan = centre(Scan(star(at, 12, kind), geometry()))
    found = known(scan).centre
    assert math.dist(found, at) < 0.1
    assert scan.steps[-1]["asymmetry"] < 0.1
    assert scan.curves


def test_the_centre_is_set_or_kept() -> None:
    noise = torch.randn(12, 51, 51, generator=torch.Generator().manual_seed(0))
    scan = Scan(noise, geometry())
    assert known(centre(scan, position=[20.5, 30.0])).centre == (20.5, 30.0)
    kept = centre(scan)
    assert known(kept).centre == (25.0, 25.0)
    assert "not applicable" in kept.steps[-1]["result"]
    far = centre(Scan(star((25.0, 29.0), 3, "no mask"), geometry(3)), search=2.0)
    assert known(far).centre == (25.0, 25.0)
    for options, message in (
        ({"position": [60.0, 3.0]}, "is not"),
        ({"radius": 24.0}, "does not fit"),
        ({"search": 0.0}, "does not fit"),
    ):
        with pytest.raises(StepError, match=message):
            centre(scan, **options)  # type: ignore[arg-type]


def steady(frames: int = 12) -> Tensor:
    one = star((25.0, 25.0), 1, "no mask")
    noise = torch.randn(frames, 51, 51, generator=torch.Generator().manual_seed(2))
    return one + 5 * noise.double()


def test_bad_frames_are_left_out() -> None:
    data = steady()
    data[2] *= 0.7  # a cloud
    data[5] = data[5].roll((3, -2), (0, 1))  # lost guiding
    data[9] = 0.0
    weights = torch.ones_like(data)
    weights[9] = 0.0
    scan = bad_frames(Scan(data, geometry(), weights=weights), frames=[11])
    kept = [0, 1, 3, 4, 6, 7, 8, 10]
    assert known(scan).angles == tuple(geometry().angles[k] for k in kept)
    torch.testing.assert_close(scan.data, data[kept])
    step = scan.steps[-1]
    assert (step["given"], step["empty"]) == ([11], [9])
    assert 2 in step["flux"]
    assert 5 in step["correlation"]
    untouched = bad_frames(Scan(steady(), geometry()))
    assert known(untouched).frames == 12
    with pytest.raises(StepError, match="no frame 12"):
        bad_frames(scan.replace(data=data, geometry=geometry()), frames=[12])
    with pytest.raises(StepError, match="would be left"):
        bad_frames(Scan(steady(), geometry()), frames=list(range(10)))


def test_bad_pixels_and_hits() -> None:
    clean = steady()
    data = clean.clone()
    data[:, 10, 12] += 3000.0  # hot
    data[:, 25, 40] = -500.0  # dead
    data[4, 30, 8] += 900.0  # a cosmic ray
    weights = torch.ones_like(data)
    weights[7, 3, 3] = 0
    scan = bad_pixels(Scan(data, geometry(), weights=weights), pixels=[[0, 50]])
    assert scan.weights is not None
    assert sorted((scan.weights[0] == 0).nonzero().tolist()) == [[0, 50], [10, 12], [25, 40]]
    assert scan.steps[-1]["hits"] == 1
    assert scan.steps[-1]["frames_hit"] == [4, 7]
    assert scan.steps[-1]["gaps"] == 1
    assert float((scan.data - clean).abs().max()) < 60
    assert scan.data[4, 30, 8] != data[4, 30, 8]
    # The star itself is no defect.
    quiet = bad_pixels(Scan(clean, geometry()))
    assert quiet.steps[-1]["bad"] == quiet.steps[-1]["hits"] == 0
    with pytest.raises(StepError, match="not \\(y, x\\)"):
        bad_pixels(Scan(clean, geometry()), pixels=[[51, 0]])


def test_crop_keeps_the_star_and_the_sky() -> None:
    whole = geometry(3)
    made = ADISequence(whole, dtype=torch.float64)
    truth = made.domain.zeros()
    truth[20, 30] = 3.0
    scan = Scan(made(truth), whole, truth=truth, weights=torch.ones(51, 51))
    cut = crop(scan, y=[4, 47], x=[6, 45])
    assert known(cut).shape == (43, 39)
    assert known(cut).centre == (21.0, 19.0)
    assert cut.truth is not None
    again = ADISequence(known(cut), dtype=torch.float64)(cut.truth)
    torch.testing.assert_close(again, cut.data, rtol=0, atol=1e-3)
    odd = crop(scan, y=[4, 48], x=[6, 45])
    assert odd.truth is None
    for y, message in (([0, 60], "no region"), ([10, 12], "no region"), ([30, 50], "star")):
        with pytest.raises(StepError, match=message):
            crop(scan, y=y, x=[0, 51])


def test_high_pass_leaves_fluxes_as_they_are() -> None:
    whole = geometry(20)
    planet = Planet(0.45, 40.0, 50.0)
    g = torch.Generator().manual_seed(0)
    sky = 1000.0 + 3 * torch.linspace(-1, 1, 51, dtype=torch.float64)[:, None]
    noise = torch.randn(20, 51, 51, generator=g, dtype=torch.float64)
    scan = Scan(sky + planet_frames(whole, [planet]) + noise, whole)
    filtered = high_pass(scan)
    assert abs(float(filtered.data.mean())) < 1.0
    psf = known(filtered).psf.values
    assert psf[8, 8] == pytest.approx(1.0)
    assert abs(psf.sum()) < 0.2 * whole.psf.values.sum()
    flux, _ = matched_filter(speckles(filtered, modes=1))
    y, x = (round(25 + v) for v in offset(450 / 27.19, 40.0))
    assert float(flux[y - 1 : y + 2, x - 1 : x + 2].max()) == pytest.approx(50.0, rel=0.05)
    for width in (0.01, 9.0):
        with pytest.raises(StepError, match="Gaussian of"):
            high_pass(scan, width=width)


@pytest.mark.parametrize("step", [centre, bad_frames, bad_pixels, high_pass])
def test_steps_that_come_too_late_are_refused(step: Any) -> None:
    prepared = speckles(Scan(steady(), geometry()), modes=2)
    with pytest.raises(StepError, match="before speckles"):
        step(prepared)
    with pytest.raises(StepError, match="before speckles"):
        crop(prepared, y=[0, 51], x=[0, 51])
    with pytest.raises(StepError, match="data are"):
        step(Scan(torch.zeros(3, 51, 51), geometry()))
