"""Usual k-space trajectories, in cycles/m: starting points for learning, and for simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["epi", "radial", "radial_3d", "spiral"]

#: The golden angle of spokes through the centre (Winkelmann et al. 2007).
GOLDEN = math.pi * (math.sqrt(5) - 1) / 2
#: Share of a spiral's readout, squared root, after which it moves at an even pace.
SETTLES = 0.3


def radial(
    shots: int,
    samples: int,
    matrix: Sequence[int],
    fov: Sequence[float],
    *,
    golden: bool = True,
    centre_out: bool = False,
) -> Tensor:
    """Spokes: (shot, sample, axis), from edge to edge of k-space through sample ``samples // 2``.

    Args:
        shots: number of spokes.
        samples: along each.
        matrix: image size (y, x).
        fov: in m.
        golden: turn by the golden angle; otherwise evenly over half a turn.
        centre_out: spokes from the centre to the edge, over a whole turn.
    """
    turn = 2 if centre_out else 1
    step = turn * (GOLDEN if golden else math.pi / shots)
    angle = step * torch.arange(shots, dtype=torch.float64)
    direction = torch.stack([angle.sin(), angle.cos()], -1)
    if centre_out:
        place = torch.linspace(0, 1, samples, dtype=torch.float64)
        return place[:, None] * direction[:, None, :] * _edge(matrix, fov)
    return _along(direction, samples, matrix, fov)


def radial_3d(shots: int, samples: int, matrix: Sequence[int], fov: Sequence[float]) -> Tensor:
    """Spokes through the centre in 3D, by golden means (Chan et al. 2009): (shot, sample, axis)."""
    i = torch.arange(shots, dtype=torch.float64)
    height = (i * 0.4656) % 1 * 2 - 1
    turn = 2 * math.pi * ((i * 0.6823) % 1)
    flat = (1 - height.square()).sqrt()
    direction = torch.stack([height, flat * turn.sin(), flat * turn.cos()], -1)
    return _along(direction, samples, matrix, fov)


def spiral(
    shots: int,
    samples: int,
    matrix: Sequence[int],
    fov: Sequence[float],
    *,
    turns: float | None = None,
    power: float = 1.0,
) -> Tensor:
    """Interleaved spirals from the centre out, at an even pace but for the first turns.

    The angle is ``∝ √(a² + t) − a``, which starts at rest and goes on along the arc; ``|k|`` is
    proportional to its power. A fast spiral starts beyond what gradients can do: `GradientSlew`
    projects it.

    Args:
        shots: interleaves.
        samples: of each.
        matrix: image size (y, x).
        fov: in m.
        turns: of each interleaf; by default as many as sample k-space fully: N / (2 shots).
        power: 1 is Archimedean; more is denser in the middle.
    """
    edge = _edge(matrix, fov)
    count = min(matrix) / (2 * shots) if turns is None else turns
    linear = torch.arange(samples, dtype=torch.float64) / (samples - 1)
    t = ((SETTLES**2 + linear).sqrt() - SETTLES) / ((SETTLES**2 + 1) ** 0.5 - SETTLES)
    start = 2 * math.pi * torch.arange(shots, dtype=torch.float64)[:, None] / shots
    angle = 2 * math.pi * count * t + start
    radius = t**power
    return torch.stack([radius * angle.sin(), radius * angle.cos()], -1) * edge


def epi(shots: int, samples: int, matrix: Sequence[int], fov: Sequence[float]) -> Tensor:
    """Interleaved echo-planar trains with sinusoidal readouts: (shot, sample, axis).

    ``k_x = −K cos(π L t)`` sweeps ``L = N_y / shots`` lines back and forth, while ``k_y`` rises
    evenly and passes each line at the middle of its sweep. Without corners, it is within reach of
    gradients if it lasts long enough.

    Args:
        shots: trains, each of which has every ``shots``-th line.
        samples: of each train.
        matrix: image size (y, x).
        fov: in m.

    Raises:
        ValueError: the lines do not make equal trains of at least 4.
    """
    lines = matrix[0] // shots
    if matrix[0] % shots or lines < 4:
        raise ValueError(
            f"{matrix[0]} lines in {shots} shots are not equal trains of at least 4 lines: take a "
            "number of shots that divides the lines"
        )
    edge = _edge(matrix, fov)
    swept = torch.linspace(0, lines, samples, dtype=torch.float64)
    train = torch.arange(shots, dtype=torch.float64)[:, None]
    row = train + shots * (swept - 0.5) - matrix[0] // 2
    column = -edge[1] * (math.pi * swept).cos()
    return torch.stack([row / fov[0], column.expand_as(row)], -1)


def _along(direction: Tensor, samples: int, matrix: Sequence[int], fov: Sequence[float]) -> Tensor:
    place = (torch.arange(samples, dtype=torch.float64) - samples // 2) / (samples / 2)
    return place[:, None] * direction[:, None, :] * _edge(matrix, fov)


def _edge(matrix: Sequence[int], fov: Sequence[float]) -> Tensor:
    if len(matrix) != len(fov):
        raise ValueError(f"matrix {matrix} and fov {fov} have an entry per image axis each")
    return torch.tensor(
        [n / (2 * f) for n, f in zip(matrix, fov, strict=True)], dtype=torch.float64
    )
