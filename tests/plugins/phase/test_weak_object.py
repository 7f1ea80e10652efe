"""Weak objects: waveorder's transfer functions, direct sums, the derivative of Abbe imaging."""

import math
from typing import Any

import pytest
import torch
from phase_cases import (
    ABERRATION,
    F64,
    NA,
    SINES,
    WAVELENGTH,
    brute_force,
    frequencies,
    leds_at,
    lens,
    microscope,
    normal,
    on_grid_sines,
    relative,
    smooth,
    spectrum_grid,
    uniform,
)
from torch import Tensor
from waveorder.optics import compute_weak_object_transfer_function_2d

import labrecon_phase.weak_object
from labrecon.design import InfeasibleError
from labrecon.testing import check_operator
from labrecon_phase.abbe import AbbeImaging
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.led_arrays import half_circles
from labrecon_phase.weak_object import WeakObject

PUPILS: dict[str, dict[str, Any]] = {
    "ideal": {},
    "aberrated": {"aberration": ABERRATION},
    "aberrated and defocused": {"aberration": ABERRATION, "defocus": 3.0},
}


def weak(geometry: PhaseGeometry, **options: Any) -> WeakObject:
    return WeakObject(geometry, dtype=F64, **options)


def abbe(geometry: PhaseGeometry) -> AbbeImaging:
    return AbbeImaging(geometry, dtype=F64)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a large problem: kernels of single LEDs are too many to be kept."""
    monkeypatch.setattr(labrecon_phase.weak_object, "KEPT", 1)


@pytest.mark.parametrize("path", ["kernels", "correlated"])
@pytest.mark.parametrize("pupil", PUPILS)
def test_transfer_functions_are_those_of_waveorder(
    pupil: str, path: str, request: pytest.FixtureRequest
) -> None:
    """Sign and all: waveorder 3 (mehta-lab), for LEDs on the spectrum's grid."""
    if path == "correlated":
        request.getfixturevalue("no_room")
    shape, pixel = (32, 32), 0.4
    sines = on_grid_sines(shape, pixel, NA)
    patterns = uniform(3, len(sines))
    patterns[1] *= sines[:, 0] > 0
    patterns[2] *= sines[:, 1] < 0
    geometry = microscope(sines, shape=shape, patterns=patterns, **PUPILS[pupil])
    assert geometry.object_shape == shape
    model = weak(geometry)
    assert model._on_grid(model._inside())
    phase, absorption = model.transfer()

    source = torch.zeros(3, *shape, dtype=F64)
    place = (sines / WAVELENGTH * torch.tensor(shape) * pixel).round().long()
    source[:, place[:, 0], place[:, 1]] = patterns
    y, x = spectrum_grid(geometry)
    theirs = compute_weak_object_transfer_function_2d(source, lens(y, x, geometry))
    assert relative(phase, theirs[1]) < 1e-12
    assert relative(absorption, theirs[0]) < 1e-12


@pytest.mark.parametrize("path", ["kernels", "in parts"])
def test_transfer_functions_are_their_sums_for_leds_off_the_grid(
    path: str, request: pytest.FixtureRequest
) -> None:
    if path == "in parts":
        request.getfixturevalue("no_room")
    geometry = microscope(**PUPILS["aberrated and defocused"])
    y, x = spectrum_grid(geometry)
    phase, absorption = (torch.zeros(2, *geometry.object_shape, dtype=torch.complex128),) * 2
    light = torch.zeros(2, 1, 1, dtype=F64)
    for (at_y, at_x), own in zip(
        frequencies(geometry), geometry.patterns.tensor(F64).T, strict=True
    ):
        own = own[:, None, None]
        middle = lens(at_y, at_x, geometry)
        plus = middle.conj() * lens(at_y + y, at_x + x, geometry)
        minus = middle * lens(at_y - y, at_x - x, geometry).conj()
        phase = phase + 1j * own * (plus - minus)
        absorption = absorption + own * (plus + minus)
        light = light + own * middle.abs().square()
    found = weak(geometry).transfer()
    assert relative(found[0], phase / light) < 1e-12
    assert relative(found[1], absorption / light) < 1e-12


@pytest.mark.parametrize("pupil", PUPILS)
@pytest.mark.parametrize("more", [{}, {"edge": 1.5}, {"pixel_fill": 0.0}, {"camera_pixel": 9.0}],
                         ids=["", "soft rim", "points", "coarse camera"])  # fmt: skip
def test_it_is_the_derivative_of_abbe_imaging(pupil: str, more: dict[str, Any]) -> None:
    """At an empty object, by central differences and exactly; dark-field LEDs add nothing."""
    geometry = microscope(sample="absorbing", **PUPILS[pupil], **more)
    full, first = abbe(geometry), weak(geometry)
    u = normal(2, *geometry.object_shape)
    nothing = torch.zeros_like(u)
    light = full.empty()[:, None, None]
    expected = light * first(u)
    eps = 1e-4
    assert relative((full(eps * u) - full(-eps * u)) / (2 * eps), expected) < 1e-6
    assert relative(full.jvp(nothing, u), expected) < 1e-12
    with torch.no_grad():
        assert relative(full.linearize(nothing)(u), expected) < 1e-12


def test_what_is_left_out_is_of_second_order() -> None:
    geometry = microscope(**PUPILS["aberrated"])
    full, first = abbe(geometry), weak(geometry)
    u = normal(*geometry.object_shape)
    light = full.empty()[:, None, None]
    empty = full(torch.zeros_like(u))
    errors = [relative((full(e * u) - empty) / e / light, first(u)) for e in (1e-2, 1e-3, 1e-4)]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(("peak", "stated"), [(0.1, 0.045), (0.25, 0.11), (0.5, 0.22), (1.0, 0.42)])
def test_error_of_the_linear_model(peak: float, stated: float) -> None:
    """The table of the manual: ``‖linear − Abbe‖ / ‖Abbe‖`` of the contrast in four half circles.

    Of a soft object the size of some resolution elements; within a factor of two for others.
    """
    geometry = dpc()
    error = linear_error(geometry, peak)
    assert stated / 2 < error < stated * 2
    assert linear_error(geometry, peak / 2) == pytest.approx(error / 2, rel=0.15)


def dpc(**more: Any) -> PhaseGeometry:
    """Half circles of LEDs that fill the aperture."""
    ticks = torch.linspace(-0.25, 0.25, 15, dtype=F64)
    sines = torch.cartesian_prod(ticks, ticks)
    sines = sines[sines.norm(dim=1) <= NA * (1 + 1e-9)]
    fields = {"shape": (48, 48), "patterns": half_circles(leds_at(sines), NA, 4)}
    return microscope(sines, **fields | more)


def linear_error(geometry: PhaseGeometry, peak: float) -> float:
    phase = smooth(geometry.object_shape, peak, 0.06)
    full = abbe(geometry)
    contrast = full(phase) / full.empty()[:, None, None] - 1
    return relative(weak(geometry)(phase), contrast)


def test_a_bead_comes_out_thick() -> None:
    """Phase up is thicker; an array that is seen from behind turns it over."""
    geometry = dpc()
    bead = smooth(geometry.object_shape, 0.2, 0.06)
    full = abbe(geometry)
    contrast = full(bead) / full.empty()[:, None, None] - 1
    assert relative(weak(geometry, tikhonov=1e-4).initial(contrast), bead - bead.mean()) < 0.1
    behind = geometry.changed(flip_illumination=True)
    inverted = weak(behind, tikhonov=1e-4).initial(contrast)
    assert relative(inverted, bead.mean() - bead) < 0.1
    middle = geometry.object_shape[0] // 2
    assert float(weak(geometry).initial(contrast)[middle, middle]) > 0.1


def test_light_from_one_side() -> None:
    """Rays at the rim of the aperture: a slope that bends them outwards is dark, the other not."""
    geometry = microscope([(0.0, 0.23)], shape=(48, 48), patterns=torch.ones(1, 1))
    bead = smooth(geometry.object_shape, 1.0, 0.1)
    (image,) = abbe(geometry)(bead)
    middle, step = 24, 5
    # Frequencies of this light are positive along x, and so is the gradient left of the middle.
    assert float(image[middle, middle - step]) < 0.8 < 0.95 < float(image[middle, middle + step])
    assert float(image[middle - step, middle]) == pytest.approx(
        float(image[middle + step - 1, middle]), abs=1e-9
    )


@pytest.mark.parametrize("sample", ["phase", "absorbing"])
@pytest.mark.parametrize("camera_pixel", [4.0, 6.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_solve_and_normal_are_those_of_the_matrix(
    sample: str, camera_pixel: float, weighted: bool
) -> None:
    """The closed form, and conjugate gradients where the camera's sampling folds frequencies."""
    geometry = microscope(
        shape=(8, 6), sample=sample, camera_pixel=camera_pixel, **PUPILS["aberrated"]
    )
    model = weak(geometry)
    assert model.folds == (camera_pixel > 4.0)
    eye = torch.eye(math.prod(model.domain.shape), dtype=F64)
    matrix = model(eye.reshape(-1, *model.domain.shape)).flatten(1).T
    weights = torch.tensor([0.5, 2.0], dtype=F64)[:, None, None] if weighted else None
    each = 1.0 if weights is None else weights.expand(model.range.shape).flatten()[:, None]
    normal_matrix = matrix.T @ (each * matrix)
    x = normal(3, *model.domain.shape)
    made = (x.flatten(1) @ normal_matrix.T).reshape(x.shape)
    assert relative(model.normal(x, weights), made) < 1e-12
    assert relative(model.normal_map(weights)(x), made) < 1e-12
    rho = 0.05
    solved = torch.linalg.solve(normal_matrix + rho * eye, x.flatten(1).T).T
    found = model.solve(x, rho, weights=weights, iterations=200, tolerance=1e-13)
    assert relative(found.flatten(1), solved) < 1e-9


def test_conformance() -> None:
    patterns = uniform(2, len(SINES))
    patterns = patterns / patterns.sum(1, keepdim=True)
    geometry = microscope(
        shape=(6, 8), sample="absorbing", edge=1.0, camera_pixel=6.0, patterns=patterns
    )
    check_operator(lambda: weak(geometry), calls=5, skip=("memory",))


@pytest.mark.parametrize("name", ["led_shift", "led_rotation", "led_height", "zernike", "patterns"])
def test_gradients(name: str) -> None:
    geometry = microscope(shape=(5, 6), edge=1.3, aberration=(0.0,) * 3 + (0.3,), pixel_fill=0.5)
    model = weak(geometry)
    x = normal(*model.domain.shape)
    value = model.get_parameter(name).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: model.at(**{name: v})(x), (value,))


def test_moved_leds_keep_their_gradient_in_large_problems(no_room: None) -> None:
    """Correlations round positions to the grid, so they are not for positions that are learned."""
    sines = on_grid_sines((16, 16), 0.4, 0.2)
    geometry = microscope(sines, shape=(16, 16), edge=2.0)
    model = weak(geometry)
    x = normal(*model.domain.shape)
    shift = torch.zeros(2, dtype=F64, requires_grad=True)
    y = model.at(led_shift=shift)(x)
    assert y.requires_grad
    (g,) = torch.autograd.grad((y * normal(*y.shape, seed=4)).sum(), shift)
    assert bool((g != 0).all())


def test_kernels_follow_nuisances() -> None:
    """What is kept between calls is made anew when LEDs or pupil have changed."""
    geometry = microscope(edge=1.0)
    model = weak(geometry)
    x = normal(*model.domain.shape)
    first = model(x)
    with torch.no_grad():
        model.led_shift += torch.tensor([1.0, 0.0])
        model.zernike[3] = 0.4
    moved = geometry.changed(led_shift=(1.0, 0.0), aberration=(0.0, 0.0, 0.0, 0.4))
    assert relative(model(x), weak(moved)(x)) < 1e-14
    assert relative(first, model(x)) > 0.01


def test_dark_fields_are_refused() -> None:
    patterns = torch.zeros(2, len(SINES))
    patterns[0, 0] = patterns[1, 5] = 1
    with pytest.raises(InfeasibleError, match=r"exposures \[1\] light no LED within"):
        weak(microscope(patterns=patterns))
    with pytest.raises(InfeasibleError, match="not 'field'"):
        weak(microscope(sample="field"))


def test_dark_field_light_is_no_contrast_of_first_order() -> None:
    """An LED in the dark field, added to an exposure, leaves the linear prediction as it is."""
    geometry = microscope()
    patterns = geometry.patterns.tensor(F64)
    bright = patterns.clone()
    bright[:, 5:] = 0
    x: Tensor = normal(*geometry.object_shape)
    torch.testing.assert_close(weak(geometry)(x), weak(geometry.changed(patterns=bright))(x))
    empty = torch.ones(geometry.object_shape, dtype=torch.complex128)
    assert float(brute_force(geometry, empty)[0, 0, 0]) == pytest.approx(float(bright[0].sum()))


def test_a_grid_that_is_too_coarse_is_refused() -> None:
    """Where spectra would wrap around: pixels of 1 µm for transfer functions up to 1/µm."""
    coarse = microscope(camera_pixel=10.0, upsample=1)
    with pytest.raises(InfeasibleError, match=r"reach to .*/µm, .* take upsample = 2"):
        labrecon_phase.weak_object.WeakObject(coarse)


def test_transfer_functions_follow_what_they_depend_on() -> None:
    """They are kept only as long as patterns, LEDs and nuisances stay as they are."""
    operator = labrecon_phase.weak_object.WeakObject(microscope(), dtype=F64)
    x = normal(*operator.domain.shape)
    with torch.no_grad():
        first = operator(x)
        torch.testing.assert_close(operator(x), first)
        operator.patterns[0, 0] += 1.0
        second = operator(x)
        assert relative(second, first) > 1e-3
        operator.led_shift[0] += 0.5
        assert relative(operator(x), second) > 1e-3
