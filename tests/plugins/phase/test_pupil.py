"""The pupil: Zernike's polynomials in Noll's order and norm, rim, defocus."""

import cmath
import math

import pytest
import torch
from phase_cases import ABERRATION, F64, lens, microscope

from labrecon.zernike import noll, zernike
from labrecon_phase.pupil import ZERNIKES, pupil

OPTICS = {"wavelength": 0.5, "na": 0.25, "index": 1.0, "defocus": 0.0, "edge": 0.0}


def test_order_is_that_of_noll() -> None:
    """Table I of Noll (1976); even indices are cosines, odd ones sines."""
    degrees = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 5]
    orders = [0, 1, 1, 0, 2, 2, 1, 1, 3, 3, 0, 2, 2, 4, 4, 1]
    assert [noll(j)[0] for j in range(1, 17)] == degrees
    assert [abs(noll(j)[1]) for j in range(1, 17)] == orders
    assert all((noll(j)[1] >= 0) == (j % 2 == 0) for j in range(1, 17) if noll(j)[1])


def test_closed_forms() -> None:
    """Noll's table, in polar coordinates."""
    r, t = (torch.rand(50, dtype=F64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    t = 2 * math.pi * t
    table = {
        1: torch.ones_like(r),
        2: 2 * r * t.cos(),
        3: 2 * r * t.sin(),
        4: math.sqrt(3) * (2 * r**2 - 1),
        5: math.sqrt(6) * r**2 * (2 * t).sin(),
        6: math.sqrt(6) * r**2 * (2 * t).cos(),
        7: math.sqrt(8) * (3 * r**3 - 2 * r) * t.sin(),
        8: math.sqrt(8) * (3 * r**3 - 2 * r) * t.cos(),
        9: math.sqrt(8) * r**3 * (3 * t).sin(),
        10: math.sqrt(8) * r**3 * (3 * t).cos(),
        11: math.sqrt(5) * (6 * r**4 - 6 * r**2 + 1),
        12: math.sqrt(10) * (4 * r**4 - 3 * r**2) * (2 * t).cos(),
        13: math.sqrt(10) * (4 * r**4 - 3 * r**2) * (2 * t).sin(),
        14: math.sqrt(10) * r**4 * (4 * t).cos(),
        15: math.sqrt(10) * r**4 * (4 * t).sin(),
    }
    for j, expected in table.items():
        torch.testing.assert_close(zernike(j, r * t.sin(), r * t.cos()), expected)


def test_they_are_orthonormal_on_the_disc() -> None:
    """By a quadrature that is exact for polynomials: Gauss in ρ², even steps in the angle."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(12)
    r = torch.from_numpy((nodes + 1) / 2).sqrt()[:, None]
    t = torch.arange(24, dtype=F64) * 2 * math.pi / 24
    values = torch.stack([zernike(j, r * t.sin(), r * t.cos()) for j in range(1, ZERNIKES + 1)])
    mean = torch.from_numpy(weights)[:, None] / 2 / 24
    gram = torch.einsum("irt,jrt->ij", values * mean, values)
    torch.testing.assert_close(gram, torch.eye(ZERNIKES, dtype=F64), atol=1e-12, rtol=0)


def test_derivatives_are_finite_in_the_middle() -> None:
    zero = torch.zeros(1, dtype=F64, requires_grad=True)
    for j in range(1, ZERNIKES + 1):
        (g,) = torch.autograd.grad(zernike(j, zero, zero + 0.0).sum(), zero, allow_unused=True)
        assert g is None or bool(torch.isfinite(g).all())


@pytest.mark.parametrize("defocus", [0.0, 7.0])
def test_pupil_is_its_closed_form(defocus: float) -> None:
    """But for the phase of light along the axis, which no image shows."""
    geometry = microscope(aberration=ABERRATION, defocus=defocus)
    ticks = torch.linspace(-0.6, 0.6, 41, dtype=F64)
    y, x = ticks[:, None], ticks
    coefficients = torch.tensor(ABERRATION, dtype=F64)
    found = pupil(y, x, **OPTICS | {"defocus": defocus}, zernikes=coefficients)
    expected = lens(y, x, geometry) * cmath.exp(-2j * math.pi * defocus / 0.5)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_single_precision_keeps_a_large_defocus() -> None:
    ticks = torch.linspace(-0.49, 0.49, 41, dtype=F64)
    options = OPTICS | {"defocus": 500.0}
    exact = pupil(ticks[:, None], ticks, **options, zernikes=torch.zeros(0, dtype=F64))
    rough = pupil(ticks[:, None].float(), ticks.float(), **options, zernikes=torch.zeros(0))
    # 200 rad at the rim; steps of float32 there are 1.5e-5.
    assert float((rough - exact).abs().max()) < 2e-4


def test_a_soft_rim_has_the_light_of_a_hard_one() -> None:
    radius = torch.linspace(0, 1, 2001, dtype=F64)
    cut, width = 0.5, 0.1
    value = pupil(
        torch.zeros(()).double(), radius, **OPTICS | {"edge": width}, zernikes=torch.zeros(0)
    ).real
    inside, outside = radius < cut - width / 2, radius > cut + width / 2
    assert bool((value[inside] == 1).all())
    assert bool((value[outside] == 0).all())
    assert float(value[1000]) == pytest.approx(0.5)
    assert float(torch.trapezoid(value, radius)) == pytest.approx(cut, abs=1e-4)
