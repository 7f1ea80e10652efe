"""The fully sampled middle of k-space, from which coil sensitivities are calibrated."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.operators.fourier import centred_fft
from labrecon_mri.density import pipe_menon
from labrecon_mri.nufft import NUFFT

__all__ = ["acs_region", "covered_width", "gridded_block"]

#: Samples around the block that are gridded with it: neighbours have a say in its edge.
MARGIN = 8
#: Part of the block's Nyquist cells that have a sample of their own.
COVERED = 0.95


def acs_region(mask: Tensor, width: int | None = None) -> tuple[slice, ...]:
    """The largest fully sampled block around the centre of k-space, grown evenly on all sides.

    Args:
        mask: ``(*matrix)``, not 0 where k-space was measured.
        width: no more than that many samples along each axis.

    Returns:
        A slice per axis; all are empty where the centre ``N//2`` itself is missing.
    """
    measured = mask != 0
    low = [n // 2 for n in measured.shape]
    high = [n // 2 + 1 for n in measured.shape]
    if not bool(measured[tuple(low)]):
        return tuple(slice(centre, centre) for centre in low)
    growing = True
    while growing:
        growing = False
        for axis, n in enumerate(measured.shape):
            # The lower side first: an even block has its centre at N//2, too.
            for side in (low, high):
                step = -1 if side is low else 1
                beyond = low[axis] - 1 if side is low else high[axis]
                if not 0 <= beyond < n or high[axis] - low[axis] >= (width or n):
                    continue
                face = [slice(a, b) for a, b in zip(low, high, strict=True)]
                face[axis] = slice(beyond, beyond + 1)
                if bool(measured[tuple(face)].all()):
                    side[axis] += step
                    growing = True
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def covered_width(trajectory: Tensor, fov: tuple[float, ...], width: int) -> int:
    """How wide the middle of k-space is that a trajectory samples at the Nyquist rate.

    Args:
        trajectory: (sample, axis) in cycles/m.
        fov: in m along the same axes.
        width: the most that is asked for, in samples of the Nyquist grid.

    Returns:
        The largest even width up to ``width`` with samples in 95 % of the cells; 0 without.
    """
    cells = (trajectory * trajectory.new_tensor(fov)).round().long()
    for wide in range(width - width % 2, 0, -2):
        place = cells + wide // 2
        inside = ((place >= 0) & (place < wide)).all(-1)
        index = torch.zeros(int(inside.sum()), dtype=torch.long)
        for axis in range(len(fov)):
            index = index * wide + place[inside][:, axis]
        if len(index.unique()) >= COVERED * wide ** len(fov):
            return wide
    return 0


def gridded_block(data: Tensor, trajectory: Tensor, fov: tuple[float, ...], width: int) -> Tensor:
    """The middle of k-space on a Cartesian grid, by weighted least squares.

    A low-resolution image with ``width + 8`` pixels per axis is fitted to the samples it can
    explain, weighted by their density compensation; its transform is cropped to the block.

    Args:
        data: samples (coil, sample).
        trajectory: (sample, axis) in cycles/m.
        fov: in m along the same axes.
        width: of the block, see `covered_width`.

    Returns:
        (coil, width, …) with the spacing ``1/fov``.
    """
    wide = width + MARGIN
    inside = (trajectory.abs() * trajectory.new_tensor(fov) <= wide / 2 - 0.5).all(-1)
    near, values = trajectory[inside][None], data[:, inside][:, None]
    matrix = (wide,) * len(fov)
    nufft = NUFFT(matrix, fov, near, dtype=values.dtype)
    density = pipe_menon(matrix, fov, near).to(values.real.dtype)
    image = nufft.solve(
        nufft.adjoint(density * values), rho=1e-3, weights=density, iterations=15, tolerance=1e-4
    )
    block = centred_fft(image, tuple(range(-len(fov), 0)))
    start = wide // 2 - width // 2
    # The orthonormal scale of the small grid: relative to the whole scan's it is a common factor.
    for axis in range(1, block.ndim):
        block = block.narrow(axis, start, width)
    return block
