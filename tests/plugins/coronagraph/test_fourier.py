"""The matrix Fourier transform against the sum that defines it, HCIPy, and its own adjoint."""

import math

import hcipy
import pytest
import torch
from torch import Tensor

from labrecon_coronagraph.fourier import Grid, MatrixFourier

C128 = torch.complex128


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = C128) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def definition(field: Tensor, pupil: Grid, focal: Grid, scale: float) -> Tensor:
    """Every kernel value, one exponential each."""
    y, x = (axis.flatten() for axis in torch.broadcast_tensors(*pupil.meshed()))
    v, u = (axis.flatten() for axis in torch.broadcast_tensors(*focal.meshed()))
    phase = -2 * math.pi * scale * (torch.outer(v, y) + torch.outer(u, x))
    kernel = torch.polar(torch.ones_like(phase), phase)
    found = field.flatten(-2) @ kernel.mT * pupil.step**2
    return found.reshape(*field.shape[:-2], *focal.shape)


GRIDS = {
    "even": (Grid.pupil(8), Grid.centred(6, 0.3)),
    "odd": (Grid.pupil(9), Grid.centred(5, 0.4)),
    "wider image": (Grid.pupil(6), Grid.centred(11, 0.4)),
    "oblong, off centre": (Grid((7, 8), 0.1, (0.2, 0.0)), Grid((5, 6), 0.5, (0.0, 1.5))),
}


@pytest.mark.parametrize("scale", [1.0, 0.9])
@pytest.mark.parametrize("name", GRIDS)
def test_it_is_the_sum_that_defines_it(name: str, scale: float) -> None:
    pupil, focal = GRIDS[name]
    field = normal(2, 3, *pupil.shape)
    found = MatrixFourier(pupil, focal, scale).forward(field)
    torch.testing.assert_close(found, definition(field, pupil, focal, scale), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", GRIDS)
def test_backward_is_the_adjoint_up_to_the_areas_of_samples(name: str) -> None:
    pupil, focal = GRIDS[name]
    transform = MatrixFourier(pupil, focal, 1.1)
    field, image = normal(*pupil.shape), normal(*focal.shape, seed=1)
    left = torch.vdot(image.flatten(), transform.forward(field).flatten())
    right = torch.vdot(transform.backward(image).flatten(), field.flatten())
    left = left * (focal.step * 1.1) ** 2
    assert abs(complex(left - right * pupil.step**2)) < 1e-14 * abs(complex(left))


def test_it_is_that_of_hcipy() -> None:
    """HCIPy's Fraunhofer propagator has a factor 1/i, a constant phase."""
    n, m, step = 32, 21, 0.35
    grid = hcipy.make_pupil_grid(n, 1)
    start = -step * (m - 1) / 2
    focal = hcipy.CartesianGrid(hcipy.RegularCoords([step, step], [m, m], [start, start]))
    field = normal(n, n)
    wave = hcipy.Wavefront(hcipy.Field(field.numpy().ravel(), grid), 1)
    expected = hcipy.FraunhoferPropagator(grid, focal)(wave).electric_field.reshape(m, m)
    found = MatrixFourier(Grid.pupil(n), Grid.centred(m, step)).forward(field)
    ratio = torch.from_numpy(expected) / found
    torch.testing.assert_close(ratio, ratio[0, 0].expand(m, m), rtol=0, atol=1e-11)
    assert abs(complex(ratio[0, 0])) == pytest.approx(1, abs=1e-12)


def test_from_nyquist_to_nyquist_nothing_is_lost() -> None:
    """Samples of all angles that a grid can tell apart: there and back is the identity."""
    n = 12
    transform = MatrixFourier(Grid.pupil(n), Grid.centred(n, 1.0))
    field = normal(n, n)
    torch.testing.assert_close(transform.backward(transform.forward(field)), field)


def test_single_precision_has_matrices_made_in_double() -> None:
    pupil, focal = Grid.pupil(256), Grid.centred(64, 0.5)
    transform = MatrixFourier(pupil, focal)
    field = normal(256, 256)
    rough = transform.forward(field.to(torch.complex64))
    assert rough.dtype is torch.complex64
    exact = transform.forward(field)
    assert float((rough - exact).abs().max() / exact.abs().max()) < 1e-6


def test_matrices_made_in_inference_mode_serve_a_gradient() -> None:
    transform = MatrixFourier(Grid.pupil(6), Grid.centred(4, 0.5))
    with torch.inference_mode():
        transform.forward(normal(6, 6))
    field = normal(6, 6).requires_grad_()
    assert torch.autograd.gradcheck(transform.forward, field)
    assert torch.autograd.gradgradcheck(transform.forward, field)


@pytest.mark.parametrize("call", ["forward", "backward"])
def test_wrong_fields_are_refused(call: str) -> None:
    transform = MatrixFourier(Grid.pupil(6), Grid.centred(4, 0.5))
    with pytest.raises(TypeError, match="expected a complex one"):
        getattr(transform, call)(torch.ones(6, 6))
    with pytest.raises(ValueError, match=r"shape \(5, 6\), expected"):
        getattr(transform, call)(torch.ones(5, 6, dtype=C128))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_impossible_grids_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="expected a number above 0"):
        Grid.centred(4, bad)
    with pytest.raises(ValueError, match="expected a number above 0"):
        MatrixFourier(Grid.pupil(4), Grid.centred(4, 1.0), bad)
    with pytest.raises(ValueError, match="at least one"):
        Grid.centred(0, 1.0)
