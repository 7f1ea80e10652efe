"""ADISequence: the frames of a sequence in which a map of the sky turns."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from labrecon import Operator, Space
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.point_sources import PointSources
from labrecon_coronagraph.sky import on_frame, radii, sky_offsets

__all__ = ["ADISequence"]


class ADISequence(Operator):
    """``y_t(p) = Σ_s T(|s|) x(s) psf(p − c − R(angle_t) s)``: planets, without their star.

    Each pixel of the map is a point source: its PSF is put where the source is seen, between the
    pixels. During an exposure the sky turns by ``smear`` degrees, which is a mean over steps of at
    most half a pixel.

    The domain is the flux (y, x) of the sky, north up and the star in the middle, as the peak of an
    image in the unit of the data. The range is (frame, y, x). Nuisances are ``angles`` in degrees
    and ``centre`` (y, x) in pixels.

    Args:
        geometry: the sequence.
        dtype: of map and frames.
    """

    angles: Tensor
    centre: Tensor
    transmission: Tensor
    steps: Tensor

    def __init__(
        self, geometry: CoronagraphGeometry, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(
            Space(geometry.field_shape, dtype, ("y", "x")),
            Space((geometry.frames, *geometry.shape), dtype, ("frame", "y", "x")),
        )
        self.geometry = geometry
        self.nuisance("angles", torch.tensor(geometry.angles, dtype=dtype))
        self.nuisance("centre", torch.tensor(geometry.centre, dtype=dtype), numbers=("y", "x"))
        self.sources = PointSources(geometry.shape, geometry.psf.tensor(torch.float64).to(dtype))
        self.register_buffer("transmission", transmission(geometry).to(dtype))
        self.register_buffer("steps", _steps(geometry).to(dtype))

    def _spreads(self, frame: int) -> list[tuple[Tensor, Tensor]]:
        # Positions in double precision: rounding of single is that of a millionth of a frame.
        y, x = (v.flatten().to(self.centre.device) for v in sky_offsets(self.geometry.field_shape))
        angle, centre = self.angles[frame].double(), self.centre.double()
        return [self.sources.spread(*on_frame(y, x, angle + step, centre)) for step in self.steps]

    def forward(self, x: Tensor) -> Tensor:
        """Frames of maps."""
        batch = self.domain.batch(x)
        fluxes = (self.transmission * x).reshape(-1, self.domain.size) / len(self.steps)
        frames = []
        for frame in range(self.geometry.frames):
            parts = [self.sources.images(spread, fluxes) for spread in self._spreads(frame)]
            frames.append(sum(parts[1:], parts[0]))
        return torch.stack(frames, 1).reshape(*batch, *self.range.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """Each frame correlated with the PSF, turned back and summed."""
        batch = self.range.batch(y)
        frames = y.reshape(-1, *self.range.shape)
        total = y.new_zeros(len(frames), self.domain.size)
        for frame in range(self.geometry.frames):
            for spread in self._spreads(frame):
                total = total + self.sources.fluxes(spread, frames[:, frame])
        total = total.reshape(*batch, *self.domain.shape)
        return self.transmission * total / len(self.steps)


def transmission(geometry: CoronagraphGeometry) -> Tensor:
    """Transmission of the coronagraph (y, x) over the map of the sky."""
    shape = geometry.field_shape
    separation = radii(shape, ((shape[0] - 1) / 2, (shape[1] - 1) / 2)) * geometry.pixel_scale
    if not geometry.transmission:
        return torch.ones_like(separation)
    places, values = zip(*geometry.transmission, strict=True)
    return torch.from_numpy(np.interp(separation.numpy(), places, values))


def _steps(geometry: CoronagraphGeometry) -> Tensor:
    """Turns around the middle of an exposure, at which the sky is sampled."""
    reach = math.hypot(*geometry.field_shape) / 2
    count = max(1, math.ceil(2 * math.radians(geometry.smear) * reach))
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5) * geometry.smear
