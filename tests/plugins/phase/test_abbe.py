"""Abbe imaging against transforms of full size, geometrical optics, and its own derivative."""

import math
import re
from typing import Any

import pytest
import torch
from phase_cases import (
    ABERRATION,
    C128,
    F64,
    SINES,
    brute_force,
    leds_at,
    microscope,
    normal,
    relative,
    smooth,
)
from torch import Tensor

import labrecon_phase.abbe
from labrecon.algebra import Linearized
from labrecon.design import InfeasibleError
from labrecon_phase.abbe import AbbeImaging
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.led_arrays import half_circles, planar
from labrecon_phase.tangent import Tangent

SAMPLES = ("phase", "absorbing", "field")


def abbe(geometry: PhaseGeometry, **options: Any) -> AbbeImaging:
    return AbbeImaging(geometry, dtype=F64, **options)


def an_object(operator: AbbeImaging, *batch: int, seed: int = 3) -> Tensor:
    shape, dtype = operator.domain.shape, operator.domain.dtype
    x = 0.4 * normal(*batch, *shape, seed=seed, dtype=dtype)
    return x + 1 if dtype.is_complex else x


@pytest.mark.parametrize("camera_pixel", [3.5, 8.0])
@pytest.mark.parametrize("sample", SAMPLES)
def test_images_are_those_of_transforms_of_full_size(sample: str, camera_pixel: float) -> None:
    """LEDs off the grid, bright and dark field, a pupil with aberrations, a camera that folds."""
    geometry = microscope(
        sample=sample,
        camera_pixel=camera_pixel,
        pixel_fill=0.0,
        aberration=ABERRATION,
        defocus=4.0,
    )
    assert geometry.upsampling == (1 if camera_pixel < 4 else 2)
    operator = abbe(geometry)
    x = an_object(operator, 2)
    assert relative(operator(x), brute_force(geometry, operator.transmission(x))) < 1e-12


def test_a_pixel_is_the_limit_of_many_points() -> None:
    """The midpoint rule over a camera pixel: its error falls with the square of the step."""
    geometry = microscope(SINES[:5], shape=(8, 10), camera_pixel=6.0)
    operator = abbe(geometry)
    x = an_object(operator)

    def mean_of(points: int) -> Tensor:
        ticks = ((torch.arange(points) + 0.5) / points - 0.5).tolist()
        places = [(geometry.pixel * a, geometry.pixel * b) for a in ticks for b in ticks]
        images = [brute_force(geometry, operator.transmission(x), place) for place in places]
        return torch.stack(images).mean(0)

    coarse, fine = mean_of(4), mean_of(8)
    made = operator(x)
    assert relative(fine, made) < 2e-4
    assert relative(coarse, made) / relative(fine, made) == pytest.approx(4, rel=0.05)
    assert relative((4 * fine - coarse) / 3, made) < 1e-5
    assert relative(brute_force(geometry, operator.transmission(x)), made) > 5e-3


def test_the_empty_field_has_the_light_of_the_bright_field() -> None:
    geometry = microscope()
    operator = abbe(geometry)
    expected = geometry.patterns.tensor(F64)[:, :5].sum(1)
    made = operator(operator.domain.zeros())
    torch.testing.assert_close(made, expected[:, None, None].expand(made.shape))
    torch.testing.assert_close(operator.empty(), expected)


def test_energy_within_an_infinite_aperture_is_kept() -> None:
    """A phase object absorbs nothing: where the pupil passes all orders, the mean stays."""
    geometry = microscope([(0.0, 0.0)], na=0.9, shape=(64, 64), patterns=torch.ones(1, 1))
    operator = abbe(geometry)
    made = operator(smooth(geometry.object_shape, 1.0))
    assert float(made.mean()) == pytest.approx(1, abs=1e-6)


def test_images_are_linear_in_the_patterns() -> None:
    operator = abbe(microscope())
    x = an_object(operator)
    p, q = normal(2, 2, len(SINES)).abs()
    added = operator(x, patterns=2 * p + 3 * q)
    torch.testing.assert_close(added, 2 * operator(x, patterns=p) + 3 * operator(x, patterns=q))


def test_ptychography_is_one_led_per_frame() -> None:
    geometry = microscope(patterns=torch.eye(len(SINES)))
    operator = abbe(geometry)
    x = an_object(operator, 2)
    frames = operator(x)
    assert relative(frames, operator.single(x)) < 1e-14
    several = abbe(microscope())
    mixed = torch.einsum("jl,blyx->bjyx", several.patterns, frames)
    assert relative(several(x), mixed) < 1e-12


def test_stray_light_is_added() -> None:
    geometry = microscope(background=(0.1, 0.25))
    x = torch.zeros(geometry.object_shape, dtype=F64)
    added = abbe(geometry)(x) - abbe(geometry.changed(background=None))(x)
    expected = torch.tensor([0.1, 0.25], dtype=F64)
    torch.testing.assert_close(added, expected[:, None, None].expand(added.shape))


@pytest.mark.parametrize("camera_pixel", [4.0, 8.0])
@pytest.mark.parametrize("sample", SAMPLES)
def test_tangent_is_the_jacobian(sample: str, camera_pixel: float) -> None:
    """What is written by hand against reverse mode, and the adjoint identity."""
    geometry = microscope(sample=sample, camera_pixel=camera_pixel, aberration=ABERRATION)
    operator = abbe(geometry)
    x, u = an_object(operator, 2), an_object(operator, 2, seed=5)
    v = normal(2, *operator.range.shape, seed=6)
    with torch.no_grad():
        tangent = operator.linearize(x)
        assert isinstance(tangent, Tangent)
    automatic = Linearized(operator, x)
    assert relative(tangent(u), automatic(u)) < 1e-12
    assert relative(tangent.adjoint(v), automatic.adjoint(v)) < 1e-12
    a, b = (v * tangent(u)).sum(), (tangent.adjoint(v).conj() * u).sum().real
    assert float(abs(a - b)) < 1e-12 * float(v.norm() * tangent(u).norm())


def test_tangent_of_frames_of_one_led() -> None:
    geometry = microscope(patterns=torch.eye(len(SINES)), pixel_fill=0.0)
    operator = abbe(geometry)
    x, v = an_object(operator), normal(*operator.range.shape, seed=6)
    with torch.no_grad():
        assert relative(operator.linearize(x).adjoint(v), operator.vjp(x, v)) < 1e-12


def gradients(operator: AbbeImaging, x: Tensor) -> list[Tensor]:
    names = ("patterns", "zernike", "led_shift")
    values = {name: operator.get_parameter(name).detach().clone() for name in names}
    given = [x.clone().requires_grad_(), *(v.requires_grad_() for v in values.values())]
    y = operator.at(**values)(given[0])
    return [y.detach(), *torch.autograd.grad((y * normal(*y.shape, seed=9)).sum(), given)]


@pytest.mark.parametrize("patterns", ["all", "one each"])
def test_chunks_change_nothing(patterns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {} if patterns == "all" else {"patterns": torch.eye(len(SINES))}
    geometry = microscope(edge=1.0, **more)
    operator = abbe(geometry)
    x = an_object(operator, 2)
    whole, images = gradients(operator, x), operator(x)
    for chunk in (1, 3 * operator._field_bytes((2,))):
        monkeypatch.setattr(labrecon_phase.abbe, "CHUNK", chunk)
        assert len(operator.chunks(operator.patterns, (2,))) == (7 if chunk == 1 else 3)
        assert relative(operator(x), images) < 1e-13
        for budget in (0, 2**30):
            operator.budget = budget
            for made, expected in zip(gradients(operator, x), whole, strict=True):
                assert relative(made, expected) < 1e-12


def test_a_budget_bounds_what_is_kept_for_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = microscope(torch.cartesian_prod(*(torch.linspace(-0.17, 0.17, 7),) * 2))
    operator = abbe(geometry)
    batch = (6,)
    monkeypatch.setattr(labrecon_phase.abbe, "CHUNK", 4 * operator._field_bytes(batch))
    x = an_object(operator, *batch).requires_grad_()
    operator.learn("patterns")

    def kept() -> int:
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            operator(x).sum().backward()
        return sum(seen.values())

    fields = len(operator.leds) * operator._field_bytes(batch)
    without = kept()
    operator.budget = 0
    assert without > fields
    assert kept() < fields / 4


@pytest.mark.parametrize("name", ["led_shift", "led_rotation", "led_height", "zernike",
                                  "background", "patterns"])  # fmt: skip
def test_gradients(name: str) -> None:
    geometry = microscope(
        shape=(5, 6), edge=1.3, aberration=(0.0,) * 3 + (0.3,), pixel_fill=0.5, defocus=1.0
    )
    operator = abbe(geometry)
    x = an_object(operator)
    value = operator.get_parameter(name).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: operator.at(**{name: v})(x), (value,))


@pytest.mark.parametrize("sample", SAMPLES)
def test_gradients_of_the_object(sample: str) -> None:
    operator = abbe(microscope(shape=(4, 5), sample=sample))
    x = an_object(operator).requires_grad_()
    assert torch.autograd.gradcheck(operator, (x,), fast_mode=True)
    v = normal(*operator.range.shape)
    assert torch.autograd.gradgradcheck(lambda x: (operator(x) * v).sum(), (x,), fast_mode=True)


@pytest.mark.parametrize("z", [-2.0, 2.0])
def test_a_bead_is_a_converging_lens(z: float) -> None:
    """Transport of intensity (Teague 1983): ``I(z) − 1 = −(λ z / 2π) ∇²φ`` under axial light.

    A positive defocus is a focal plane behind the sample, where a thick middle gathers light.
    """
    geometry = microscope(
        [(0.0, 0.0)], shape=(64, 64), patterns=torch.ones(1, 1), defocus=z, pixel_fill=0.0
    )
    bead = smooth(geometry.object_shape, 0.05, 0.12)
    (image,) = abbe(geometry)(bead)
    size = 64 * geometry.pixel
    k = 2 * math.pi * torch.fft.fftfreq(64, size / 64, dtype=F64)
    curved = torch.fft.ifft2(-(k[:, None] ** 2 + k**2) * torch.fft.fft2(bead)).real
    assert geometry.upsampling == 1
    expected = -(geometry.wavelength * z / (2 * math.pi)) * curved
    assert relative(image - 1, expected) < 0.02
    assert (float(image[32, 32]) > 1) == (z > 0)


def test_oblique_light_moves_the_image_of_what_is_out_of_focus() -> None:
    """By ``z tan θ`` along the light's direction, as rays do."""
    z, sine = 8.0, 0.1
    fields: dict[str, Any] = {"shape": (64, 64), "patterns": torch.ones(1, 1)}
    bead = smooth((64, 64), 1.0, 0.1)
    spot = torch.stack([torch.zeros_like(bead), -0.05 * bead])
    places = []
    for defocus in (0.0, z):
        geometry = microscope([(0.0, sine)], defocus=defocus, sample="absorbing", **fields)
        assert geometry.upsampling == 1
        (image,) = abbe(geometry)(spot)
        dark = 1 - image
        x = torch.arange(64, dtype=F64) * geometry.pixel
        places.append(float((dark * x).sum() / dark.sum()))
    moved = z * math.tan(math.asin(sine))
    assert places[1] - places[0] == pytest.approx(moved, rel=0.03)


def test_too_small_a_grid_is_refused_with_the_one_that_does() -> None:
    sines = [(0.0, 0.0), (0.1, 0.3), (0.1, -0.45)]
    fields: dict[str, Any] = {"patterns": torch.ones(1, 3), "camera_pixel": 6.0}
    with pytest.raises(InfeasibleError, match="beyond the object's grid of 28 pixels along x") as e:
        abbe(microscope(sines, upsample=1, **fields))
    found = re.search(r"upsample = (\d+)", str(e.value))
    assert found is not None
    geometry = microscope(sines, upsample=int(found.group(1)), **fields)
    x = normal(*geometry.object_shape)
    point = geometry.changed(pixel_fill=0.0)
    assert relative(abbe(point)(x), brute_force(point, torch.exp(1j * x))) < 1e-12


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_more_object_pixels_than_needed_change_nothing(fill: float) -> None:
    """The same band-limited object on a finer grid."""
    coarse = microscope(sample="field", pixel_fill=fill)
    fine = coarse.changed(upsample=2 * coarse.upsampling)
    few, many = abbe(coarse), abbe(fine)
    x = an_object(few)
    (h, w), (hh, ww) = x.shape, fine.object_shape
    spectrum = torch.fft.fftshift(torch.fft.fft2(x, norm="forward"))
    spectrum[0], spectrum[:, 0] = 0, 0
    x = torch.fft.ifft2(torch.fft.ifftshift(spectrum), norm="forward")
    padded = torch.zeros(hh, ww, dtype=C128)
    padded[(hh - h) // 2 : (hh + h) // 2, (ww - w) // 2 : (ww + w) // 2] = spectrum
    finer = torch.fft.ifft2(torch.fft.ifftshift(padded), norm="forward")
    assert relative(many(finer), few(x)) < 1e-12


BAD: list[tuple[str, dict[str, Any]]] = [
    (r"patterns are \(exposure, led\) for 7 LEDs", {"patterns": torch.ones(2, 6)}),
    ("real and not negative", {"patterns": -torch.ones(2, 7)}),
    ("an LED must be on", {"patterns": torch.zeros(2, 7)}),
    ("NA 1.1 does not exist at a refractive index of 1.0", {"na": 1.1}),
    (r"leds are \(led, 3\)", {"leds": torch.ones(7, 2)}),
    ("positive distance z", {"leds": leds_at(SINES) * torch.tensor([1, 1, -1])}),
    ("one for each of 2 exposures, got 1", {"background": (0.1,)}),
    ("one for each of 2 exposures, got 3", {"bands": ("any",) * 3}),
    ("at most 15", {"aberration": (0.1,) * 16}),
    ("at least 2 pixels", {"shape": (1, 8)}),
    ("Extra inputs are not permitted", {"wavelenght": 0.5}),
]


@pytest.mark.parametrize(("told", "fields"), BAD, ids=[told for told, _ in BAD])
def test_bad_geometry_is_refused(told: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=told):
        microscope(**fields)


def test_half_circles_are_pairs() -> None:
    """Each LED off the axis is in one of a pair; the light of an exposure is 1."""
    leds = planar(9, 4.0, 67.5)
    patterns = half_circles(leds, 0.25, 4)
    torch.testing.assert_close(patterns.sum(1), torch.ones(4, dtype=F64))
    sine = leds[:, :2] / leds.norm(dim=1, keepdim=True)
    bright = sine.norm(dim=1) <= 0.25
    for (a, b), axis in (((0, 2), 0), ((1, 3), 1)):
        off = bright & (sine[:, axis] != 0)
        assert torch.equal((patterns[a] > 0) ^ (patterns[b] > 0), off)
        assert not bool(((patterns[a] > 0) & (sine[:, axis] <= 0)).any())


def test_without_light_there_is_stray_light_alone() -> None:
    geometry = microscope(background=(0.1, 0.2))
    operator = AbbeImaging(geometry, dtype=F64)
    dark = torch.zeros_like(operator.patterns)
    y = operator(normal(*operator.domain.shape), patterns=dark)
    torch.testing.assert_close(y.mean((-2, -1)), torch.tensor([0.1, 0.2], dtype=F64))
