"""Grey edges: means over the area of samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labrecon_coronagraph.fourier import Grid

__all__ = ["area_mean"]


def area_mean(shape: Callable[[Tensor, Tensor], Tensor], grid: Grid, supersampling: int) -> Tensor:
    """Mean (y, x) of a function of y and x over each sample, by ``supersampling²`` midpoints.

    Raises:
        ValueError: supersampling below 1.
    """
    if supersampling < 1:
        raise ValueError(f"supersampling {supersampling}, expected 1 or more")
    rows, columns = grid.shape
    fine = Grid(
        (rows * supersampling, columns * supersampling), grid.step / supersampling, grid.centre
    )
    values = torch.broadcast_to(shape(*fine.meshed()), fine.shape)
    return values.reshape(rows, supersampling, columns, supersampling).mean((1, 3))
