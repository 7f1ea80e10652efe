"""Adjoints, to the precision of the dtype, and derivatives of the exact backend."""

from __future__ import annotations

import math

import pytest
import torch
from ct_phantoms import error, gaussian, turn

from labrecon_ct.geometry import CTGeometry
from labrecon_ct.projector import CTProjector

FAN = {"beam": "cone", "source_origin": 60.0, "origin_detector": 30.0}
SMALL = {
    "parallel": CTGeometry(angles=turn(9), columns=40, volume_shape=(24, 30)),
    "half acquisition": CTGeometry(
        angles=turn(12, 2 * math.pi), columns=24, centre_offset=9.0, volume_shape=(30, 30)
    ),
    "fan": CTGeometry(
        angles=turn(9, 2 * math.pi), columns=40, column_pitch=1.4, volume_shape=(24, 30), **FAN
    ),
    "parallel-vectors": CTGeometry(
        angles=(0.0, 1.0),
        vectors=((0.0, -1.0, 0.5, 0.0, 1.0, 0.0), (0.8, -0.6, 0.0, 0.3, 0.6, 0.8)),
        columns=40,
        volume_shape=(24, 30),
    ),
    "fan-vectors": CTGeometry(
        beam="cone",
        angles=(0.0, 1.0),
        vectors=((0.0, -60.0, 0.5, 30.0, 1.4, 0.0), (48.0, -36.0, -24.0, 18.0, 0.84, 1.12)),
        columns=40,
        volume_shape=(24, 30),
    ),
    "parallel3d": CTGeometry(
        angles=turn(5), columns=20, rows=4, detector_tilt=0.1, volume_shape=(5, 12, 14)
    ),
    "cone": CTGeometry(
        angles=turn(5, 2 * math.pi), columns=20, rows=6, volume_shape=(5, 12, 14), **FAN
    ),
}
STRIPLESS = ("fan-vectors",)
CASES = [
    (name, backend, kernel)
    for name in SMALL
    for backend in ("matrix", "astra")
    for kernel in ("line", "strip", "linear")
    if SMALL[name].ndim == 2
    and not (kernel == "linear" and "fan" in name)
    and not (kernel == "strip" and name in STRIPLESS)
] + [(name, "rays", "line") for name in SMALL]


def mismatch(operator: CTProjector) -> float:
    """``|⟨Ax, y⟩ − ⟨x, Aᵀy⟩| / ‖Ax‖‖y‖`` in double precision."""
    generator = torch.Generator().manual_seed(3)
    x = operator.domain.random(2, generator=generator)
    y = operator.range.random(2, generator=generator)
    ax, aty = operator(x).double(), operator.adjoint(y).double()
    gap = (ax * y).sum() - (x * aty).sum()
    return float(gap.abs() / (ax.norm() * y.double().norm()))


@pytest.mark.parametrize(("name", "backend", "kernel"), CASES)
def test_dot(name: str, backend: str, kernel: str) -> None:
    operator = CTProjector(SMALL[name], backend=backend, kernel=kernel)
    assert operator.backend == backend
    assert operator.adjoint_mismatch == 0.0
    assert mismatch(operator) < 1e-6


@pytest.mark.parametrize("name", SMALL)
def test_dot_in_double_precision(name: str) -> None:
    assert mismatch(CTProjector(SMALL[name], backend="rays", dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize("backend", ["matrix", "astra", "rays"])
def test_gradient_is_the_adjoint(backend: str) -> None:
    operator = CTProjector(SMALL["parallel"], backend=backend)
    x = operator.domain.random().requires_grad_()
    y = operator.range.random().requires_grad_()
    (g,) = torch.autograd.grad(operator(x), x, y.detach())
    assert torch.allclose(g, operator.adjoint(y.detach()), atol=1e-5)
    (h,) = torch.autograd.grad(operator.adjoint(y), y, x.detach())
    assert torch.allclose(h, operator(x.detach()), atol=1e-5)


@pytest.mark.parametrize("backend", ["matrix", "astra", "rays"])
def test_second_derivative_by_the_image(backend: str) -> None:
    """``∂²(½‖Ax‖²) v = AᵀA v`` through autograd used twice."""
    operator = CTProjector(SMALL["parallel"], backend=backend)
    x = operator.domain.random().requires_grad_()
    v = operator.domain.random()
    (g,) = torch.autograd.grad(0.5 * operator(x).square().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g, x, v)
    assert torch.allclose(h, operator.normal(v), rtol=1e-4, atol=1e-3)


TINY = {
    "parallel": CTGeometry(angles=(0.1, 0.9, 2.0), columns=6, volume_shape=(5, 5)),
    "fan": CTGeometry(angles=(0.1, 2.0), columns=6, volume_shape=(5, 5), **FAN),
    "cone": CTGeometry(angles=(0.1, 2.0), columns=4, rows=3, volume_shape=(2, 4, 4), **FAN),
}


@pytest.mark.parametrize("name", TINY)
def test_rays_gradcheck_with_angles_and_centre(name: str) -> None:
    operator = CTProjector(TINY[name], backend="rays", dtype=torch.float64)
    x = gaussian(TINY[name], 0.4, 0.3, 1.5).requires_grad_()
    angles = operator.angles.detach().clone().requires_grad_()
    centre = torch.tensor(0.123, dtype=torch.float64, requires_grad=True)

    def project(x: torch.Tensor, angles: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        return operator(x, angles=angles, centre=centre)

    # Interpolation is piecewise smooth: the step must not cross a cell.
    inputs = (x, angles, centre)
    assert torch.autograd.gradcheck(project, inputs, eps=1e-7, atol=1e-5)
    assert torch.autograd.gradgradcheck(project, inputs, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_rays_are_the_same_with_and_without_a_graph(name: str) -> None:
    """Sampled by `grid_sample` without, gathered with."""
    operator = CTProjector(SMALL[name], backend="rays", dtype=torch.float64)
    x = operator.domain.random(2)
    plain = operator(x)
    operator.learn("centre")
    assert error(operator(x).detach(), plain) < 1e-12
