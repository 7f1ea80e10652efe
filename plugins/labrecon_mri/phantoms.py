"""Objects and coil arrays for simulation, training and checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon_mri.geometry import MRIGeometry

__all__ = ["birdcage_maps", "random_objects"]

#: Ellipses per object, besides the body and its rim.
INSIDE = 12


def random_objects(geometry: MRIGeometry, n: int, generator: torch.Generator) -> Tensor:
    """Bodies with a bright rim, inner ellipses and a smooth phase: (n, *domain), complex64.

    Edges are soft over a pixel, as sampling of a finite band makes them; the phase varies by about
    ±1 rad, as that of surface coils and field drifts does.
    """
    shape = geometry.matrix
    axes = [(torch.arange(size) - size // 2) / (size / 2) for size in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    extra = tuple(geometry.frames.values())
    sets = (geometry.sets,) if geometry.sets > 1 else ()
    images = []
    for _ in range(n):
        image = _body(grid, generator)
        copies = [image * (1 + 0.1 * k) for k in range(int(torch.tensor(extra).prod()))]
        stacked = torch.stack(copies).reshape(*extra, *shape) if extra else image
        if sets:
            # The second set is for what the first can not explain.
            stacked = torch.stack([stacked, 0.05 * stacked], -len(shape) - 1)
        images.append(stacked)
    return torch.stack(images)


def _body(grid: Tensor, generator: torch.Generator) -> Tensor:
    ndim, finest = len(grid), 2.0 / max(grid.shape[1:])

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(*size, generator=generator)

    def inside(centre: Tensor, radii: Tensor, turn: float) -> Tensor:
        r = grid - centre.reshape(-1, *[1] * ndim)
        a, b = r[-2], r[-1]
        c, s = torch.cos(torch.tensor(turn)), torch.sin(torch.tensor(turn))
        r = torch.cat([r[:-2], torch.stack([c * a - s * b, s * a + c * b])])
        distance = (r / radii.reshape(-1, *[1] * ndim)).square().sum(0).sqrt()
        return torch.sigmoid((1 - distance) * float(radii.min()) / (0.5 * finest))

    radii = uniform(0.65, 0.8, ndim)
    turn = float(uniform(-0.3, 0.3, 1))
    centre = uniform(-0.05, 0.05, ndim)
    rim = inside(centre, radii, turn) - inside(centre, 0.88 * radii, turn)
    value = 0.45 * inside(centre, radii, turn) + 0.5 * rim
    body = inside(centre, 0.8 * radii, turn)
    for _ in range(INSIDE):
        place = centre + 0.5 * radii * uniform(-1, 1, ndim)
        own = inside(place, uniform(0.03, 0.25, ndim), float(uniform(0, 3.14, 1)))
        value = value + float(uniform(-0.25, 0.4, 1)) * own * body
    tilt, bend = uniform(-0.8, 0.8, ndim), uniform(-0.6, 0.6, ndim)
    shape = [-1, *[1] * ndim]
    phase = (tilt.reshape(shape) * grid + bend.reshape(shape) * grid.square()).sum(0)
    return torch.polar(value.clamp_min(0), phase).to(torch.complex64)


def birdcage_maps(coils: int, matrix: tuple[int, ...], radius: float = 1.5) -> Tensor:
    """Sensitivities of a birdcage array (Fessler), scaled to ``Σ|S|² = 1``: (coil, *matrix).

    Args:
        coils: number of them; one alone is uniform.
        matrix: (y, x) or (z, y, x).
        radius: of the array, in half fields of view.
    """
    if coils == 1:
        return torch.ones(1, *matrix, dtype=torch.complex64)
    from sigpy.mri import birdcage_maps as sigpy_maps

    rings: dict[str, Any] = {"nzz": 2} if len(matrix) == 3 else {}
    made = torch.from_numpy(sigpy_maps((coils, *matrix), r=radius, **rings)).to(torch.complex64)
    return made / made.abs().square().sum(0).sqrt()
