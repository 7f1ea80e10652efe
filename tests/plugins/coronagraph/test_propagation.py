"""The coronagraph against HCIPy, against energy and finite differences, and in chunks."""

import math
from typing import Any

import hcipy
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from labrecon_coronagraph.apodizer import prolate
from labrecon_coronagraph.focal_masks import FocalMask, LyotDisc, NoMask, Vortex
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.propagation import Coronagraph, intensity, plane_wave
from labrecon_coronagraph.pupils import circular, vlt

F64, C128 = torch.float64, torch.complex128
#: Of the 185 mas mask of SPHERE, in H2.
RADIUS = 2.252


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = C128) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def optics(n: int = 32, mask: FocalMask | None = None, **options: Any) -> Coronagraph:
    image = options.pop("image", Grid.centred(24, 0.5))
    return Coronagraph(circular(n), mask or LyotDisc(1.5, samples=8), image=image, **options)


def flat(n: int, dtype: torch.dtype = C128) -> Tensor:
    return torch.ones(n, n, dtype=dtype)


class OfHCIPy:
    """A coronagraph of HCIPy on the same samples of all planes."""

    def __init__(self, ours: Coronagraph) -> None:
        assert isinstance(ours.mask, LyotDisc)
        self.ours, self.n = ours, len(ours.pupil)
        self.grid = hcipy.make_pupil_grid(self.n, 1)
        mask, image = self._plane(ours.mask.grid), self._plane(ours.image)
        clear = hcipy.Field(1 - ours.mask.blocked().numpy().ravel(), mask)
        self.lyot = hcipy.LyotCoronagraph(self.grid, clear, self._field(ours.lyot_stop))
        self.camera = hcipy.FraunhoferPropagator(self.grid, image)

    def _plane(self, grid: Grid) -> Any:
        (rows, columns), step = grid.shape, grid.step
        corner = [-step * (columns - 1) / 2, -step * (rows - 1) / 2]
        return hcipy.CartesianGrid(hcipy.RegularCoords([step, step], [columns, rows], corner))

    def _field(self, values: Tensor) -> Any:
        return hcipy.Field(values.numpy().ravel(), self.grid)

    def image(self, wave: Tensor, wavelength: float = 1.0) -> Tensor:
        """HCIPy's focal planes are at fixed angles for all wavelengths, as ours."""
        entered = self._field(wave * self.ours.pupil * self.ours.apodizer)
        seen = self.camera(self.lyot(hcipy.Wavefront(entered, wavelength)))
        # Its Fraunhofer field is in units of the image plane: 1/λ, the light per area.
        found = np.asarray(seen.intensity).reshape(self.ours.image.shape)
        return torch.from_numpy(found) * wavelength**2


def aberrated(n: int) -> Tensor:
    phase = 0.3 * normal(n, n, seed=4, dtype=F64)
    return torch.polar(torch.ones_like(phase), phase)


@pytest.mark.parametrize("wavelength", [1.0, 1.04])
@pytest.mark.parametrize("kind", ["classical", "apodized"])
def test_images_are_those_of_hcipy(kind: str, wavelength: float) -> None:
    """Classical Lyot behind a round pupil; apodized, VLT with spiders, star and aberrated star."""
    n, mask, image = 128, LyotDisc(RADIUS), Grid.centred(100, 0.25)
    if kind == "classical":
        ours = Coronagraph(circular(n), mask, image=image, lyot_stop=circular(n, diameter=0.95))
    else:
        apodizer, _ = prolate(vlt(n, spiders=False), mask)
        stop = vlt(n) * circular(n, 0.2, diameter=0.96)
        ours = Coronagraph(vlt(n), mask, image=image, apodizer=apodizer, lyot_stop=stop)
    theirs = OfHCIPy(ours)
    y, x = image.meshed()
    ring = torch.hypot(y + 0 * x, x + 0 * y)
    ring = (ring >= 3) & (ring <= 12)
    for wave in (flat(n), aberrated(n)):
        expected = theirs.image(wave, wavelength)
        found = intensity(ours.image_field(wave, wavelength))
        assert float((found / expected - 1)[ring].abs().max()) < 1e-9
        assert float((found - expected).abs().max()) < 1e-12 * float(ours.peak(wavelength))
    rough = intensity(ours.image_field(aberrated(n).to(torch.complex64), wavelength))
    assert rough.dtype is torch.float32
    bright = ring & (expected > 1e-2 * expected[ring].mean())
    assert float((rough / expected - 1)[bright].abs().max()) < 1e-3


@pytest.mark.parametrize("mask", [LyotDisc(1.5, samples=8), Vortex(2), NoMask()])
def test_it_is_linear_and_its_derivative_is_its_adjoint(mask: FocalMask) -> None:
    ours = optics(mask=mask, apodizer=normal(32, 32, seed=9))
    wave, image = normal(2, 32, 32), normal(2, 24, 24, seed=1)
    single = ours.image_field(wave[0])
    torch.testing.assert_close(ours.image_field(wave)[0], single)
    torch.testing.assert_close(ours.image_field(2j * wave)[0], 2j * single)
    wave.requires_grad_()
    (pulled,) = torch.autograd.grad(ours.image_field(wave), wave, image)
    left = torch.vdot(image.flatten(), ours.image_field(wave.detach()).flatten())
    right = torch.vdot(pulled.flatten(), wave.detach().flatten())
    assert abs(complex(left - right)) < 1e-12 * abs(complex(left))


def test_a_stop_adds_no_light() -> None:
    """Parseval: what an opaque disc lets through is at most what came in, for any wave."""
    n = 64
    ours = Coronagraph(
        circular(n), LyotDisc(2.0), image=Grid.centred(8, 1.0), lyot_stop=torch.ones(n, n).double()
    )
    # A pupil in a wider empty plane sees all of the light that goes beside it.
    for wave in (flat(n), aberrated(n), plane_wave(torch.tensor([0.0, 1.3], dtype=F64), n)):
        entered = float(intensity(wave * ours.pupil).sum())
        behind = float(intensity(ours.lyot_field(wave)).sum())
        assert 0.01 * entered < behind < entered


def test_nothing_in_the_way_is_airys_pattern() -> None:
    """``|2 J1(πr)/(πr)|²`` of the peak, behind an open Lyot plane."""
    from scipy.special import j1

    stop = torch.ones(256, 256, dtype=F64)
    ours = optics(256, NoMask(), image=Grid.centred(40, 0.3), lyot_stop=stop)
    image = intensity(ours.image_field(flat(256))) / ours.peak()
    y, x = ours.image.meshed()
    r = math.pi * torch.hypot(y + 0 * x, x + 0 * y)
    expected = (2 * torch.from_numpy(j1(r.numpy())) / r).square()
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)
    assert float(ours.peak()) == pytest.approx((math.pi / 4) ** 2, rel=1e-3)


def test_a_star_off_the_axis_is_where_it_is() -> None:
    """Along (y, x) in λ0/D, at every wavelength."""
    ours = optics(64, NoMask(), image=Grid.centred(41, 0.25))
    offset = torch.tensor([[1.5, -3.0], [0.0, 2.0]], dtype=F64)
    for wavelength in (1.0, 1.1):
        images = ours.off_axis(offset, wavelength)
        for image, (y, x) in zip(images, offset.tolist(), strict=True):
            brightest = divmod(int(image.argmax()), 41)
            assert brightest == (20 + round(y / 0.25), 20 + round(x / 0.25))
            assert float(image.max()) == pytest.approx(float(ours.peak(wavelength)), rel=1e-9)


def test_images_are_those_of_fields_at_each_wavelength() -> None:
    ours = optics(wavelengths=(0.95, 1.0, 1.05))
    opd = 0.1 * normal(2, 3, 32, 32, dtype=F64)
    images = ours.images(opd, chunk=4)
    assert images.shape == (2, 3, 3, 24, 24)
    for k, wavelength in enumerate(ours.wavelengths):
        wave = (2j * math.pi * opd[1, 2] / wavelength).exp()
        torch.testing.assert_close(images[1, 2, k], intensity(ours.image_field(wave, wavelength)))


def test_chunks_change_neither_values_nor_gradients() -> None:
    apodizer = nn.Parameter(normal(32, 32, seed=2, dtype=F64).abs())
    stop = (circular(32) + 0j).requires_grad_()
    ours = optics(apodizer=apodizer, lyot_stop=stop, wavelengths=(1.0, 1.1))
    assert [name for name, _ in ours.named_parameters()] == ["apodizer"]
    opd = (0.1 * normal(5, 32, 32, dtype=F64)).requires_grad_()
    weights = normal(5, 2, 24, 24, seed=3, dtype=F64)

    def run(chunk: int) -> tuple[Tensor, ...]:
        images = ours.images(opd, chunk=chunk)
        return images, *torch.autograd.grad((images * weights).sum(), (opd, apodizer, stop))

    for found, expected in zip(run(2), run(5), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_memory_of_a_gradient_is_that_of_a_chunk() -> None:
    """Bytes that autograd keeps for the backward pass, whatever the number of frames."""
    ours = optics()

    def kept(frames: int, chunk: int) -> int:
        opd = torch.zeros(frames, 32, 32, dtype=F64, requires_grad=True)
        sizes = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel() * tensor.itemsize)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            ours.images(opd, chunk=chunk)
        return sum(sizes)

    frame = 32 * 32 * 8
    assert kept(16, 16) > 16 * 3 * frame
    assert kept(16, 2) <= 16 * 1.1 * frame


def test_gradient_by_zernike_coefficients_is_that_of_differences() -> None:
    from labrecon_coronagraph.aberrations import zernikes

    ours = optics(64, LyotDisc(RADIUS))
    basis = zernikes(ours.pupil, 12)
    weights = normal(24, 24, dtype=F64)

    def loss(coefficients: Tensor) -> Tensor:
        opd = torch.tensordot(coefficients, basis, 1)
        return (ours.images(opd)[0] * weights).sum()

    at = (0.02 * normal(12, seed=5, dtype=F64)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at), at)
    step = 1e-5
    for k in range(1, 12):
        shift = torch.zeros(12, dtype=F64)
        shift[k] = step
        with torch.no_grad():
            difference = float(loss(at + shift) - loss(at - shift)) / (2 * step)
        assert difference == pytest.approx(float(gradient[k]), rel=1e-6, abs=1e-9)


def test_optics_are_replaced_without_a_copy_of_the_rest() -> None:
    ours = optics()
    ours.image_field(flat(32))
    apodizer = normal(32, 32, dtype=F64).abs().requires_grad_()
    other = ours.replaced(apodizer=apodizer, mask=NoMask())
    assert other._to_image is ours._to_image
    expected = optics(mask=NoMask(), apodizer=apodizer).image_field(flat(32))
    torch.testing.assert_close(other.image_field(flat(32)), expected)
    assert torch.autograd.grad(intensity(other.image_field(flat(32))).sum(), apodizer)[0].any()
    torch.testing.assert_close(ours.image_field(flat(32)), optics().image_field(flat(32)))


def test_the_peak_of_a_phase_plate_is_found_where_it_is() -> None:
    """A tilt of the apodizer moves the star; its peak stays, but for the samples of the search."""
    tilt = plane_wave(torch.tensor([1.03, -2.47], dtype=F64), 64)
    plain, moved = optics(64), optics(64, apodizer=tilt)
    assert float(moved.peak()) == pytest.approx(float(plain.peak()), rel=5e-3)
    assert float(moved.peak()) <= float(plain.peak())


def test_wrong_optics_are_refused() -> None:
    pupil, mask, image = circular(16), LyotDisc(1.5), Grid.centred(8, 1.0)
    with pytest.raises(ValueError, match=r"shape \(16, 15\), expected real \(y, x\), square"):
        Coronagraph(pupil[:, :-1], mask, image=image)
    for bad in (2 * pupil, -pupil, 0 * pupil, pupil * math.nan):
        with pytest.raises(ValueError, match="not within 0…1"):
            Coronagraph(bad, mask, image=image)
    with pytest.raises(ValueError, match=r"Lyot stop has shape \(8, 8\)"):
        Coronagraph(pupil, mask, image=image, lyot_stop=circular(8))
    with pytest.raises(ValueError, match="apodizer holds NaN"):
        Coronagraph(pupil, mask, image=image, apodizer=pupil / 0)
    for wavelengths in ((), (1.0, 0.0), (math.nan,)):
        with pytest.raises(ValueError, match="numbers above 0 in units of λ0"):
            Coronagraph(pupil, mask, image=image, wavelengths=wavelengths)
    ours = Coronagraph(pupil, mask, image=image)
    with pytest.raises(ValueError, match="Lyot stop has shape"):
        ours.replaced(lyot_stop=circular(8))


def test_wrong_waves_are_refused() -> None:
    ours = optics()
    with pytest.raises(TypeError, match="expected a complex one"):
        ours.lyot_field(torch.ones(32, 32))
    with pytest.raises(ValueError, match=r"shape \(16, 16\), expected"):
        ours.image_field(flat(16))
    with pytest.raises(TypeError, match="expected a real one, in units of λ0"):
        ours.images(flat(32))
    with pytest.raises(ValueError, match="samples of the pupil"):
        ours.images(torch.zeros(31, 32))
    with pytest.raises(ValueError, match="chunks of 0"):
        ours.images(torch.zeros(32, 32), chunk=0)
    with pytest.raises(ValueError, match=r"expected \(…, 2\)"):
        ours.off_axis(torch.zeros(3))
    for radius in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="expected above 0"):
            LyotDisc(radius)
    for charge in (0, 1, 3):
        with pytest.raises(ValueError, match="expected an even one"):
            Vortex(charge)
