"""Derivatives by the angles and the rotation centre, and projections after they have changed."""

from __future__ import annotations

import math

import pytest
import torch
from ct_phantoms import error, gaussian, gaussian_lines, turn

from labrecon_ct.geometry import CTGeometry
from labrecon_ct.projector import CTProjector

FAN = {"beam": "cone", "source_origin": 150.0, "origin_detector": 75.0}
FLAT = CTGeometry(angles=tuple(0.05 + a for a in turn(12)), columns=96, volume_shape=(64, 64))
GEOMETRIES = {
    "parallel": FLAT,
    "fan": FLAT.model_copy(update={"column_pitch": 1.5, **FAN}),
    "slices": CTGeometry(
        angles=FLAT.angles[:4], columns=96, rows=3, volume_shape=(3, 64, 64)
    ),
    "cone": CTGeometry(
        angles=(0.3, 0.7), columns=60, rows=36, column_pitch=1.5, volume_shape=(34, 40, 40),
        **FAN,
    ),
}  # fmt: skip
CASES = [
    ("parallel", "matrix", "line"),
    ("parallel", "matrix", "linear"),
    ("parallel", "matrix", "strip"),
    ("parallel", "astra", "line"),
    ("parallel", "rays", "line"),
    ("fan", "matrix", "line"),
    ("fan", "astra", "line"),
    ("slices", "matrix", "linear"),
    ("cone", "rays", "line"),
]


def scene(name: str, backend: str, kernel: str) -> tuple[CTProjector, torch.Tensor, torch.Tensor]:
    geometry = GEOMETRIES[name]
    operator = CTProjector(geometry, backend=backend, kernel=kernel)
    size = geometry.volume_shape[-1] / 64
    image = gaussian(geometry, 6.0 * size, 2.0 * size, 7.0 * size).float()
    cotangent = gaussian_lines(geometry, -5.0 * size, 7.0 * size, 5.0 * size).float()
    return operator, image, cotangent


def by_view(product: torch.Tensor) -> torch.Tensor:
    """Sum over all axes but the views'."""
    other = [i for i in range(product.ndim) if i != product.ndim - 2]
    return product.double().sum(other)


def moved(geometry: CTGeometry, turn: float = 0.0, shift: float = 0.0) -> CTGeometry:
    return geometry.model_copy(
        update={
            "angles": tuple(a + turn for a in geometry.angles),
            "centre_offset": geometry.centre_offset + shift,
        }
    )


def exact_lines(name: str, geometry: CTGeometry) -> torch.Tensor:
    size = GEOMETRIES[name].volume_shape[-1] / 64
    return gaussian_lines(geometry, 6.0 * size, 2.0 * size, 7.0 * size)


@pytest.mark.parametrize(("name", "backend", "kernel"), CASES)
class TestFirst:
    """Against central differences of the exact integrals: 2 %."""

    def test_angles(self, name: str, backend: str, kernel: str) -> None:
        operator, image, v = scene(name, backend, kernel)
        h, g = 1e-4, GEOMETRIES[name]
        change = exact_lines(name, moved(g, turn=h)) - exact_lines(name, moved(g, turn=-h))
        angles = operator.angles.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad((operator(image, angles=angles) * v).sum(), angles)
        # Forty voxels across a volume blur what a turn changes.
        tolerance = 4e-2 if name == "cone" else 2e-2
        assert error(gradient, by_view(change * v) / (2 * h)) < tolerance

    def test_centre(self, name: str, backend: str, kernel: str) -> None:
        operator, image, v = scene(name, backend, kernel)
        h, g = 1e-3, GEOMETRIES[name]
        change = exact_lines(name, moved(g, shift=h)) - exact_lines(name, moved(g, shift=-h))
        centre = operator.centre.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad((operator(image, centre=centre) * v).sum(), centre)
        assert error(gradient, (change * v).sum() / (2 * h)) < 2e-2

    def test_through_the_adjoint(self, name: str, backend: str, kernel: str) -> None:
        operator, image, v = scene(name, backend, kernel)
        angles = operator.angles.detach().clone().requires_grad_()
        (direct,) = torch.autograd.grad((operator(image, angles=angles) * v).sum(), angles)
        back = operator.at(angles=angles).adjoint(v)
        (through,) = torch.autograd.grad((back * image).sum(), angles)
        assert error(through, direct) < 1e-4


@pytest.mark.parametrize(
    ("name", "backend", "kernel"),
    [case for case in CASES if case[1] == "rays" or case[2] != "line"],
)
def test_own_central_differences(name: str, backend: str, kernel: str) -> None:
    """Of the discrete projector; the line kernel's own jump from pixel to pixel."""
    operator, image, v = scene(name, backend, kernel)
    h = 1e-2
    shifted = [operator(image, angles=operator.angles + s * h) for s in (1, -1)]
    central = by_view((shifted[0] - shifted[1]) * v) / (2 * h)
    angles = operator.angles.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad((operator(image, angles=angles) * v).sum(), angles)
    assert error(gradient, central) < (4e-2 if name == "cone" else 2e-2)


@pytest.mark.parametrize("backend", ["matrix", "astra", "rays"])
def test_mixed_derivatives_agree(backend: str) -> None:
    """``∂_x ∂_θ = ∂_θ ∂_x`` of ``⟨A(θ) x, v⟩``."""
    operator, image, v = scene("parallel", backend, "line")
    angles = operator.angles.detach().clone().requires_grad_()
    image.requires_grad_()
    direction = torch.randn(angles.shape, dtype=torch.float64)
    step = gaussian(GEOMETRIES["parallel"], -4.0, 8.0, 5.0).float()
    value = (operator(image, angles=angles) * v).sum()
    by_angle, by_image = torch.autograd.grad(value, (angles, image), create_graph=True)
    (a,) = torch.autograd.grad((by_angle * direction).sum(), image, retain_graph=True)
    (b,) = torch.autograd.grad((by_image * step).sum(), angles)
    assert float((a * step).sum()) == pytest.approx(float((b * direction).sum()), rel=1e-3)


@pytest.mark.parametrize("backend", ["matrix", "astra", "rays"])
class TestNeverStale:
    def test_at(self, backend: str) -> None:
        operator, image, _ = scene("parallel", backend, "line")
        before = operator(image)
        angles = operator.angles + 0.3
        expected = CTProjector(moved(GEOMETRIES["parallel"], 0.3, 4.0), backend=backend)
        other = operator.at(angles=angles, centre=torch.tensor(4.0, dtype=torch.float64))
        assert error(expected(image), before) > 0.1
        assert error(other(image), expected(image)) < 1e-5
        y = other(image)
        assert error(other.adjoint(y), expected.adjoint(y)) < 1e-5
        assert torch.equal(operator(image), before)

    def test_back_and_forth_keeps_what_was_built(self, backend: str) -> None:
        operator, image, _ = scene("parallel", backend, "line")
        operator(image)
        built = operator._built
        operator.at(centre=torch.tensor(1.0, dtype=torch.float64))(image)
        operator(image)
        assert operator._built is built

    def test_settled(self, backend: str) -> None:
        operator, image, _ = scene("parallel", backend, "line")
        with torch.no_grad():
            operator.angles += 0.3
            operator.centre += 4.0
        settled = operator.settled()
        assert settled.backend == backend
        assert settled.geometry == moved(GEOMETRIES["parallel"], 0.3, 4.0)
        assert error(settled(image), operator(image)) < 1e-5

    def test_in_single_precision(self, backend: str) -> None:
        operator, image, _ = scene("parallel", backend, "line")
        before = operator(image)
        assert error(operator.float()(image), before) < 1e-5

    def test_wrong_count(self, backend: str) -> None:
        operator, image, _ = scene("parallel", backend, "line")
        with pytest.raises(ValueError, match="12 angles, one per view, got 3"):
            operator(image, angles=torch.zeros(3, dtype=torch.float64))

    def test_optimised_in_place(self, backend: str) -> None:
        operator, image, v = scene("parallel", backend, "line")
        (angles,) = operator.learn("angles")
        optimiser = torch.optim.SGD([angles], lr=1e-3)
        (operator(image) * v).sum().backward()
        optimiser.step()
        fresh = CTProjector(
            GEOMETRIES["parallel"].model_copy(update={"angles": tuple(angles.tolist())}),
            backend=backend,
        )
        assert error(operator(image).detach(), fresh(image)) < 1e-5


def test_second_derivative_by_the_angles() -> None:
    """Not the zero that a first-order surrogate would give."""
    operator, image, v = scene("parallel", "matrix", "linear")
    angles = operator.angles.detach().clone().requires_grad_()
    value = (operator(image, angles=angles) * v).sum()
    (first,) = torch.autograd.grad(value, angles, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), angles)
    h = 1e-2
    exact = [
        by_view(exact_lines("parallel", moved(GEOMETRIES["parallel"], turn=s * h)) * v)
        for s in (-1, 0, 1)
    ]
    assert error(second, (exact[0] - 2 * exact[1] + exact[2]) / h**2) < 5e-2


def test_vectors_have_a_centre_and_no_angles() -> None:
    geometry = CTGeometry(
        angles=(0.0, 1.0),
        vectors=((0.0, -1.0, 0.5, 0.0, 1.0, 0.0), (0.8, -0.6, 0.0, 0.3, 0.6, 0.8)),
        columns=64,
        volume_shape=(64, 64),
    )
    image = gaussian(geometry, 6.0, 2.0, 7.0).float()
    for backend in ("matrix", "rays"):
        operator = CTProjector(geometry, backend=backend)
        assert set(operator.designs) == set()
        assert set(operator.nuisances) == {"centre"}
        there = operator(image, centre=torch.tensor(3.0, dtype=torch.float64))
        assert error(there[:, 3:], operator(image)[:, :-3].double()) < 1e-4


def test_calibration_finds_the_centre() -> None:
    """Descent on the centre by the operator's own gradient."""
    truth = FLAT.model_copy(update={"centre_offset": 2.4})
    image = gaussian(FLAT, 9.0, 5.0, 6.0).float()
    data = CTProjector(truth)(image)
    operator = CTProjector(FLAT)
    centre = operator.centre.detach().clone()
    for _ in range(6):
        guess = centre.clone().requires_grad_()
        y = operator(image, centre=guess)
        # Gauss–Newton: the derivative of each sample by one number.
        (slope,) = torch.autograd.grad((y - data).square().sum(), guess)
        bent = torch.gradient(y.detach().double(), dim=-1)[0].square().sum()
        centre = centre - slope / (2 * bent)
    assert float(centre) == pytest.approx(2.4, abs=0.02)
    assert math.isfinite(float(centre))
