"""Objects for simulation, training and checks: cells."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon_phase.geometry import PhaseGeometry

__all__ = ["random_cells"]

#: Largest phase of a cell in rad.
HIGHEST = 0.8


def random_cells(geometry: PhaseGeometry, n: int, generator: torch.Generator) -> Tensor:
    """Round cells with nuclei and granules, soft to the pixel; phases have no mean.

    Returns:
        (n, y, x) phases up to ``HIGHEST`` rad; (n, component, y, x) with a faint absorption; or
        complex transmissions.
    """
    phases = torch.stack([_cells(geometry.object_shape, generator) for _ in range(n)])
    phases = phases - phases.mean((-2, -1), keepdim=True)
    if geometry.sample == "phase":
        return phases
    thickness = torch.stack([_cells(geometry.object_shape, generator) for _ in range(n)])
    absorption = -0.15 * thickness.clamp_min(0)
    if geometry.sample == "absorbing":
        return torch.stack([phases, absorption], -3)
    return torch.polar(absorption.exp(), phases)


def _cells(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(*size, generator=generator)

    rows, columns = shape
    y, x = torch.arange(rows)[:, None] / rows, torch.arange(columns) / columns
    soft = 2.0 / min(shape)

    def disc(centre: Tensor, radius: float, stretch: float, turn: float) -> Tensor:
        # Around the edges, as the spectrum's grid is periodic.
        dy = (y - centre[0] + 0.5).remainder(1) - 0.5
        dx = (x - centre[1] + 0.5).remainder(1) - 0.5
        c, s = torch.cos(torch.tensor(turn)), torch.sin(torch.tensor(turn))
        along, across = c * dx + s * dy, (c * dy - s * dx) * stretch
        return torch.sigmoid((radius - torch.hypot(along, across)) / (0.35 * soft))

    made = torch.zeros(shape)
    for _ in range(int(torch.randint(2, 5, (), generator=generator))):
        centre = uniform(0, 1, 2)
        radius, turn = float(uniform(0.1, 0.2, 1)), float(uniform(0, 3.14, 1))
        stretch = float(uniform(1, 1.6, 1))
        made = made + float(uniform(0.3, 0.6, 1)) * disc(centre, radius, stretch, turn)
        for _ in range(4):
            inside = centre + 0.6 * radius * uniform(-1, 1, 2)
            grain = float(uniform(0.015, 0.05, 1))
            made = made + float(uniform(-0.2, 0.3, 1)) * disc(inside, grain, 1.0, 0.0)
    return HIGHEST * made / made.abs().max().clamp_min(1e-6)
