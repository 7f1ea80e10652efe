"""Measured trajectories: their unit, the matrix they are made for, lines that run backwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon.instrument import ReaderError

__all__ = ["matrix_of", "reversed_lines", "shared", "unit_of"]

Values = NDArray[Any]
#: How far a trajectory may end from the edge of k-space for its unit to be told by it.
WITHIN = 1.3
#: By how much nearer to the edge the one that is taken must come.
CLEARLY = 1.1
#: Pixels of axes with equal resolution may differ by this much.
ALIKE = 0.03
#: k·fov below which an axis is not encoded.
NOTHING = 0.05


def unit_of(
    largest: Values,
    matrix: Sequence[int],
    fov: Sequence[float],
    recon_fov: Sequence[float],
) -> tuple[str, Values]:
    """The unit of a trajectory, told by how far it goes, and the factors to cycles/m.

    Units are not standardised in MRD. The edge of k-space is at 0.5 cycles/pixel, π rad/pixel,
    ``N/2`` cycles/FOV (of the encoded or the reconstructed field of view) or ``N/(2 fov)``
    cycles/m; the one that the largest ``|k|`` comes to within a factor of 1.3 is taken.

    Args:
        largest: largest ``|k|`` along each axis, in the file's unit.
        matrix: encoded size.
        fov: encoded field of view in m.
        recon_fov: that of the reconstruction in m.

    Raises:
        ReaderError: none matches, or two that mean different things.
    """
    n, length, recon = np.asarray(matrix, float), np.asarray(fov, float), np.asarray(recon_fov)
    edge = n / (2 * length)
    factors = {
        "cycles/pixel": n / length,
        "rad/pixel": n / (2 * math.pi * length),
        "cycles/FOV": 1 / length,
        "1/m": np.ones_like(length),
    }
    if not np.allclose(recon, length, rtol=1e-3):
        factors["cycles/FOV of the reconstruction"] = 1 / recon
    reach = {unit: float((largest * factor / edge).max()) for unit, factor in factors.items()}
    fitting = [unit for unit, r in reach.items() if 1 / WITHIN <= r <= WITHIN]
    if not fitting:
        told = ", ".join(f"{r:.3g} in {unit}" for unit, r in reach.items())
        raise ReaderError(
            f"the unit of the trajectory is unknown: its largest |k| along (x, y, z) is "
            f"{np.array2string(largest, precision=4)}, and relative to the edge of k-space of the "
            f"matrix {tuple(matrix)} over {tuple(fov)} m that is {told}; expected about 1 in one "
            "of them. Is the matrix or the field of view in the header wrong?"
        )
    off = {unit: abs(math.log(reach[unit])) for unit in fitting}
    best = min(fitting, key=off.__getitem__)
    near = [unit for unit in fitting if off[unit] < off[best] + math.log(CLEARLY)]
    if any(not np.allclose(factors[unit], factors[best], rtol=0.02) for unit in near):
        raise ReaderError(
            f"the unit of the trajectory may be {' or '.join(near)}: the largest |k| fits them "
            "all. Store it in cycles/pixel (edge at 0.5)"
        )
    return best, factors[best]


def matrix_of(extent: Sequence[float]) -> tuple[int, ...]:
    """Pixels along each axis for a trajectory with ``2 k_max fov`` along each.

    Phase-encoding steps end at an even number of pixels; readouts and ramps end anywhere. The axis
    nearest to an even number is taken for exact, and axes of nearly the same extent get its size.
    """
    even = [max(2, 2 * math.floor(value / 2 + 0.5)) for value in extent]
    exact = min(range(len(even)), key=lambda axis: abs(extent[axis] - even[axis]))
    reference = even[exact]
    return tuple(
        reference if abs(value - reference) <= max(ALIKE * reference, 1.0) else own
        for value, own in zip(extent, even, strict=True)
    )


def reversed_lines(trajectory: Tensor) -> Tensor | None:
    """Which readouts run towards smaller ``k``, (shot) uint8; None where they run along no axis.

    Args:
        trajectory: (shot, sample, axis).
    """
    steps = trajectory.diff(dim=1)
    way = steps.abs().sum((0, 1))
    axis = int(way.argmax())
    along = steps[..., axis]
    if float(way[axis]) < 5 * float(way.sum() - way[axis]):
        return None
    # Of a readout with turns in it (a train in one ADC) there is no direction.
    net, whole = along.sum(1), along.abs().sum(1)
    if bool((net.abs() < 0.9 * whole).any()):
        return None
    return (net < 0).to(torch.uint8)


def shared(trajectory: Values, frames: int) -> Values:
    """Without the frame axes where all frames have the same samples."""
    first = trajectory[(0,) * frames]
    return (
        first
        if np.array_equal(np.broadcast_to(first, trajectory.shape), trajectory)
        else trajectory
    )
