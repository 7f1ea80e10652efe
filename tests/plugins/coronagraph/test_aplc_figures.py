"""An apodized-pupil Lyot coronagraph at a very large telescope: its figures, measured elsewhere.

The set-up of the figures (section 4 of the notes on physics): VLT UT3 with spiders, 256 samples;
mask of 185 mas, radius 2.252 λ/D; prolate apodizer of the pupil without spiders, obscuration 0.14,
``Λ0 = 0.975``; Lyot stop 0.2 D to 0.96 D with spiders four times as wide; image with 4 samples per
λ/D; contrasts are means over rings of ± 0.5 λ/D. They were found with other code, to two digits.
"""

import pytest
import torch
from torch import Tensor

import labrecon_coronagraph.pupils
from labrecon_coronagraph.apodizer import prolate
from labrecon_coronagraph.focal_masks import LyotDisc, NoMask
from labrecon_coronagraph.fourier import Grid, MatrixFourier
from labrecon_coronagraph.propagation import Coronagraph, intensity, plane_wave
from labrecon_coronagraph.pupils import circular, vlt

F64 = torch.float64
RADII = (3, 5, 8, 12)
MASK = LyotDisc(2.252)


def lyot_stop(n: int) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labrecon_coronagraph.pupils, "_SPIDER_WIDTH", 0.16)
        return vlt(n) * circular(n, 0.2, diameter=0.96)


def aplc(n: int) -> Coronagraph:
    apodizer, eigenvalue = prolate(circular(n, 0.14), MASK)
    assert eigenvalue == pytest.approx(0.975, abs=5e-4)
    image = Grid.centred(108, 0.25)
    return Coronagraph(vlt(n), MASK, image=image, apodizer=apodizer, lyot_stop=lyot_stop(n))


@pytest.fixture(scope="module")
def ours() -> Coronagraph:
    return aplc(256)


def star(n: int = 256) -> Tensor:
    return torch.ones(n, n, dtype=torch.complex128)


def rings(optics: Coronagraph, image: Tensor) -> list[float]:
    y, x = optics.image.meshed()
    radius = torch.hypot(y + 0 * x, x + 0 * y)
    return [float(image[(radius - r).abs() < 0.5].mean()) for r in RADII]


def contrast(optics: Coronagraph, wave: Tensor, wavelength: float = 1.0) -> list[float]:
    image = intensity(optics.image_field(wave, wavelength)) / optics.peak(wavelength)
    return rings(optics, image)


def close(found: list[float], expected: list[float], within: float) -> None:
    assert found == pytest.approx(expected, rel=within), [f"{value:.3g}" for value in found]


def test_classical_coronagraph(ours: Coronagraph) -> None:
    """Two digits were given: half of the last is up to 5 %, and all agree to it."""
    classical = ours.replaced(apodizer=torch.ones(256, 256, dtype=F64))
    found = contrast(classical, star())
    assert [f"{value:.1e}" for value in found] == ["5.2e-04", "5.0e-05", "1.2e-05", "1.0e-05"]


def test_apodized_coronagraph(ours: Coronagraph) -> None:
    """Given were 5.6e-7, 2.4e-7, 1.3e-7, 8.9e-8, of an apodizer that had not converged.

    With three steps of power iteration ours is within 5 % of them; the eigenfunction has these.
    """
    close(contrast(ours, star()), [7.58e-7, 2.23e-7, 1.25e-7, 8.08e-8], 0.01)
    pupil = circular(256, 0.14)
    transform, blocked = MatrixFourier(Grid.pupil(256), MASK.grid), MASK.blocked()
    early = (pupil > 0).double()
    for _ in range(3):
        early = transform.backward(transform.forward(pupil * early + 0j) * blocked).real
        early = early * (pupil > 0) / early.max()
    found = contrast(ours.replaced(apodizer=early), star())
    close(found, [5.6e-7, 2.4e-7, 1.3e-7, 8.9e-8], 0.055)


def test_energy_that_the_apodizer_passes(ours: Coronagraph) -> None:
    pupil = circular(256, 0.14)
    passed = float((ours.apodizer.square() * pupil).sum() / pupil.sum())
    assert passed == pytest.approx(0.56, abs=0.005)


@pytest.mark.parametrize(
    ("offset", "passed"), [(2.25, 0.34), (2.5, 0.57), (3.0, 0.88), (4.0, 0.97)]
)
def test_planets_off_the_axis(ours: Coronagraph, offset: float, passed: float) -> None:
    """Light in a core of radius 0.7 λ/D, relative to the same without mask."""
    core = Coronagraph(
        ours.pupil,
        MASK,
        image=Grid((61, 61), 0.05, (0.0, offset)),
        apodizer=ours.apodizer,
        lyot_stop=ours.lyot_stop,
    )
    y, x = core.image.meshed()
    inside = torch.hypot(y + 0 * x, x - offset + 0 * y) <= 0.7
    place = torch.tensor([0.0, offset], dtype=F64)
    seen, clear = (optics.off_axis(place) for optics in (core, core.replaced(mask=NoMask())))
    assert float(seen[inside].sum() / clear[inside].sum()) == pytest.approx(passed, abs=0.006)


@pytest.mark.parametrize(("tilt", "expected"), [(0.1, 7.8e-6), (0.2, 3.3e-5)])
def test_a_tilt_lets_light_through(ours: Coronagraph, tilt: float, expected: float) -> None:
    wave = plane_wave(torch.tensor([0.0, tilt], dtype=F64), 256)
    assert contrast(ours, wave)[0] == pytest.approx(expected, rel=0.03)


def test_a_small_tilt_adds_to_what_is_there(ours: Coronagraph) -> None:
    """Given 2.3e-6 beside 5.6e-7 without tilt; the difference is that of the tilt alone."""
    wave = plane_wave(torch.tensor([0.0, 0.05], dtype=F64), 256)
    added = contrast(ours, wave)[0] - contrast(ours, star())[0]
    assert added == pytest.approx(2.3e-6 - 5.6e-7, rel=0.04)


@pytest.mark.parametrize(("shift", "expected"), [(3, 4e-6), (5, 7e-6)])
def test_a_shift_of_the_lyot_stop(ours: Coronagraph, shift: int, expected: float) -> None:
    """By 1.2 and 2 % of the diameter; 0.4 % does nothing."""
    moved = ours.replaced(lyot_stop=ours.lyot_stop.roll(shift, 1))
    assert contrast(moved, star())[0] == pytest.approx(expected, rel=0.12)
    little = ours.replaced(lyot_stop=ours.lyot_stop.roll(1, 1))
    close(contrast(little, star()), contrast(ours, star()), 0.01)


@pytest.mark.parametrize(("nanometres", "expected"), [(5, 3.3e-6), (10, 1.1e-5), (50, 2.7e-4)])
def test_aberrations_lift_all_radii(ours: Coronagraph, nanometres: float, expected: float) -> None:
    """Amplitudes that fall as ``f^{−1.25}``, in H2; one draw was given, so within a factor of 2."""
    f = torch.fft.fftfreq(256, 1 / 256, dtype=F64)
    radius = torch.hypot(f[:, None], f)
    fall = torch.where(radius > 0, radius.clamp_min(1) ** -1.25, torch.zeros_like(radius))
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(6, 256, 256, dtype=torch.complex128, generator=generator)
    opd = torch.fft.ifft2(drawn * fall).real
    weight = ours.pupil / ours.pupil.sum()
    opd = opd - (opd * weight).sum((-2, -1), keepdim=True)
    opd = opd / (opd.square() * weight).sum((-2, -1), keepdim=True).sqrt()
    image = ours.images(opd * nanometres / 1593)[:, 0].mean(0) / ours.peak()
    found = rings(ours, image)
    assert expected / 2 < found[0] < expected * 2
    ideal = contrast(ours, star())
    assert all(high > 1.3 * low for high, low in zip(found, ideal, strict=True))


def test_a_band_of_3_percent(ours: Coronagraph) -> None:
    """The contrast at 3 λ/D doubles, elsewhere it grows by several percent (H2: 52 nm)."""
    edges = torch.linspace(1 - 0.0163, 1 + 0.0163, 5).tolist()
    every = torch.tensor([contrast(ours, star(), wavelength) for wavelength in edges])
    growth = every.mean(0) / torch.tensor(contrast(ours, star()))
    assert 1.9 < float(growth[0]) < 2.3
    assert bool(((growth[1:] > 1.02) & (growth[1:] < 1.12)).all())


@pytest.mark.slow
def test_samples_of_the_pupil() -> None:
    """Against 1024 samples: 2.8, 0.58 and 0.12 % were given for 128, 256, 512; the worst ring."""

    def classical(n: int) -> list[float]:
        image = Grid.centred(108, 0.25)
        return contrast(Coronagraph(vlt(n), MASK, image=image, lyot_stop=lyot_stop(n)), star(n))

    finest = classical(1024)
    for n, worst in ((128, 0.028), (256, 0.0058), (512, 0.0012)):
        found = max(abs(a / b - 1) for a, b in zip(classical(n), finest, strict=True))
        assert found == pytest.approx(worst, rel=0.25)


def test_samples_of_the_mask(ours: Coronagraph) -> None:
    """20 per λ/D are enough: twice as many change no ring by 1 %."""
    classical = ours.replaced(apodizer=torch.ones(256, 256, dtype=F64))
    finer = classical.replaced(mask=LyotDisc(2.252, samples=40))
    close(contrast(classical, star()), contrast(finer, star()), 0.01)
