"""Power spectra of adaptive optics against published variances, and images made with them."""

import math

import pytest
import torch
from torch import Tensor

from labrecon_coronagraph.focal_masks import LyotDisc
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.long_exposure import long_exposure
from labrecon_coronagraph.propagation import Coronagraph, intensity, plane_wave
from labrecon_coronagraph.pupils import circular
from labrecon_coronagraph.residuals import AdaptiveOptics, kolmogorov

F64 = torch.float64


def system(**options: object) -> AdaptiveOptics:
    given = {"strength": 20.0, "wind": torch.tensor([0.0, 1.25], dtype=F64), "delay": 2e-3}
    return AdaptiveOptics(**(given | {"actuators": 21} | options))  # type: ignore[arg-type]


def test_variances_are_the_published_ones() -> None:
    """Fitting 0.23 (d/r0)^{5/3}, aliasing a third of it (Rigaut et al. 1998), ``d = D/20``."""
    grid = Grid.centred(400, 0.5)
    ours = system(strength=20.0)
    # Beyond the grid: ∫ of Kolmogorov's law over the outside of a square of half width F,
    # 0.2314 (2F)^{-5/3} of (D/r0)^{5/3}.
    beyond = 0.2314 * (20 / 200) ** (5 / 3)
    assert float(ours.fitting(grid).sum()) + beyond == pytest.approx(0.2314, rel=0.01)
    assert float(ours.aliasing(grid).sum()) == pytest.approx(0.08, abs=0.01)


def test_fitting_grows_as_the_five_thirds_of_the_turbulence() -> None:
    grid = Grid.centred(101, 1.0)
    weak, strong = (system(strength=s).psd(grid).sum() for s in (10.0, 20.0))
    assert float(strong / weak) == pytest.approx(2 ** (5 / 3))


def test_aliasing_is_what_a_shack_hartmann_sensor_measures() -> None:
    """A wave beyond the cutoff, its mean slopes over subapertures, their least-squares phase."""
    cutoff, fine = 10, 200
    high, k = (3.0 + 20.0, -4.0), (1, 0)
    low = (high[0] - 20 * k[0], high[1] - 20 * k[1])
    d = 1 / (2 * cutoff)
    ticks = (torch.arange(fine, dtype=F64) + 0.5) / fine * d
    wave = torch.exp(2j * math.pi * (high[0] * ticks[:, None] + high[1] * ticks))
    slopes = [2j * math.pi * f * complex(wave.mean()) for f in high]
    model = torch.exp(2j * math.pi * (low[0] * ticks[:, None] + low[1] * ticks))
    expected = [2j * math.pi * f * complex(model.mean()) for f in low]
    squares = sum(abs(e) ** 2 for e in expected)
    gain = abs(sum(e.conjugate() * s for e, s in zip(expected, slopes, strict=True)) / squares) ** 2
    grid = Grid((1, 1), 1.0, low)
    ours = float(system().aliasing(grid))
    # Of all waves that look like this one it is one; those of higher order add a part.
    alone = gain * float(kolmogorov(torch.tensor(math.hypot(*high), dtype=F64), 20.0))
    every = 0.0
    for ky in range(-3, 4):
        for kx in range(-3, 4):
            if (ky, kx) != (0, 0):
                h = (low[0] + 20 * ky, low[1] + 20 * kx)
                w = torch.exp(2j * math.pi * (h[0] * ticks[:, None] + h[1] * ticks)).mean()
                s = [2j * math.pi * f * complex(w) for f in h]
                g = sum(e.conjugate() * v for e, v in zip(expected, s, strict=True)) / squares
                law = kolmogorov(torch.tensor(math.hypot(*h), dtype=F64), 20.0)
                every += abs(g) ** 2 * float(law)
    assert ours == pytest.approx(every, rel=1e-3)
    assert alone < ours


def test_servo_lag_lies_along_the_wind() -> None:
    """Close to ``W (2πτ v·f)²``, nothing across the wind, its variance grows as the delay²."""
    grid = Grid.centred(41, 1.0)
    ours = system()
    lag = ours.servo_lag(grid)
    fy, fx = torch.broadcast_tensors(*grid.meshed())
    law = kolmogorov(torch.hypot(fy, fx), 20.0) * (2 * math.pi * 2e-3 * 1.25 * fx) ** 2
    inside = (fx.abs() < 10) & (fy.abs() < 10)
    torch.testing.assert_close(lag, law * inside, rtol=0.01, atol=0)
    assert float(lag[:, 20].max()) == 0
    assert float(lag[20, 25]) > 10 * float(lag[25, 20])
    twice = system(delay=4e-3).servo_lag(grid).sum()
    assert float(twice / lag.sum()) == pytest.approx(4, rel=0.01)


def test_parts_are_separated_by_the_cutoff() -> None:
    grid = Grid.centred(41, 1.0)
    ours = system()
    assert ours.cutoff == 10
    fitting, lag, alias = ours.fitting(grid), ours.servo_lag(grid), ours.aliasing(grid)
    assert not bool(((fitting > 0) & ((lag > 0) | (alias > 0))).any())
    psd = ours.psd(grid)
    torch.testing.assert_close(psd, fitting + lag + alias)
    torch.testing.assert_close(psd, psd.flip(0).flip(1))
    assert bool((psd >= 0).all())
    assert float(psd[20, 20]) == 0


def test_gradients_by_wind_delay_and_turbulence_are_finite_and_right() -> None:
    grid = Grid.centred(21, 1.0)
    wind = torch.tensor([0.7, 1.1], dtype=F64, requires_grad=True)
    delay = torch.tensor(2e-3, dtype=F64, requires_grad=True)
    strength = torch.tensor(15.0, dtype=F64, requires_grad=True)

    def total(wind: Tensor, delay: Tensor, strength: Tensor) -> Tensor:
        psd = AdaptiveOptics(strength, wind, delay, 13).psd(grid)
        return (psd * torch.arange(441, dtype=F64).reshape(21, 21)).sum()

    assert torch.autograd.gradcheck(total, (wind, delay, strength), eps=1e-7, rtol=1e-5)


def test_impossible_systems_are_refused() -> None:
    with pytest.raises(ValueError, match="1 actuators, expected at least 2"):
        system(actuators=1)
    with pytest.raises(ValueError, match=r"wind of shape \(3,\)"):
        system(wind=torch.zeros(3))


# -- long exposures ------------------------------------------------------------------------------


def optics(n: int = 48) -> Coronagraph:
    return Coronagraph(
        circular(n),
        LyotDisc(2.252, samples=12),
        image=Grid.centred(48, 0.7),
        lyot_stop=circular(n, diameter=0.95),
    )


def spectrum(sigma: float, grid: Grid, power: float = 2.0) -> Tensor:
    fy, fx = torch.broadcast_tensors(*grid.meshed())
    radius = torch.hypot(fy, fx)
    law = torch.where(radius > 0, radius.clamp_min(0.5) ** -power, torch.zeros_like(radius))
    return sigma**2 * law / law.sum()


def simulated(ours: Coronagraph, psd: Tensor, grid: Grid, screens: int) -> Tensor:
    """Mean image of random screens of this spectrum, each with both signs."""
    n = len(ours.pupil)
    fy, fx = torch.broadcast_tensors(*grid.meshed())
    half = (fy > 0) | ((fy == 0) & (fx > 0))
    waves = plane_wave(torch.stack([fy[half], fx[half]], -1), n)
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros(ours.image.shape, dtype=F64)
    for _ in range(screens // 20):
        drawn = torch.randn(20, int(half.sum()), dtype=torch.complex128, generator=generator)
        # Real and imaginary part have variance 1/2: φ = Re Σ 2 √W c exp(2πi f·x).
        screen = torch.tensordot(2 * psd[half].sqrt() * drawn, waves, 1).real
        for sign in (1, -1):
            wave = torch.polar(torch.ones_like(screen), sign * screen)
            total += intensity(ours.image_field(wave)).mean(0)
    return total / (screens // 20) / 2


@pytest.mark.parametrize(("sigma", "within"), [(0.1, 0.004), (0.3, 0.05)])
def test_it_is_the_mean_over_random_screens(sigma: float, within: float) -> None:
    """3 to 16 λ/D; what is left at 0.1 rad is the noise of 2 × 1000 screens."""
    ours, grid = optics(), Grid.centred(33, 1.0)
    psd = spectrum(sigma, grid)
    made = long_exposure(ours, psd, grid)
    expected = simulated(ours, psd, grid, 1000)
    y, x = ours.image.meshed()
    radius = torch.hypot(y + 0 * x, x + 0 * y)
    zone = (radius > 3) & (radius < 16)
    assert float(made[zone].sum() / expected[zone].sum()) == pytest.approx(1, abs=within)
    star = intensity(ours.image_field(torch.ones(48, 48, dtype=torch.complex128)))
    # A claim about the halo: without it the zone is much darker.
    assert float(star[zone].sum() / expected[zone].sum()) < (0.75 if sigma < 0.2 else 0.3)


def test_without_turbulence_it_is_the_static_image() -> None:
    ours, grid = optics(), Grid.centred(5, 1.0)
    wave = plane_wave(torch.tensor([0.1, 0.0], dtype=F64), 48)
    made = long_exposure(ours, torch.zeros(5, 5, dtype=F64), grid, wave=wave, wavelength=1.1)
    torch.testing.assert_close(made, intensity(ours.image_field(wave, 1.1)))


def test_all_light_is_kept_without_coronagraph() -> None:
    """``e^{−σ²} + σ²`` of it, in an image that holds all angles."""
    from labrecon_coronagraph.focal_masks import NoMask

    n = 32
    ours = Coronagraph(circular(n), NoMask(), image=Grid.centred(n, 1.0))
    grid = Grid.centred(9, 1.0)
    psd = spectrum(0.2, grid)
    still = intensity(ours.image_field(torch.ones(n, n, dtype=torch.complex128))).sum()
    made = long_exposure(ours, psd, grid).sum()
    assert float(made / still) == pytest.approx(math.exp(-0.04) + 0.04, rel=1e-12)


def test_phases_are_smaller_in_the_red() -> None:
    ours, grid = optics(), Grid.centred(9, 1.0)
    psd = spectrum(0.2, grid)
    red = long_exposure(ours, psd, grid, wavelength=1.2)
    scaled = psd / 1.44
    single = sum(
        float(scaled[i, j])
        * intensity(
            ours.image_field(
                plane_wave(torch.tensor([i - 4.0, j - 4.0], dtype=F64) * 1.2, 48, 1.2), 1.2
            )
        )
        for i in range(9)
        for j in range(9)
    )
    star = intensity(ours.image_field(torch.ones(48, 48, dtype=torch.complex128), 1.2))
    torch.testing.assert_close(red, star * math.exp(-0.04 / 1.44) + single)


def test_jitter_is_the_mean_over_pointings() -> None:
    ours, grid = optics(), Grid.centred(3, 1.0)
    made = long_exposure(ours, torch.zeros(3, 3, dtype=F64), grid, jitter=0.1)
    nodes, weights = _hermite(9)
    expected = torch.zeros_like(made)
    for y, wy in zip(nodes, weights, strict=True):
        for x, wx in zip(nodes, weights, strict=True):
            offset = torch.tensor([0.1 * y, 0.1 * x], dtype=F64)
            expected += wy * wx * ours.off_axis(offset)
    assert float((made - expected).abs().max() / expected.max()) < 3e-4
    still = long_exposure(ours, torch.zeros(3, 3, dtype=F64), grid)
    assert float((made - still).abs().max() / expected.max()) > 1e-2


def _hermite(order: int) -> tuple[list[float], list[float]]:
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    return nodes.tolist(), (weights / weights.sum()).tolist()


def test_it_is_differentiable_in_spectrum_wave_jitter_and_optics() -> None:
    n, grid = 12, Grid.centred(3, 1.0)
    stop = circular(n, diameter=0.9).requires_grad_()
    psd = (spectrum(0.2, grid) + 1e-3).requires_grad_()
    phase = 0.1 * torch.randn(n, n, dtype=F64, generator=torch.Generator().manual_seed(1))
    phase.requires_grad_()
    jitter = torch.tensor(0.1, dtype=F64, requires_grad=True)

    def image(psd: Tensor, phase: Tensor, jitter: Tensor, stop: Tensor, chunk: int = 4) -> Tensor:
        ours = Coronagraph(
            circular(n), LyotDisc(1.0, samples=4), image=Grid.centred(4, 1.0), lyot_stop=stop
        )
        wave = torch.polar(torch.ones_like(phase), phase)
        return long_exposure(ours, psd, grid, wave=wave, jitter=jitter, chunk=chunk)

    given = (psd, phase, jitter, stop)
    assert torch.autograd.gradcheck(image, given, fast_mode=True)
    pieces = torch.autograd.grad(image(*given).sum(), given)
    whole = torch.autograd.grad(image(*given, chunk=9).sum(), given)
    for piece, all_at_once in zip(pieces, whole, strict=True):
        torch.testing.assert_close(piece, all_at_once, rtol=1e-12, atol=1e-14)


def test_a_batch_of_spectra_is_one_image_each() -> None:
    ours, grid = optics(24), Grid.centred(5, 1.0)
    several = torch.stack([spectrum(0.1, grid), spectrum(0.2, grid, 1.0)])
    images = long_exposure(ours, several, grid)
    assert images.shape == (2, 48, 48)
    torch.testing.assert_close(images[1], long_exposure(ours, several[1], grid))


def test_wrong_spectra_are_refused() -> None:
    ours, grid = optics(24), Grid.centred(5, 1.0)
    with pytest.raises(ValueError, match=r"shape \(4, 5\), expected real"):
        long_exposure(ours, torch.zeros(4, 5), grid)
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="below 0 or NaN"):
            long_exposure(ours, torch.full((5, 5), bad), grid)
    for wave in (torch.ones(24, 1) + 0j, torch.ones(24, 24, dtype=torch.complex128)):
        with pytest.raises(ValueError, match=r"expected torch\.complex64 \(y, x\) = \(24, 24\)"):
            long_exposure(ours, torch.zeros(5, 5), grid, wave=wave)
