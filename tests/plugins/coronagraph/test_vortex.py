"""The vortex against HCIPy, against an integral without grids, and against theory."""

import math

import hcipy
import numpy as np
import pytest
import torch
from torch import Tensor

import labrecon_coronagraph.vortex
from labrecon_coronagraph.focal_masks import Vortex
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.propagation import Coronagraph, intensity, plane_wave
from labrecon_coronagraph.pupils import circular, vlt
from labrecon_coronagraph.vortex import _kernel

N = 256


def of_hcipy(ours: Coronagraph, charge: int, wave: Tensor) -> tuple[Tensor, Tensor]:
    """Lyot field and image of HCIPy's coronagraph."""
    n = len(ours.pupil)
    grid = hcipy.make_pupil_grid(n, 1)
    stop = hcipy.Field(ours.lyot_stop.numpy().ravel(), grid)
    entered = hcipy.Field((wave * ours.pupil).numpy().ravel(), grid)
    behind = hcipy.VortexCoronagraph(grid, charge, stop)(hcipy.Wavefront(entered, 1))
    m, step = ours.image.shape[0], ours.image.step
    corner = [-step * (m - 1) / 2] * 2
    focal = hcipy.CartesianGrid(hcipy.RegularCoords([step, step], [m, m], corner))
    seen = hcipy.FraunhoferPropagator(grid, focal)(behind).intensity
    return (
        torch.from_numpy(np.asarray(behind.electric_field).reshape(n, n)),
        torch.from_numpy(np.asarray(seen).reshape(m, m)),
    )


@pytest.mark.parametrize(("charge", "null"), [(2, 1.3e-10), (4, 3.7e-10)])
def test_the_star_on_the_axis_is_as_dark_as_in_hcipy(charge: int, null: float) -> None:
    """Round pupil of 256 samples, Lyot stop of 95 %; relative to the star without mask."""
    ours = Coronagraph(
        circular(N),
        Vortex(charge),
        image=Grid.centred(128, 0.25),
        lyot_stop=circular(N, diameter=0.95),
    )
    star = torch.ones(N, N, dtype=torch.complex128)
    peak = ours.peak()
    image = intensity(ours.image_field(star)) / peak
    _, theirs = of_hcipy(ours, charge, star)
    assert float((image - theirs / peak).abs().max()) < 0.15 * null
    # HCIPy samples the outer field twice per λ/D, here it is four times.
    assert float(image.max()) == pytest.approx(null, rel=0.1)


@pytest.mark.parametrize("charge", [2, -2, 6])
def test_fields_are_those_of_hcipy(charge: int) -> None:
    """A planet, behind a pupil with spiders; the difference is HCIPy's sampling far out."""
    ours = Coronagraph(vlt(128), Vortex(charge), image=Grid.centred(64, 0.5))
    wave = plane_wave(torch.tensor([-1.0, 2.6], dtype=torch.float64), 128)
    field = ours.lyot_field(wave)
    theirs, image = of_hcipy(ours, charge, wave)
    assert float((field - theirs).norm() / theirs.norm()) < 4e-3
    seen = intensity(ours.image_field(wave))
    assert float((seen - image).abs().max() / image.max()) < 1e-4


@pytest.mark.parametrize("charge", [2, 4, 8])
def test_its_kernel_is_that_of_an_integral_without_grids(
    charge: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``∫ exp(ilθ) exp(2πiu·d) du`` over the square, radial part in closed form, by angles."""
    n = 8
    theta = (np.arange(40_000) + 0.5) * 2 * np.pi / 40_000
    edge = n / 2 / np.maximum(np.abs(np.cos(theta)), np.abs(np.sin(theta)))
    kernel = _kernel(charge, n)
    monkeypatch.setattr(labrecon_coronagraph.vortex, "FIELD_SAMPLES", 16)
    finer = _kernel(charge, n)
    assert kernel.shape == (2 * n, 2 * n)
    for iy, ix in ((n, n), (n, n + 1), (n - 2, n + 3), (n + 5, n - 4), (n - 7, n)):
        a = 2 * np.pi * ((iy - n) / n * np.sin(theta) + (ix - n) / n * np.cos(theta))
        small = np.abs(a) * edge < 1e-4
        safe = np.where(small, 1.0, a)
        radial = (np.exp(1j * safe * edge) * (1 - 1j * safe * edge) - 1) / safe**2
        radial = np.where(small, edge**2 / 2 + 1j * a * edge**3 / 3, radial)
        expected = (np.exp(1j * charge * theta) * radial).mean() * 2 * np.pi / n**2
        # Where the square cuts the vortex, four samples per λ/D leave this much; it falls with
        # the square of their number.
        assert abs(complex(kernel[iy, ix]) - expected) < 1.5e-3
        assert abs(complex(finer[iy, ix]) - expected) < 1e-4


def test_inside_a_round_pupil_nothing_is_left_outside_it_the_ring_of_theory() -> None:
    """Charge 2 puts ``−(R/r)² exp(2iθ)`` outside the pupil and 0 inside (Mawet et al. 2005)."""
    n = 256
    small = circular(n, diameter=0.5)
    ours = Coronagraph(
        small, Vortex(2), image=Grid.centred(8, 1.0), lyot_stop=torch.ones(n, n).double()
    )
    field = ours.lyot_field(torch.ones(n, n, dtype=torch.complex128))
    y, x = Grid.pupil(n).meshed()
    radius, angle = torch.hypot(y + 0 * x, x + 0 * y), torch.atan2(y + 0 * x, x + 0 * y)
    assert float(field[radius < 0.2].abs().max()) < 0.02
    assert float(field[radius < 0.24].abs().mean()) < 6e-3
    outside = (radius > 0.27) & (radius < 0.48)
    expected = -torch.polar((0.25 / radius) ** 2, 2 * angle)
    assert float((field - expected)[outside].abs().mean()) < 2e-3


def test_a_planet_near_the_axis_fades_as_theory_says() -> None:
    """Charge 2 passes ``(πα)²/8`` of the light of a small tilt ``α`` (Huby et al. 2015)."""
    n = 128
    ours = Coronagraph(circular(n), Vortex(2), image=Grid.centred(8, 1.0))
    entered = float((ours.pupil**2).sum())
    for alpha in (0.03, 0.06):
        wave = plane_wave(torch.tensor([0.0, alpha], dtype=torch.float64), n)
        dark = ours.lyot_field(torch.ones_like(wave))
        left = float(intensity(ours.lyot_field(wave) - dark).sum()) / entered
        assert left == pytest.approx((math.pi * alpha) ** 2 / 8, rel=0.03)


def test_single_precision_and_gradients() -> None:
    ours = Coronagraph(circular(32), Vortex(2), image=Grid.centred(8, 1.0))
    wave = plane_wave(torch.tensor([0.4, 1.0], dtype=torch.float64), 32)
    rough = ours.image_field(wave.to(torch.complex64))
    assert rough.dtype is torch.complex64
    exact = ours.image_field(wave)
    assert float((rough - exact).abs().max() / exact.abs().max()) < 1e-5
    offset = torch.tensor([0.1, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours.off_axis, offset)
