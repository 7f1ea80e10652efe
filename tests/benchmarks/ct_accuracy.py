"""Errors of the CT projectors: ``PYTHONPATH=tests python tests/benchmarks/ct_accuracy.py``.

The figures behind `tests/plugins/ct`, on the same objects: exact chords of an ellipse (raster of 8
samples per pixel and axis), mass, adjoint, diffct's Siddon, and derivatives by the angles against
central differences of exact integrals of a smooth object.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from ct_phantoms import Ellipsoid, chords, error, gaussian, gaussian_lines, turn

from labrecon_ct.geometry import CTGeometry
from labrecon_ct.projector import CTProjector

BODY = Ellipsoid((0.12, -0.2, 0.0), (0.6, 0.35, math.inf), 0.4, 0.8)
BACKENDS = (("matrix", "line"), ("matrix", "linear"), ("matrix", "strip"), ("rays", "line"))
FAN = {"beam": "cone", "source_origin": 4.0, "origin_detector": 2.0}


def geometry(n: int, views: int, fan: bool) -> CTGeometry:
    """An n² image of [−1, 1]² mm."""
    more: dict[str, Any] = FAN if fan else {}
    return CTGeometry(
        angles=turn(views, 2 * math.pi if fan else math.pi),
        columns=n,
        column_pitch=3.2 / n if fan else 2 / n,
        volume_shape=(n, n),
        voxel_size=2 / n,
        **more,
    )


def chord_errors(fan: bool) -> None:
    """Relative error of the projection of an ellipse."""
    print(f"\n{'fan' if fan else 'parallel'} chord, relative L2 error")
    for backend, kernel in BACKENDS:
        if fan and kernel == "linear":
            continue
        told = []
        for n in (128, 256, 512):
            where = geometry(n, 45, fan)
            exact = chords(where, BODY, sub=16 if kernel == "strip" else 1)
            operator = CTProjector(where, backend=backend, kernel=kernel)
            told.append(f"N={n}: {error(operator(BODY.raster(where, 8).float()), exact):.2e}")
        print(f"  {backend:8}{kernel if backend != 'rays' else '':8}", "  ".join(told))


def mass_and_adjoint() -> None:
    """Mass seen by all views, and ``|⟨Ax, y⟩ − ⟨x, Aᵀy⟩| / ‖Ax‖‖y‖`` on white noise."""
    print("\nmass and adjoint, N=128")
    where = geometry(128, 45, False)
    image = BODY.raster(where, 8).float()
    mass = float(image.double().sum()) * where.voxel[0] ** 2
    generator = torch.Generator().manual_seed(0)
    for backend, kernel in (*BACKENDS, ("astra", "line")):
        operator = CTProjector(where, backend=backend, kernel=kernel)
        seen = float(operator(image).double().sum(-1).mean()) * where.column_pitch
        x, y = (s.random(generator=generator) for s in (operator.domain, operator.range))
        ax, aty = operator(x).double(), operator.adjoint(y).double()
        gap = abs(float((ax * y).sum() - (x * aty).sum())) / float(ax.norm() * y.norm())
        print(f"  {backend:8}{kernel:8} mass {abs(seen / mass - 1):.1e}   adjoint {gap:.1e}")


def against_diffct() -> None:
    """ASTRA's line kernel and diffct's float64 Siddon on white noise."""
    import diffct

    where = CTGeometry(angles=turn(24), columns=128, volume_shape=(96, 96))
    theta = torch.tensor(where.angles, dtype=torch.float64) + 0.013
    where = where.model_copy(update={"angles": tuple(theta.tolist())})
    across = torch.stack([theta.cos(), theta.sin()], -1)
    along = torch.stack([theta.sin(), -theta.cos()], -1)
    vectors = (along, torch.zeros_like(across), across)
    other = diffct.Projector(
        vectors, (96, 96), 128, beam="parallel", backend="torch", precision="float64"
    )
    image = torch.rand(96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gap = error(CTProjector(where)(image.float()), other(image.flip(0).contiguous()))
    print(f"\nline kernel against diffct: {gap:.1e}")


def derivatives() -> None:
    """Angle and centre gradients against central differences of exact line integrals."""
    print("\nderivatives against central differences of exact integrals, 64² and 12 views")
    where = CTGeometry(angles=tuple(0.05 + a for a in turn(12)), columns=96, volume_shape=(64, 64))
    image = gaussian(where, 6.0, 2.0, 7.0).float()
    v = gaussian_lines(where, -5.0, 7.0, 5.0).float()

    def lines(turned: float = 0.0, shifted: float = 0.0) -> torch.Tensor:
        angles = tuple(a + turned for a in where.angles)
        moved = where.model_copy(update={"angles": angles, "centre_offset": shifted})
        return gaussian_lines(moved, 6.0, 2.0, 7.0)

    by_angle = ((lines(1e-4) - lines(-1e-4)) * v).sum(-1) / 2e-4
    by_centre = ((lines(0, 1e-3) - lines(0, -1e-3)) * v).sum() / 2e-3
    for backend, kernel in (*BACKENDS, ("astra", "line")):
        operator = CTProjector(where, backend=backend, kernel=kernel)
        angles = operator.angles.detach().clone().requires_grad_()
        centre = operator.centre.detach().clone().requires_grad_()
        value = (operator(image, angles=angles, centre=centre) * v).sum()
        first, second = torch.autograd.grad(value, (angles, centre))
        print(
            f"  {backend:8}{kernel:8} angles {error(first, by_angle):.2%}"
            f"   centre {error(second, by_centre):.2%}"
        )


def main() -> None:
    """Print all figures."""
    with torch.no_grad():
        chord_errors(fan=False)
        chord_errors(fan=True)
        mass_and_adjoint()
        against_diffct()
    derivatives()


if __name__ == "__main__":
    main()
