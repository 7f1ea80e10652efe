"""What stands in the focal plane: an opaque disc, a vortex, nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.grey import area_mean

__all__ = ["FocalMask", "LyotDisc", "NoMask", "Propagation", "Vortex"]

#: From the pupil-plane field (…, y, x) and λ0/λ to the field before the Lyot stop.
Propagation = Callable[[Tensor, float], Tensor]


class FocalMask(Protocol):
    """What `labrecon_coronagraph.propagation.Coronagraph` asks of a focal-plane mask."""

    def propagation(self, n: int) -> Propagation:
        """From a pupil plane of ``n × n`` samples through the mask to the next pupil plane."""
        ...


@dataclass(frozen=True)
class NoMask:
    """An empty focal plane: the telescope without a coronagraph, for off-axis references."""

    def propagation(self, n: int) -> Propagation:
        """The field as it is."""
        return _unchanged


def _unchanged(field: Tensor, scale: float) -> Tensor:
    return field


@dataclass(frozen=True)
class LyotDisc:
    """An opaque disc, fixed in angle: ``M(u) = 0`` where ``|u| < radius``.

    Args:
        radius: in λ0/D.
        samples: at least so many per λ0/D; fewer than 20 change a contrast by percents.
        supersampling: points per sample and axis of the grey rim.

    Raises:
        ValueError: a radius, samples or supersampling not above 0.

    Example:
        >>> mask = LyotDisc(2.25)
        >>> mask.grid.shape, round(float(mask.blocked().sum()) * mask.grid.step**2 / math.pi, 3)
        ((90, 90), 5.063)
    """

    radius: float
    samples: float = 20.0
    supersampling: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise ValueError(f"a focal-plane mask of radius {self.radius} λ0/D, expected above 0")
        if not 0 < self.samples < math.inf:
            raise ValueError(f"{self.samples} samples per λ0/D, expected a number above 0")
        if self.supersampling < 1:
            raise ValueError(f"supersampling {self.supersampling}, expected 1 or more")

    @property
    def grid(self) -> Grid:
        """Samples of the square around the disc, even in number so that none is at 0."""
        n = 2 * math.ceil(self.radius * self.samples - 1e-9)
        return Grid.centred(n, 2 * self.radius / n)

    def blocked(self) -> Tensor:
        """``1 − M`` (v, u): 1 inside the disc, the covered part of a sample at its rim."""
        square = self.radius**2

        def disc(y: Tensor, x: Tensor) -> Tensor:
            return (y * y + x * x <= square).to(torch.float64)

        return area_mean(disc, self.grid, self.supersampling)

    def propagation(self, n: int) -> Propagation:
        """``E − F⁻¹{(1 − M) F{E}}``, see `labrecon_coronagraph.babinet`."""
        from labrecon_coronagraph.babinet import Babinet

        return Babinet(n, self.grid, self.blocked())


@dataclass(frozen=True)
class Vortex:
    """``M(u) = exp(i l θ)`` with ``θ`` from +x towards +y; the same at all wavelengths.

    Args:
        charge: ``l``; even, for only these null a star behind a round pupil.

    Raises:
        ValueError: a charge that is odd or 0.
    """

    charge: int

    def __post_init__(self) -> None:
        if self.charge == 0 or self.charge % 2:
            raise ValueError(
                f"a vortex of charge {self.charge}, expected an even one (2, 4, 6, …): others "
                "leave light of the star inside the Lyot stop"
            )

    def propagation(self, n: int) -> Propagation:
        """A convolution in the pupil plane, see `labrecon_coronagraph.vortex`."""
        from labrecon_coronagraph.vortex import VortexConvolution

        return VortexConvolution(self.charge, n)
