"""Signal to noise, detections, contrast curves and ROC of reductions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from labrecon_coronagraph.adi import median_adi, pca_adi
from labrecon_coronagraph.apertures import aperture_sums, full_width, ring
from labrecon_coronagraph.contrast import contrast_curve, threshold
from labrecon_coronagraph.detection import detections, false_alarm, signal_to_noise, snr_map
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.injection import Planet, inject
from labrecon_coronagraph.roc import receiver_operating_characteristic
from labrecon_coronagraph.sky import offset

WIDTH = 4.0


def gaussian(size: int = 15, width: float = WIDTH) -> Tensor:
    at = torch.arange(size, dtype=torch.float64) - size // 2
    return torch.exp(-4 * math.log(2) * (at[:, None] ** 2 + at**2) / width**2)


def sequence(frames: int = 20, size: int = 61, span: float = 70.0) -> CoronagraphGeometry:
    return CoronagraphGeometry.model_validate(
        {
            "shape": (size, size),
            "pixel_scale": 20.0,
            "wavelength": 3.8,
            "angles": tuple(np.linspace(-30.0, span - 30.0, frames)),
            "centre": (size // 2 + 0.3, size // 2 - 0.2),
            "psf": gaussian(),
            "star_flux": 1e5,
        }
    )


def starlight(geometry: CoronagraphGeometry, seed: int = 0) -> Tensor:
    """A halo that breathes, speckles that stay, and noise."""
    g = torch.Generator().manual_seed(seed)
    size, frames = geometry.shape[0], geometry.frames
    at = torch.arange(size, dtype=torch.float64)
    r = torch.hypot(at[:, None] - geometry.centre[0], at - geometry.centre[1])
    halo = 400 * torch.exp(-r / 8)
    fixed = torch.randn(size, size, generator=g, dtype=torch.float64)
    fixed = aperture_sums(fixed, WIDTH) / WIDTH
    strength = 1 + 0.05 * torch.randn(frames, 1, 1, generator=g, dtype=torch.float64)
    noise = torch.randn(frames, size, size, generator=g, dtype=torch.float64)
    return strength * halo * (1 + 0.3 * fixed) + 3.0 * noise


def test_the_width_of_a_gaussian() -> None:
    assert full_width(gaussian(21, 4.3)) == pytest.approx(4.3, rel=0.01)


def test_aperture_sums() -> None:
    flat = aperture_sums(torch.ones(31, 31, dtype=torch.float64), 5.0)
    assert float(flat[15, 15]) == pytest.approx(math.pi * 2.5**2, rel=2e-3)
    point = torch.zeros(31, 31, dtype=torch.float64)
    point[10, 20] = 1.0
    sums = aperture_sums(point, 5.0)
    assert float(sums[10, 20]) == pytest.approx(1.0)
    assert float(sums[10, 24]) == pytest.approx(0.0, abs=1e-12)


def test_apertures_lie_side_by_side() -> None:
    y, x, exists = ring(torch.tensor([0.0, 3.0]), torch.tensor([10.0, 4.0]), 4.0)
    assert exists.sum(1).tolist() == [14, 6]  # floor(2 pi r / d) - 1
    far = torch.hypot(y, x)[exists]
    assert float((far - 10).abs().minimum((far - 5).abs()).max()) < 1e-5
    places = torch.stack([torch.cat([torch.tensor([0.0]), y[0, :14]]),
                          torch.cat([torch.tensor([10.0]), x[0, :14]])], 1)  # fmt: skip
    apart = torch.cdist(places, places) + 99 * torch.eye(15)
    assert float(apart.min()) > 4.0 * 0.97  # chords are a little shorter than arcs


def test_signal_to_noise_by_hand() -> None:
    """Values set where the apertures are, the t statistic of Mawet et al. 2014 by NumPy."""
    image = torch.zeros(61, 61, dtype=torch.float64)
    rng = np.random.default_rng(0)
    count = math.floor(2 * math.pi * 20 / 20.0)  # 6
    values = rng.normal(size=count)
    values[0] = 9.0
    for k, value in enumerate(values):
        angle = 2 * math.pi * k / count
        y, x = 20 * math.sin(angle), 20 * math.cos(angle)
        yy, xx = np.mgrid[:61, :61] - 30
        image += torch.from_numpy(value * (np.hypot(yy - y, xx - x) < 5))
    t, excess, scatter, n = signal_to_noise(
        image, torch.tensor([0.0]), torch.tensor([20.0]), 20.0, summed=False
    )
    others = values[1:]
    assert int(n) == 5
    assert float(scatter) == pytest.approx(others.std(ddof=1), rel=1e-6)
    assert float(excess) == pytest.approx(9.0 - others.mean(), rel=1e-6)
    assert float(t) == pytest.approx(
        (9.0 - others.mean()) / (others.std(ddof=1) * math.sqrt(1 + 1 / 5)), rel=1e-6
    )
    # The same as the two-sample test of Student with a single sample on one side.
    assert float(t) == pytest.approx(
        stats.ttest_ind([9.0], others, equal_var=True).statistic, rel=1e-6
    )


@pytest.mark.slow
def test_false_alarms_of_noise_are_as_many_as_the_t_statistic_says() -> None:
    """At 2 λ/D, with 11 other apertures, the Gaussian law would be wrong by a factor of four."""
    g = torch.Generator().manual_seed(3)
    trials = 4000
    y, x = torch.tensor([0.0]), torch.tensor([8.0])
    values = []
    for _ in range(trials // 4):
        image = torch.randn(31, 31, generator=g, dtype=torch.float64)
        for sign_y, sign_x in ((y, x), (x, y), (y, -x), (-x, y)):
            values.append(float(signal_to_noise(image, sign_y, sign_x, WIDTH)[0]))
    t = torch.tensor(values)
    n = math.floor(2 * math.pi * 8 / WIDTH) - 1
    level = float(stats.t.isf(0.01, n - 1))
    hits = int((t > level).sum())
    assert false_alarm(level, n) == pytest.approx(0.01)
    # 40 are expected; those of one image are a little correlated.
    assert 22 < hits < 62
    gaussian_level = float(stats.norm.isf(0.01))
    assert int((t > gaussian_level).sum()) > 1.4 * hits


def test_no_number_where_there_is_no_noise_to_tell() -> None:
    image = torch.randn(31, 31, generator=torch.Generator().manual_seed(0))
    t = snr_map(image, WIDTH)
    assert torch.isnan(t[15, 15])
    assert torch.isnan(t[15, 17])  # three apertures, two beside the source's
    assert torch.isfinite(t[15, 23])
    assert torch.isnan(t[0, 0])


def test_the_threshold_grows_with_few_apertures() -> None:
    assert threshold(5.0, 10**7) == pytest.approx(5.0, abs=1e-3)
    assert stats.t.sf(threshold(5.0, 8), 6) == pytest.approx(stats.norm.sf(5.0), rel=1e-6)


@pytest.mark.parametrize("angle", [0.0, 130.0, 275.0])
@pytest.mark.parametrize("reduction", ["median", "pca"])
def test_an_injected_planet_is_found_where_it_was_put(angle: float, reduction: str) -> None:
    known = sequence()
    data = inject(starlight(known), known, [Planet(0.36, angle, 30.0)])

    def reduce(geometry: CoronagraphGeometry) -> Tensor:
        if reduction == "median":
            return median_adi(data, geometry)
        return pca_adi(data, geometry, modes=1)

    found = detections(reduce(known), WIDTH, 20.0)
    assert len(found) == 1
    assert found[0].separation == pytest.approx(0.36, abs=0.006)
    assert (found[0].position_angle - angle + 180) % 360 - 180 == pytest.approx(0, abs=1.0)
    wrong = known.changed(angles=tuple(-a for a in known.angles))
    assert detections(reduce(wrong), WIDTH, 20.0) == []


def test_planets_at_the_contrast_curve_are_detected_at_five_sigma() -> None:
    known = sequence(frames=24)
    data = starlight(known, 5)

    def reduce(cube: Tensor, geometry: CoronagraphGeometry) -> Tensor:
        return pca_adi(cube, geometry, modes=3)

    curve = contrast_curve(data, known, reduce, (0.24, 0.36, 0.46))
    assert curve.contrasts == tuple(flux / 1e5 for flux in curve.fluxes)
    assert all(0.2 < part < 1.05 for part in curve.throughputs)
    assert curve.fluxes[0] > curve.fluxes[-1]
    for separation, flux in zip(curve.separations, curve.fluxes, strict=True):
        significance = []
        for angle in range(15, 375, 45):
            image = reduce(inject(data, known, [Planet(separation, angle, flux)]), known)
            at = (torch.tensor([v]) for v in offset(separation / 0.02, float(angle)))
            t, _, _, n = signal_to_noise(image, *at, WIDTH)
            significance.append(stats.norm.isf(false_alarm(float(t), int(n))))
        assert np.mean(significance) == pytest.approx(5.0, abs=0.5)


def test_a_curve_where_nothing_can_be_told_is_refused() -> None:
    known = sequence(frames=5)
    data = starlight(known)
    for separation in (0.02, 0.7):
        with pytest.raises(ValueError, match="no noise can be told"):
            contrast_curve(data, known, median_adi, (separation,))


def test_roc_of_pca_is_above_that_of_median_adi() -> None:
    known = sequence(frames=16)
    data = starlight(known, 7)
    areas = {}
    for name, reduce in (
        ("median", median_adi),
        ("pca", lambda cube, geometry: pca_adi(cube, geometry, modes=3)),
    ):
        found = receiver_operating_characteristic(
            data, known, reduce, flux=10.0, separations=(0.2, 0.45), trials=20,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        true, false = found.rates(torch.tensor([-99.0, 2.0, 99.0], dtype=torch.float64))
        assert true[0] == false[0] == 1
        assert true[2] == false[2] == 0
        areas[name] = found.area
    assert areas["pca"] >= areas["median"] > 0.5
