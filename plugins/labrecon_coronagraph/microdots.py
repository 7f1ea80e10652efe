"""Microdots: apodizers of opaque and clear dots, whose density is the grey that was learned."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.design import Box

__all__ = ["Microdots"]


class Microdots(Box):
    """Amplitudes from 0 to 1 that are printed as dots: each sample is open or closed.

    `harden` spreads the rounding of a sample over the next ones (error diffusion, Floyd and
    Steinberg 1976), so that the mean over a few samples stays and what is added is far out in
    the focal plane. The mean of the dots is the *amplitude*: the on-axis field, as in Martinez et
    al. 2009. Use a pupil with one sample per dot.

    Example:
        >>> dots = Microdots().harden(torch.full((100, 100), 0.25))
        >>> sorted(set(dots.flatten().tolist())), round(float(dots.mean()), 2)
        ([0.0, 1.0], 0.25)
    """

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def harden(self, value: Tensor) -> Tensor:
        """Dots (y, x) of 0 and 1."""
        grey = self.project(value).detach().double().cpu()
        ny, nx = grey.shape
        rows = torch.nn.functional.pad(grey, (1, 1, 0, 1)).tolist()
        for y in range(ny):
            row, below = rows[y], rows[y + 1]
            for x in range(1, nx + 1):
                dot = 1.0 if row[x] >= 0.5 else 0.0
                left = row[x] - dot
                row[x] = dot
                row[x + 1] += left * 7 / 16
                below[x - 1] += left * 3 / 16
                below[x] += left * 5 / 16
                below[x + 1] += left * 1 / 16
        made = torch.tensor(rows, dtype=torch.float64)[:ny, 1 : nx + 1]
        return made.to(value)
