"""The star between satellite spots: places, what disturbs them, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from torch import Tensor

from labrecon import Scan
from labrecon.instrument import StepError
from labrecon_coronagraph.aberrations import waffle, zernikes
from labrecon_coronagraph.focal_masks import Vortex
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.propagation import Coronagraph
from labrecon_coronagraph.pupils import circular
from labrecon_coronagraph.spline import Spline
from labrecon_coronagraph.star_cube import airy
from labrecon_coronagraph.steps.bad_pixels import bad_pixels
from labrecon_coronagraph.steps.centre import centre
from labrecon_coronagraph.steps.satellite_spots import line_crossing

SIZE = 81
#: Separation in λ/D, and angle, of the spots of 6.4 cycles along y and along x.
SPOTS = (6.4 * math.sqrt(2), 45.0)


def geometry(**changes: Any) -> CoronagraphGeometry:
    return CoronagraphGeometry.model_validate(
        {
            "shape": (SIZE, SIZE),
            "pixel_scale": 27.19,
            "wavelength": 3.8,
            "angles": (0.0, 10.0, 20.0, 30.0),
            "centre": (40.0, 40.0),
            "psf": airy(27.19, 3.8, 8.2, 21),
            **changes,
        }
    )


def night(
    at: tuple[float, float], waffles: tuple[float, float] = (40.0, 40.0), seed: int = 0
) -> Tensor:
    """Frames of a star at (y, x) behind a vortex, waffle in nm, speckles, photons, read noise."""
    step = 1 / geometry().resolution
    pupil = circular(64)
    image = Grid((SIZE, SIZE), step, tuple(((SIZE - 1) / 2 - a) * step for a in at))  # type: ignore[arg-type]
    optics = Coronagraph(pupil, Vortex(2), image=image, lyot_stop=circular(64, diameter=0.9))
    # No tip and tilt, which move star and spots: their place would be another.
    modes = zernikes(pupil, 300)[3:]
    generator = torch.Generator().manual_seed(seed)
    falling = 1 / torch.arange(4, 301, dtype=torch.float64)

    def phases(count: int, rms: float) -> Tensor:
        drawn = falling * torch.randn(count, len(modes), generator=generator, dtype=torch.float64)
        return rms * torch.tensordot(drawn / falling.square().sum().sqrt(), modes, 1)

    known = waffle(pupil, ((6.4, 6.4, waffles[0]), (6.4, -6.4, waffles[1]))) * 2 * math.pi / 3800
    known = known + phases(1, 0.02)
    frames = [optics.images((known + phases(10, 0.2)) / (2 * math.pi)).mean((0, 1)) for _ in "1234"]
    photons = 3e5 * torch.stack(frames) / optics.peak()
    read = torch.randn(photons.shape, generator=generator, dtype=torch.float64)
    return torch.poisson(photons, generator=generator) + 10 * read


def found(scan: Scan) -> tuple[float, float]:
    assert isinstance(scan.geometry, CoronagraphGeometry)
    return scan.geometry.centre


@pytest.mark.slow
def test_the_star_is_found_to_a_twentieth_of_a_pixel() -> None:
    places = [(40.3, 39.6), (41.37, 42.21), (38.0, 40.5), (39.75, 40.25), (37.6, 42.9)]
    errors = []
    for seed, at in enumerate(places):
        # One pair fainter than the other: its light is 0.4 of the other's.
        cube = night(at, (40.0, 40.0 if seed % 2 else 25.0), seed)
        scan = centre(Scan(cube, geometry()), spots=SPOTS)
        errors.append(math.dist(found(scan), at))
        assert min(scan.steps[-1]["snr"]) > 10
        assert scan.curves
    print("errors in pixels", [round(error, 3) for error in errors])
    assert sum(errors) / len(errors) < 0.05
    assert max(errors) < 0.1


def test_header_separation_and_turn_are_the_same_to_it() -> None:
    at = (40.3, 39.6)
    told = Scan(night(at), geometry(), found={"star": "at (y, x) = (40, 40)"})
    other = centre(told, spots=(1.03 * SPOTS[0], 135.0))
    assert math.dist(found(other), at) < 0.1


def test_spots_are_no_bad_pixels() -> None:
    at = (40.8, 39.1)
    cube = night(at, (60.0, 60.0))
    cube[:, 12, 64] += 300.0  # hot, beside a spot
    scan = bad_pixels(Scan(cube, geometry()))
    places = scan.steps[-1]["places"]
    assert [12, 64] in places
    near = [place for place in places if place != [12, 64] and 1 < min(place) < SIZE - 2]
    assert not near
    assert math.dist(found(centre(scan, spots=SPOTS)), at) < 0.05


def test_what_is_beside_a_spot_does_not_lead_away() -> None:
    at = (40.3, 39.6)
    clean = night(at)
    spot = at[0] + 22.5, at[1] - 22.5
    y, x = torch.meshgrid(*2 * [torch.arange(SIZE, dtype=torch.float64)], indexing="ij")

    def with_star(dy: float, dx: float, times: float) -> Scan:
        away = torch.hypot(y - spot[0] - dy, x - spot[1] - dx)
        other = torch.exp(-4 * math.log(2) * (away / 3.6).square())
        return Scan(clean + times * float(clean[0].max()) * other, geometry())

    apart = centre(with_star(5.0, 5.0, 2.0), spots=SPOTS)
    assert math.dist(found(apart), at) < 0.1
    # As bright as the spot and upon its flank: nobody can tell, and it is told.
    upon = centre(with_star(0.0, 4.0, 3.0), spots=SPOTS)
    assert found(upon) == (40.0, 40.0)
    assert "beside one of them" in upon.steps[-1]["result"]


def test_stars_without_spots_keep_the_centre() -> None:
    scan = Scan(night((40.3, 39.6), (0.0, 0.0)), geometry())
    kept = centre(scan, spots=SPOTS)
    assert found(kept) == (40.0, 40.0)
    assert "not applicable" in kept.steps[-1]["result"]
    one = centre(Scan(night((40.3, 39.6), (40.0, 0.0)), geometry()), spots=SPOTS)
    assert "not applicable: no spot near" in one.steps[-1]["result"]
    far = centre(Scan(night((43.0, 40.0)), geometry()), spots=SPOTS, search=2.0)
    assert "edge of the search" in far.steps[-1]["result"]


def test_a_centring_exposure_in_a_file(tmp_path: Path) -> None:
    at = (40.3, 39.6)
    science = Scan(night(at, (0.0, 0.0), seed=1), geometry())
    path = tmp_path / "star_center.fits"
    fits.writeto(path, night(at).numpy())
    scan = centre(science, spots=SPOTS, file=path)
    assert math.dist(found(scan), at) < 0.05
    assert str(path) in scan.steps[-1]["source"]
    torch.testing.assert_close(scan.data, science.data)
    fits.writeto(path, night(at).numpy()[0], overwrite=True)
    assert math.dist(found(centre(science, spots=SPOTS, file=str(path))), at) < 0.15
    for values, message in (
        (np.ones((4, 60, 60)), "put crop after centre"),
        (np.full((SIZE, SIZE), np.nan), "NaN"),
    ):
        fits.writeto(path, values, overwrite=True)
        with pytest.raises(StepError, match=message):
            centre(science, spots=SPOTS, file=path)
    with pytest.raises(StepError, match="no file"):
        centre(science, spots=SPOTS, file=tmp_path / "missing.fits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spots": [9.0]}, "position angle"),
        ({"spots": [math.nan, 45.0]}, "position angle"),
        ({"spots": [-9.0, 45.0]}, "position angle"),
        ({"spots": [2.0, 45.0]}, "3 widths"),
        ({"spots": [9.0, 45.0], "search": 0.0}, "search above 0"),
        ({"spots": [14.0, 45.0]}, "larger frame"),
        ({"spots": [9.0, 45.0], "position": [40.0, 40.0]}, "position or spots"),
        ({"file": "star_center.fits"}, "say where by spots"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StepError, match=message):
        centre(Scan(torch.ones(4, SIZE, SIZE), geometry()), **options)


def test_lines_cross_wherever_on_them_the_spots_are() -> None:
    at = torch.tensor([3.0, -2.0], dtype=torch.float64)
    first, second = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)
    places = torch.stack([at + 4 * first, at + second, at - first, at - 7 * second])
    torch.testing.assert_close(line_crossing(places), at)


def test_a_spline_moves_a_sampled_star_as_its_formula() -> None:
    y, x = torch.meshgrid(*2 * [torch.arange(31, dtype=torch.float64)], indexing="ij")

    def star(y: Tensor, x: Tensor) -> Tensor:
        return torch.exp(-4 * math.log(2) * (y.square() + x.square()) / 3.5**2)

    moved = Spline(star(y - 15, x - 15))(y[5:-5, 5:-5] + 0.37, x[5:-5, 5:-5] - 0.21)
    torch.testing.assert_close(
        moved, star(y - 15 + 0.37, x - 15 - 0.21)[5:-5, 5:-5], rtol=0, atol=5e-4
    )
