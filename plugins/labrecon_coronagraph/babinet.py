"""Through a focal-plane mask that changes a small part of the plane, by Babinet's principle."""

from __future__ import annotations

from torch import Tensor

from labrecon_coronagraph.fourier import Grid, MatrixFourier
from labrecon_coronagraph.placed import Placed

__all__ = ["Babinet"]


class Babinet:
    """``E_C = E − F⁻¹{(1 − M) F{E}}``: only where the mask is not clear is the focal plane sampled.

    Args:
        n: samples of the pupil plane along each axis.
        grid: of the mask, in λ0/D.
        blocked: ``1 − M`` (v, u), real or complex; 0 outside the grid.

    Source: Soummer et al. 2007, Opt. Express 15, 15935, eq. 8.
    """

    def __init__(self, n: int, grid: Grid, blocked: Tensor) -> None:
        self.grid = grid
        self._taken = Placed(-blocked)
        self.pupil = Grid.pupil(n)
        self._transforms: dict[float, MatrixFourier] = {}

    def __call__(self, field: Tensor, scale: float) -> Tensor:
        """Field (…, y, x) before the Lyot stop; ``scale`` is λ0/λ."""
        transform = self._transforms.setdefault(scale, MatrixFourier(self.pupil, self.grid, scale))
        taken = transform.backward(transform.forward(field) * self._taken.like(field))
        # In place, for large arrays leave the cache; no gradient needs what was there.
        return taken.add_(field)
