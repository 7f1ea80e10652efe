"""Speckles projected out of data and model, and planets fitted to what is left."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from labrecon import Problem, Scan, solve
from labrecon.instrument import StepError
from labrecon.priors.l1 import L1
from labrecon.solvers.proximal import FISTA
from labrecon_coronagraph.adi import pca_adi
from labrecon_coronagraph.contrast import contrast_curve
from labrecon_coronagraph.derotation import derotate
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.injection import Planet, inject, planet_frames
from labrecon_coronagraph.matched_filter import matched_filter
from labrecon_coronagraph.sequence import ADISequence
from labrecon_coronagraph.sky import offset
from labrecon_coronagraph.speckles import (
    SpeckleProjection,
    annulus_labels,
    planets_without_speckles,
    temporal_modes,
)
from labrecon_coronagraph.steps.speckles import speckles


def geometry(**changes: Any) -> CoronagraphGeometry:
    at = torch.arange(13, dtype=torch.float64) - 6
    psf = torch.exp(-4 * math.log(2) * (at[:, None] ** 2 + at**2) / 3.5**2)
    return CoronagraphGeometry.model_validate(
        {
            "shape": (41, 41),
            "pixel_scale": 20.0,
            "wavelength": 2.4,
            "angles": tuple(np.linspace(0.0, 65.0, 24)),
            "centre": (20.2, 19.7),
            "psf": psf,
            **changes,
        }
    )


def starlight(known: CoronagraphGeometry, modes: int = 3, noise: float = 1.0) -> Tensor:
    """A few images that come and go at random, and noise."""
    g = torch.Generator().manual_seed(4)
    size = known.shape[0]
    at = torch.arange(size, dtype=torch.float64)
    halo = torch.exp(-torch.hypot(at[:, None] - known.centre[0], at - known.centre[1]) / 7)
    images = 60 * halo * torch.randn(modes, size, size, generator=g, dtype=torch.float64)
    courses = torch.randn(known.frames, modes, generator=g, dtype=torch.float64)
    fixed = 800 * halo + torch.einsum("tm,myx->tyx", courses, images)
    return fixed + noise * torch.randn(fixed.shape, generator=g, dtype=torch.float64)


def test_labels() -> None:
    labels = annulus_labels((11, 11), (5.0, 5.0), (2.0, 4.0, 5.0))
    assert labels[5].tolist() == [-1, 1, 0, 0, -1, -1, -1, 0, 0, 1, -1]


@pytest.mark.parametrize("count", [1, 5])
def test_the_projection_is_pca_of_the_frames(count: int) -> None:
    """Against scikit-learn: what PCA of the frames does not explain."""
    known = geometry()
    data = starlight(known)
    labels = annulus_labels(known.shape, known.centre, (3.0, 10.0, 18.0))
    projection = SpeckleProjection(labels, temporal_modes(data, labels, count))
    left = projection(data)
    for annulus in (0, 1):
        frames = data[:, labels == annulus].numpy()
        pca = PCA(count, svd_solver="full").fit(frames)
        explained = pca.inverse_transform(pca.transform(frames))
        np.testing.assert_allclose(
            left[:, labels == annulus].numpy(), frames - explained, atol=1e-8
        )
    assert not bool(left[:, labels < 0].any())


def test_it_is_a_projection() -> None:
    known = geometry()
    labels = annulus_labels(known.shape, known.centre, (3.0, 10.0, 18.0))
    projection = SpeckleProjection(labels, temporal_modes(starlight(known), labels, 4))
    g = torch.Generator().manual_seed(0)
    x, y = projection.domain.random(2, generator=g), projection.domain.random(2, generator=g)
    once = projection(x)
    torch.testing.assert_close(projection(once), once)
    assert float((once * y).sum()) == pytest.approx(float((x * projection.adjoint(y)).sum()))
    # A speckle of any image with one of the courses is gone.
    speckle = projection.modes[0, :, 2][:, None, None] * torch.randn(41, 41, generator=g)
    assert float(projection(speckle.double())[:, labels == 0].abs().max()) < 1e-12


def test_model_and_data_lose_the_same() -> None:
    known = geometry()
    prepared = speckles(Scan(starlight(known), known), modes=4)
    made = planets_without_speckles(prepared.geometry, dtype=torch.float64)
    assert isinstance(planets_without_speckles(known), ADISequence)
    x = made.domain.zeros()
    x[8, 25] = 5.0
    separation = math.hypot(8 - 20, 25 - 20) * 0.02
    angle = math.degrees(math.atan2(-5, -12))
    frames = planet_frames(known, [Planet(separation, angle, 5.0)])
    labels = annulus_labels(known.shape, known.centre, prepared.geometry.annuli)
    projection = SpeckleProjection(labels, prepared.geometry.speckles.tensor())
    torch.testing.assert_close(made(x), projection(frames), rtol=0, atol=2e-3)
    g = torch.Generator().manual_seed(0)
    x, y = made.domain.random(generator=g), made.range.random(generator=g)
    assert float((made(x) * y).sum()) == pytest.approx(float((x * made.adjoint(y)).sum()))
    assert {"angles", "centre"} == {name.rpartition(".")[2] for name in made.nuisances}


def test_the_filter_is_the_least_squares_fit_of_one_planet() -> None:
    """Against the dense formula with the columns of the operator itself."""
    known = geometry(field=(25, 25))
    prepared = speckles(Scan(starlight(known), known), modes=3, inner=3.0)
    flux, sigma = matched_filter(prepared)
    made = planets_without_speckles(prepared.geometry, dtype=torch.float64)
    for place in ((3, 12), (12, 2), (18, 17), (12, 20)):
        x = made.domain.zeros()
        x[place] = 1.0
        column = made(x)
        weights = prepared.weights / prepared.noise.sigma**2
        information = float((weights * column.square()).sum())
        fitted = float((weights * column * prepared.data).sum()) / information
        assert float(sigma[place]) == pytest.approx(information**-0.5, rel=0.06)
        assert float(flux[place]) == pytest.approx(fitted, rel=0.12, abs=0.02)


@pytest.mark.parametrize("angle", [20.0, 200.0])
def test_fluxes_are_right_where_pca_loses_them(angle: float) -> None:
    known = geometry()
    planet = Planet(0.24, angle, 6.0)
    data = inject(starlight(known), known, [planet])
    prepared = speckles(Scan(data, known), modes=6)
    flux, sigma = matched_filter(prepared)
    y, x = (round(20 + v) for v in offset(0.24 / 0.02, angle))
    near = flux[y - 1 : y + 2, x - 1 : x + 2].max()
    lost = pca_adi(data, known, modes=6)[y - 1 : y + 2, x - 1 : x + 2].max()
    assert float(near) == pytest.approx(6.0, rel=0.12)
    assert float(lost) < 0.8 * 6.0
    assert float(flux[y, x] / sigma[y, x]) > 10


def test_the_filter_keeps_what_pca_loses() -> None:
    """Throughput of injected planets, by contrast curves of both."""
    known = geometry()
    data = starlight(known)

    def pca(cube: Tensor, geometry: CoronagraphGeometry) -> Tensor:
        return pca_adi(cube, geometry, modes=6)

    def ours(cube: Tensor, geometry: CoronagraphGeometry) -> Tensor:
        return matched_filter(speckles(Scan(cube, geometry), modes=6))[0]

    separations = (0.2, 0.3)
    theirs = contrast_curve(data, known, pca, separations)
    fitted = contrast_curve(data, known, ours, separations, summed=False)
    assert fitted.throughputs == pytest.approx((1.0, 1.0), abs=0.1)
    assert max(theirs.throughputs) < 0.8
    assert all(a < b for a, b in zip(fitted.fluxes, theirs.fluxes, strict=True))


def test_noise_alone_has_the_scatter_that_is_stated() -> None:
    known = geometry()
    prepared = speckles(Scan(starlight(known), known), modes=3)
    flux, sigma = matched_filter(prepared)
    inside = annulus_labels((41, 41), (20.0, 20.0), (5.0, 17.0)) == 0
    ratio = (flux / sigma)[inside]
    assert float(ratio.std()) == pytest.approx(1.0, abs=0.15)
    assert abs(float(ratio.mean())) < 0.25


def test_weights_make_all_rings_as_noisy() -> None:
    known = geometry()
    at = torch.arange(41, dtype=torch.float64)
    radius = torch.hypot(at[:, None] - known.centre[0], at - known.centre[1])
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(24, 41, 41, generator=g, dtype=torch.float64) * (1 + 20 / (1 + radius))
    prepared = speckles(Scan(noise, known), modes=2)
    level = prepared.noise.sigma
    weighted = prepared.data * prepared.weights.sqrt()
    for inner, outer in ((5, 8), (8, 12), (12, 18)):
        ring = (radius > inner) & (radius < outer)
        # Three of 24 degrees of freedom are gone.
        scatter = float(weighted[:, ring].std()) * (24 / 21) ** 0.5
        assert scatter == pytest.approx(float(level), rel=0.08)
    assert float(prepared.weights.max()) == 1.0


def test_known_planets_do_not_bend_the_components() -> None:
    known = geometry()
    planet = Planet(0.24, 100.0, 800.0)  # brighter than the speckles
    scan = Scan(inject(starlight(known), known, [planet]), known)
    y, x = (round(20 + v) for v in offset(12.0, 100.0))
    kept = []
    for told in ((), ([0.24, 100.0, 800.0],)):
        flux, _ = matched_filter(speckles(scan, modes=5, planets=told))
        kept.append(float(flux[y - 1 : y + 2, x - 1 : x + 2].max()))
    assert kept[1] == pytest.approx(800.0, rel=0.05)
    assert abs(kept[0] - 800.0) > 0.2 * 800.0


@pytest.mark.slow
def test_fista_finds_the_planets_alone() -> None:
    known = geometry(field=(33, 33))
    planets = [Planet(0.24, 30.0, 8.0), Planet(0.28, 160.0, 12.0)]
    data = inject(starlight(known), known, planets).float()
    prepared = speckles(Scan(data, known), modes=5)
    made = planets_without_speckles(prepared.geometry)
    problem = Problem(made, prepared.data, prepared.noise, prepared.weights)
    _, sigma = matched_filter(prepared)
    # Four deviations of the filter: noise alone is hardly ever above.
    weight = 4 / sigma.clamp_min(1e-6)
    x = solve(FISTA(prior=L1(weight, nonneg=True)), problem, iterations=60).x
    for planet in planets:
        y, x_ = (16 + v for v in offset(planet.separation / 0.02, planet.position_angle))
        rows, columns = torch.meshgrid(torch.arange(33), torch.arange(33), indexing="ij")
        near = torch.hypot(rows - y, columns - x_) < 2.5
        assert float(x[near].sum()) == pytest.approx(planet.flux, rel=0.25)
        x = torch.where(near, 0.0, x)
    # Inside 3 pixels few apertures and much starlight: elsewhere nothing is left.
    away = annulus_labels((33, 33), (16.0, 16.0), (4.0, 99.0)) == 0
    assert float(x[away].sum()) < 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": 23}, "at most 22"),
        ({"modes": 22, "inner": 3.0, "outer": 5.0, "width": 0.5}, "wider annuli"),
        ({"inner": 12.0, "outer": 6.0}, "inner is less"),
        ({"width": 0.0}, "width is positive"),
        ({"planets": [[0.2, 10.0]]}, "separation in arcsec, position angle"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StepError, match=message):
        speckles(Scan(starlight(geometry()), geometry()), **options)


def test_weights_that_change_in_time_are_refused() -> None:
    known = geometry()
    data = starlight(known)
    weights = torch.ones_like(data)
    weights[3, 5, 5] = 0
    with pytest.raises(StepError, match="bad_pixels before speckles"):
        speckles(Scan(data, known, weights=weights), modes=3)
    weights[:, 5, 5] = 0
    prepared = speckles(Scan(data, known, weights=weights), modes=3)
    assert not bool(prepared.weights[..., 5, 5].any())
    with pytest.raises(StepError, match="already"):
        speckles(prepared, modes=3)
    with pytest.raises(ValueError, match="step speckles"):
        matched_filter(Scan(data, known))


def test_derotation_against_scipy() -> None:
    from scipy import ndimage

    known = geometry(shape=(41, 41), centre=(20.0, 20.0), angles=(35.0, -110.0))
    smooth = planet_frames(known, [Planet(0.2, 50.0, 1.0), Planet(0.1, 170.0, 0.7)])
    expected = [
        ndimage.rotate(f, -a, reshape=False, order=5)
        for f, a in zip(smooth.numpy(), known.angles, strict=True)
    ]
    turned = derotate(smooth, known)
    np.testing.assert_allclose(turned.numpy(), np.stack(expected), atol=2.5e-2)
    # Both frames show the same sky.
    torch.testing.assert_close(turned[0], turned[1], rtol=0, atol=2.5e-2)
