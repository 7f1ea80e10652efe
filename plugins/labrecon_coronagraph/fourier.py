"""The matrix Fourier transform between a pupil plane and a focal plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon_coronagraph.axis_fourier import AxisFourier

__all__ = ["Grid", "MatrixFourier"]


@dataclass(frozen=True)
class Grid:
    """Square samples of a plane: sample ``i`` of an axis is at ``centre + (i − (n−1)/2) step``.

    Args:
        shape: samples along (y, x).
        step: distance of two samples, in telescope diameters in a pupil plane and in λ0/D in a
            focal plane.
        centre: of the grid, along (y, x).

    Raises:
        ValueError: no samples, or a step that is not above 0.

    Example:
        >>> Grid.centred(4, 0.25).axis(1)
        tensor([-0.3750, -0.1250,  0.1250,  0.3750], dtype=torch.float64)
    """

    shape: tuple[int, int]
    step: float
    centre: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"a grid of {self.shape} samples, expected at least one along y and x")
        if not 0 < self.step < math.inf:
            raise ValueError(f"a grid with step {self.step}, expected a number above 0")

    @classmethod
    def centred(cls, n: int, step: float) -> Grid:
        """``n × n`` samples around 0."""
        return cls((n, n), step)

    @classmethod
    def pupil(cls, n: int) -> Grid:
        """``n × n`` samples of a telescope's pupil, whose diameter is the width of the array."""
        return cls.centred(n, 1 / n)

    def axis(self, axis: int) -> Tensor:
        """Coordinates (sample,) along y (0) or x (1), in double precision."""
        n = self.shape[axis]
        ticks = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
        return self.centre[axis] + ticks * self.step

    def meshed(self) -> tuple[Tensor, Tensor]:
        """Coordinates y (y, 1) and x (1, x), in double precision."""
        return self.axis(0)[:, None], self.axis(1)[None, :]


class MatrixFourier:
    """``E(u) = Σ_x E(x) exp(−2πi s u·x) Δx²`` as two matrix products (Soummer et al. 2007).

    The kernel separates into a matrix for the rows and one for the columns. On samples that lie
    symmetrically the cosine and the sine of half of them suffice, a quarter of the products. They
    are computed in double precision once and kept for each precision and device that is used.

    Args:
        pupil: grid of ``x``, in telescope diameters.
        focal: grid of ``u``, in λ0/D.
        scale: ``s = λ0/λ``, for a wavelength other than the reference.

    Raises:
        ValueError: a scale that is not above 0.

    Source: Soummer, Pueyo, Sivaramakrishnan & Vanderbei 2007, Opt. Express 15, 15935, eq. 5 and 6.

    Example:
        >>> transform = MatrixFourier(Grid.pupil(8), Grid.centred(3, 0.5))
        >>> uniform = torch.ones(8, 8, dtype=torch.complex128)
        >>> round(float(transform.forward(uniform)[1, 1].real), 12)
        1.0
    """

    def __init__(self, pupil: Grid, focal: Grid, scale: float = 1.0) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"λ0/λ is {scale}, expected a number above 0")
        self.pupil = pupil
        self.focal = focal
        self.scale = scale
        self._kept: dict[tuple[torch.dtype, torch.device], tuple[AxisFourier, AxisFourier]] = {}

    def forward(self, field: Tensor) -> Tensor:
        """Focal-plane field (…, v, u) of a complex pupil-plane field (…, y, x).

        Raises:
            TypeError: a real field.
            ValueError: a field of another shape than the pupil's grid.
        """
        rows, columns = self._axes(field, self.pupil)
        half = rows.forward(field)
        return columns.forward(half.mT.contiguous()).mT

    def backward(self, field: Tensor) -> Tensor:
        """Pupil-plane field (…, y, x) of a focal-plane field: conjugate kernel, weights ``Δu²``.

        It is the adjoint of `forward` up to the areas of the samples:
        ``Δu² ⟨g, F f⟩ = Δx² ⟨B g, f⟩`` with ``Δu`` in λ/D.

        Raises:
            TypeError: a real field.
            ValueError: a field of another shape than the focal grid.
        """
        rows, columns = self._axes(field, self.focal)
        half = columns.backward(field.mT)
        return rows.backward(half.mT.contiguous())

    def _axes(self, field: Tensor, expected: Grid) -> tuple[AxisFourier, AxisFourier]:
        if not field.is_complex():
            raise TypeError(f"the field is {field.dtype}, expected a complex one: field + 0j")
        if tuple(field.shape[-2:]) != expected.shape:
            raise ValueError(
                f"the field has shape {tuple(field.shape)}, expected (…, y, x) with (y, x) = "
                f"{expected.shape}"
            )
        key = (field.dtype, field.device)
        if key not in self._kept:
            steps = (self.pupil.step, self.focal.step * self.scale)
            rows, columns = (
                AxisFourier(self.pupil.axis(axis), self.focal.axis(axis), steps, self.scale, field)
                for axis in (0, 1)
            )
            self._kept[key] = (rows, columns)
        return self._kept[key]
