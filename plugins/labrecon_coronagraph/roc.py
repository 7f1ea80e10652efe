"""Receiver operating characteristic: true against false alarms, on injected planets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon_coronagraph.apertures import full_width
from labrecon_coronagraph.contrast import Reduction
from labrecon_coronagraph.detection import signal_to_noise
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.injection import Planet, inject
from labrecon_coronagraph.sky import offset

__all__ = ["Characteristic", "receiver_operating_characteristic"]


@dataclass(frozen=True)
class Characteristic:
    """Signal to noise with and without a planet at the same places.

    Attributes:
        with_planet: ``t`` (trial,) where planets were injected.
        without: ``t`` (trial,) at the same places of the data as they are.
    """

    with_planet: Tensor
    without: Tensor

    def rates(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Parts of planets that are found, and of empty places that raise a false alarm."""
        at = thresholds[:, None]
        return (
            (self.with_planet >= at).double().mean(1),
            (self.without >= at).double().mean(1),
        )

    @property
    def area(self) -> float:
        """Area under the curve: the chance that a planet has a higher ``t`` than an empty place."""
        difference = self.with_planet[:, None] - self.without[None, :]
        return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def receiver_operating_characteristic(
    data: Tensor,
    geometry: CoronagraphGeometry,
    reduce: Reduction,
    *,
    flux: float,
    separations: tuple[float, float],
    trials: int,
    generator: torch.Generator,
    summed: bool = True,
) -> Characteristic:
    """Injects one planet per trial at a random place and compares it with the place without it.

    Args:
        data: frames (frame, y, x), centred, with known planets subtracted.
        geometry: of the sequence.
        reduce: from data and geometry to a map (y, x).
        flux: of the planets, in the unit of the data.
        separations: least and largest in arcsec; places are even over the area between.
        trials: one reduction each.
        generator: of the places.
        summed: see `signal_to_noise`.

    Raises:
        ValueError: signal to noise is not defined at a separation: too few apertures, or off the
            map.
    """
    diameter = full_width(geometry.psf.tensor(torch.float64))
    empty = reduce(data, geometry)
    found: list[list[float]] = []
    for _ in range(trials):
        first, second = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        low, high = (value**2 for value in separations)
        planet = Planet((low + first * (high - low)) ** 0.5, 360 * second, flux)
        image = reduce(inject(data, geometry, [planet]), geometry)
        y, x = offset(1000 * planet.separation / geometry.pixel_scale, planet.position_angle)
        at = torch.tensor([y]), torch.tensor([x])
        pair = [
            float(signal_to_noise(one, *at, diameter, summed=summed)[0]) for one in (image, empty)
        ]
        if any(value != value for value in pair):
            raise ValueError(
                f"signal to noise is not defined at {planet.separation:.3g} arcsec: fewer than 3 "
                "other apertures fit, or the map ends there"
            )
        found.append(pair)
    values = torch.tensor(found, dtype=torch.float64)
    return Characteristic(values[:, 0], values[:, 1])
