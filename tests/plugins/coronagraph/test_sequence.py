"""The sequence of frames in which a map of the sky turns, and planets put into it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import j1

from labrecon.operator import Operator
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.injection import Planet, inject, planet_frames
from labrecon_coronagraph.sequence import ADISequence
from labrecon_coronagraph.sky import offset, on_frame, separation_and_angle


def airy(y: Any, x: Any, resolution: float = 3.0) -> Any:
    v = np.pi * np.hypot(y, x) / resolution + 1e-12
    return (2 * j1(v) / v) ** 2


def airy_image(size: int = 25, resolution: float = 3.0) -> Any:
    at = np.arange(size) - size // 2
    # Brought down to nothing at the rim: an image that ends abruptly has no band limit.
    window = np.clip(1.5 * (1 - np.hypot(at[:, None], at) / (size // 2)), 0, 1)
    return airy(at[:, None], at, resolution) * np.sin(np.pi / 2 * window) ** 2


def geometry(**changes: Any) -> CoronagraphGeometry:
    return CoronagraphGeometry.model_validate(
        {
            "shape": (40, 43),
            "field": (31, 33),
            "pixel_scale": 12.25,
            "wavelength": 1.6,
            "angles": (0.0, 25.0, -140.0, 201.5),
            "centre": (19.3, 21.8),
            "psf": airy_image(),
            **changes,
        }
    )


def test_a_source_lies_where_the_convention_says() -> None:
    made = ADISequence(geometry(angles=(30.0,)), dtype=torch.float64)
    x = made.domain.zeros()
    x[15 + 10, 16] = 1.0  # north of the star: position angle 0
    frame = made(x)[0]
    row, column = np.unravel_index(int(frame.argmax()), frame.shape)
    # At the position angle -30 degrees of the frame: to the right of up.
    expected = (19.3 + 10 * math.cos(math.pi / 6), 21.8 + 10 * math.sin(math.pi / 6))
    assert abs(row - expected[0]) <= 0.5
    assert abs(column - expected[1]) <= 0.5


def test_position_angles_go_from_north_to_east_which_is_left() -> None:
    assert separation_and_angle(*offset(3.0, 250.0)) == pytest.approx((3.0, 250.0))
    assert separation_and_angle(0.0, -1.0) == (1.0, 90.0)


def test_images_between_the_pixels_are_those_of_the_formula() -> None:
    """Against the PSF's own formula, evaluated where the source is."""
    wide = airy_image(39, 3.0)
    made = ADISequence(geometry(psf=wide), dtype=torch.float64)
    x = made.domain.zeros()
    x[9, 24] = 2.0
    frames = made(x).numpy()
    at = np.arange(40)[:, None], np.arange(43)[None, :]
    for frame, angle in zip(frames, made.geometry.angles, strict=True):
        a = math.radians(angle)
        y, x_ = 9 - 15, 24 - 16
        row = 19.3 + y * math.cos(a) - x_ * math.sin(a)
        column = 21.8 + x_ * math.cos(a) + y * math.sin(a)
        near = np.hypot(at[0] - row, at[1] - column) < 6
        error = np.abs(frame - 2 * airy(at[0] - row, at[1] - column))[near]
        assert error.max() < 4e-4


@pytest.mark.parametrize("smear", [0.0, 12.0])
def test_operator_and_injection_agree(smear: float) -> None:
    """Gridding with a kernel against the shift theorem: two ways to the same frames."""
    known = geometry(smear=smear, transmission=((0.0, 0.2), (100.0, 0.9), (200.0, 1.0)))
    made = ADISequence(known, dtype=torch.float64)
    x = made.domain.zeros()
    x[8, 21] = 3.0
    separation, angle = separation_and_angle(8 - 15, 21 - 16)
    planet = Planet(separation * 12.25e-3, angle, 3.0)
    tolerance = 4e-4 if smear == 0 else 4e-3
    torch.testing.assert_close(made(x), planet_frames(known, [planet]), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adjoint_identity(dtype: torch.dtype) -> None:
    ghost = airy_image() + 0.3 * np.roll(airy_image() ** 4, (3, 2), (0, 1))
    ghost /= ghost[12, 12]  # no point symmetry
    known = geometry(psf=ghost, smear=9.0, transmission=((0.0, 0.0), (150.0, 1.0)))
    made = ADISequence(known, dtype=dtype)
    g = torch.Generator().manual_seed(0)
    x, y = made.domain.random(2, generator=g), made.range.random(2, generator=g)
    left = (made(x) * y).double().sum((1, 2, 3))
    right = (x * made.adjoint(y)).double().sum((1, 2))
    torch.testing.assert_close(
        left, right, rtol=1e-4 if dtype == torch.float32 else 1e-11, atol=1e-6
    )
    torch.testing.assert_close(made.adjoint(y), Operator.adjoint(made, y))


def test_sources_off_the_frame_show_their_wings_only() -> None:
    known = geometry(shape=(21, 21), field=(61, 61), centre=(10.0, 10.0), angles=(0.0,))
    made = ADISequence(known, dtype=torch.float64)
    x = made.domain.zeros(2)
    x[0, 30, 30 + 14] = 1.0  # four pixels off the frame
    x[1, 2, 2] = 1.0  # far off
    near, far = made(x)[:, 0]
    at = np.arange(21)
    wing = airy(at[:, None] - 10, at - 24)
    assert np.abs(near.numpy() - wing)[:, 15:].max() < 2e-2
    assert float(near[:, :9].abs().max()) < 1e-3  # nothing comes back on the other side
    assert float(far.abs().max()) < 1e-3


def test_gradients_of_angles_and_centre_against_differences() -> None:
    made = ADISequence(geometry(), dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    x, y = made.domain.random(generator=g), made.range.random(generator=g)
    for name in ("angles", "centre"):
        value = made.current(name)[name].requires_grad_()
        (gradient,) = torch.autograd.grad((made(x, **{name: value}) * y).sum(), value)
        for i in range(len(value)):
            step = torch.zeros_like(value)
            step[i] = 1e-5
            up, down = ((made(x, **{name: value.detach() + s}) * y).sum() for s in (step, -step))
            assert float(gradient[i]) == pytest.approx(float(up - down) / 2e-5, rel=1e-4, abs=1e-4)


def test_a_smeared_planet_is_the_mean_of_its_places() -> None:
    known = geometry(angles=(10.0,), smear=30.0, centre=(20.0, 21.0))
    planet = Planet(10 * 12.25e-3, 70.0, 1.0)
    smeared = planet_frames(known, [planet])[0]
    steps = np.linspace(-15, 15, 400, endpoint=False) + 15 / 400
    many = known.changed(smear=0.0, angles=tuple(10.0 + steps))
    torch.testing.assert_close(smeared, planet_frames(many, [planet]).mean(0), rtol=0, atol=1e-4)


def test_injections_are_linear_and_keep_their_flux() -> None:
    known = geometry(shape=(81, 81), field=None, centre=(40.0, 40.2), psf=airy_image(25))
    one, other = Planet(0.12, 40.0, 2.0), Planet(0.15, 260.0, -0.5)
    data = torch.zeros(4, 81, 81, dtype=torch.float64)
    both = inject(data, known, [one, other])
    torch.testing.assert_close(both, inject(inject(data, known, [one]), known, [other]))
    total = float(known.psf.values.sum())
    sums = planet_frames(known, [one]).sum((1, 2))
    torch.testing.assert_close(sums, torch.full_like(sums, 2.0 * total), rtol=1e-6, atol=0)
    # The centroid is where the convention says.
    y, x = (torch.tensor(v) for v in offset(0.12 / 0.01225, 40.0))
    frames = planet_frames(known, [one])
    at = torch.arange(81.0, dtype=torch.float64)
    for frame, angle in zip(frames, known.angles, strict=True):
        row, column = on_frame(y, x, torch.tensor(angle), torch.tensor(known.centre))
        mass = frame.sum()
        assert float((frame.sum(1) * at).sum() / mass) == pytest.approx(float(row), abs=1e-4)
        assert float((frame.sum(0) * at).sum() / mass) == pytest.approx(float(column), abs=1e-4)


def test_a_planet_that_leaves_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves the frame"):
        planet_frames(geometry(), [Planet(0.3, 0.0, 1.0)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"psf": np.ones((4, 5))}, "odd size"),
        ({"psf": 0.5 * airy_image()}, "1 in its middle pixel"),
        ({"psf": np.roll(airy_image(), 3, 0)}, "1 in its middle pixel"),
        ({"centre": (50.0, 10.0)}, "off the frame"),
        ({"angles": ()}, "one for each frame"),
        ({"pixel_scale": 0.0}, "pixel_scale"),
        ({"transmission": ((100.0, 0.5), (50.0, 1.0))}, "increase"),
        ({"annuli": (2.0, 9.0)}, "given together"),
        ({"speckles": np.ones((1, 4, 1)), "annuli": (2.0, 9.0)}, "orthonormal"),
        ({"speckles": np.ones((1, 3, 1)), "annuli": (2.0, 9.0)}, "annulus, frame, mode"),
        ({"shape": (3, 43)}, "at least 5"),
    ],
)
def test_impossible_geometries_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        geometry(**changes)


def test_a_geometry_survives_json() -> None:
    known = geometry(star_flux=1e4, transmission=((0.0, 0.1), (90.0, 1.0)))
    assert CoronagraphGeometry.model_validate_json(known.model_dump_json()) == known
    assert known.resolution == pytest.approx(1.6e-6 / 8.2 * 206264.806e3 / 12.25, rel=1e-6)
