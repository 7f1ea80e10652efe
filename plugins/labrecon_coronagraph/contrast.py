"""Contrast curves: the faintest planet that a reduction would show, with few apertures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from labrecon_coronagraph.apertures import aperture_sums, full_width, ring
from labrecon_coronagraph.derotation import sampled
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.injection import Planet, inject
from labrecon_coronagraph.sky import offset

__all__ = ["ContrastCurve", "Reduction", "contrast_curve", "threshold"]

#: From frames (frame, y, x) to a map of the sky (y, x).
Reduction = Callable[[Tensor, CoronagraphGeometry], Tensor]
#: Of the circle, by which neighbouring separations' planets are apart: they hardly meet.
GOLDEN = 360 * (3 - 5**0.5) / 2


@dataclass(frozen=True)
class ContrastCurve:
    """What a reduction would detect, by separation.

    Attributes:
        separations: in arcsec.
        fluxes: of a planet at the limit, in the unit of the data.
        contrasts: those over the star's flux; None where that is not known.
        throughputs: part of an injected planet's flux in its aperture that the reduction keeps.
        noises: standard deviation of the apertures' sums.
        apertures: that fit beside each other on the circle.
    """

    separations: tuple[float, ...]
    fluxes: tuple[float, ...]
    contrasts: tuple[float, ...] | None
    throughputs: tuple[float, ...]
    noises: tuple[float, ...]
    apertures: tuple[int, ...]


def threshold(sigma: float, apertures: int) -> float:
    """``t`` that is as improbable as ``sigma`` Gaussian deviations, with so many apertures.

    Student's distribution with ``n − 2`` degrees of freedom: one of ``n`` apertures is the
    planet's (Mawet et al. 2014).

    Example:
        >>> round(threshold(5.0, 10**6), 3), round(threshold(5.0, 7), 1)
        (5.0, 31.8)
    """
    return float(stats.t.isf(stats.norm.sf(sigma), apertures - 2))


def contrast_curve(
    data: Tensor,
    geometry: CoronagraphGeometry,
    reduce: Reduction,
    separations: Sequence[float],
    *,
    sigma: float = 5.0,
    position_angles: Sequence[float] = (0.0, 120.0, 240.0),
    strength: float = 10.0,
    summed: bool = True,
) -> ContrastCurve:
    """``t_σ s √(1 + 1/n) / (throughput · F)``: fluxes that are detected in one case of two.

    ``s`` is the scatter of the apertures at a separation, as the root mean square over turned
    rings; ``F`` the flux in the aperture of a planet of peak 1. Throughput is measured on injected
    planets. A planet in the data counts as noise: subtract it before (`inject` with its flux below
    zero).

    Args:
        data: frames (frame, y, x), centred.
        geometry: of the sequence.
        reduce: from data and geometry to a map (y, x).
        separations: in arcsec, increasing, apart by two apertures or so.
        sigma: Gaussian deviations of the same false-alarm probability.
        position_angles: of the injected planets in degrees; each set is one more reduction.
        strength: flux in the aperture of injected planets, in units of the scatter.
        summed: the map is of light, which is summed over apertures; else of fitted fluxes, as
            those of `matched_filter`.

    Raises:
        ValueError: fewer than 4 apertures fit at a separation, it leaves the map, or a planet comes
            out of the reduction with no flux.
    """
    diameter = full_width(geometry.psf.tensor(torch.float64))
    image = reduce(data, geometry).double()
    sums = aperture_sums(image, diameter) if summed else image
    pixels = [1000 * separation / geometry.pixel_scale for separation in separations]
    limit = min(image.shape) / 2 - diameter / 2
    for separation, radius in zip(separations, pixels, strict=True):
        if 2 * math.pi * radius < 4 * diameter or radius > limit:
            raise ValueError(
                f"no noise can be told at {separation:g} arcsec: give separations from "
                f"{4 * diameter / (2 * math.pi) * geometry.pixel_scale / 1000:.3g} to "
                f"{limit * geometry.pixel_scale / 1000:.3g} arcsec"
            )
    counts = tuple(math.floor(2 * math.pi * radius / diameter) for radius in pixels)
    noises = [_scatter(sums, radius, diameter) for radius in pixels]
    unit = _aperture_flux(geometry, diameter) if summed else 1.0
    kept = torch.zeros(len(pixels), dtype=torch.float64)
    for start in position_angles:
        planets = [
            Planet(separation, start + GOLDEN * k, strength * noise / unit)
            for k, (separation, noise) in enumerate(zip(separations, noises, strict=True))
        ]
        with_planets = reduce(inject(data, geometry, planets), geometry).double()
        gain = with_planets - image
        gain = aperture_sums(gain, diameter) if summed else gain
        places = torch.tensor(
            [
                offset(radius, one.position_angle)
                for radius, one in zip(pixels, planets, strict=True)
            ],
            dtype=torch.float64,
        )
        found = _at(gain, places[:, 0], places[:, 1])
        flux = torch.tensor([one.flux * unit for one in planets], dtype=torch.float64)
        kept += found / flux / len(position_angles)
    if bool((kept <= 0).any()):
        worst = separations[int(kept.argmin())]
        raise ValueError(f"the reduction leaves nothing of a planet at {worst:g} arcsec")
    throughputs = tuple(kept.tolist())
    fluxes = tuple(
        threshold(sigma, n) * noise * (1 + 1 / (n - 1)) ** 0.5 / (part * unit)
        for n, noise, part in zip(counts, noises, throughputs, strict=True)
    )
    star = geometry.star_flux
    return ContrastCurve(
        tuple(separations),
        fluxes,
        None if star is None else tuple(flux / star for flux in fluxes),
        throughputs,
        tuple(noises),
        counts,
    )


def _at(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return sampled(image, y + (image.shape[0] - 1) / 2, x + (image.shape[1] - 1) / 2)


def _scatter(sums: Tensor, radius: float, diameter: float, turns: int = 8) -> float:
    """Root mean square, over turned rings, of the standard deviation of side-by-side apertures."""
    step = diameter / radius / turns
    start = torch.arange(turns, dtype=torch.float64) * step
    y, x = radius * start.sin(), radius * start.cos()
    others_y, others_x, _ = ring(y, x, diameter)
    values = _at(sums, torch.cat([y[:, None], others_y], 1), torch.cat([x[:, None], others_x], 1))
    return float(values.var(1).mean().sqrt())


def _aperture_flux(geometry: CoronagraphGeometry, diameter: float) -> float:
    psf = geometry.psf.tensor(torch.float64)
    return float(aperture_sums(psf, diameter)[psf.shape[0] // 2, psf.shape[1] // 2])
