"""Signal to noise with few resolution elements, and lists of detections (Mawet et al. 2014)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from labrecon_coronagraph.apertures import aperture_sums, ring
from labrecon_coronagraph.derotation import sampled
from labrecon_coronagraph.sky import separation_and_angle, sky_offsets

__all__ = ["Detection", "detections", "false_alarm", "signal_to_noise", "snr_map"]

#: Apertures besides the source's, fewer than which tell no scatter.
LEAST_APERTURES = 3


@dataclass(frozen=True)
class Detection:
    """A peak of the signal-to-noise map.

    Attributes:
        separation: from the star in arcsec.
        position_angle: from north towards east in degrees.
        snr: ``t`` of Mawet et al. 2014.
        false_alarm: probability of such a ``t`` at this place without a source.
        significance: the Gaussian deviation of that probability, in σ.
        flux: sum in the aperture, less the mean of the others, in the unit of the map.
    """

    separation: float
    position_angle: float
    snr: float
    false_alarm: float
    significance: float
    flux: float


def signal_to_noise(
    image: Tensor, y: Tensor, x: Tensor, diameter: float, *, summed: bool = True
) -> tuple[Tensor, ...]:
    """``t = (f − m) / (s √(1 + 1/n))`` for sources (source,) at (y, x) pixels from the star.

    ``f`` is the flux in an aperture around the source, ``m`` and ``s`` mean and standard deviation
    (``n − 1``) of the ``n`` other apertures at its separation (Mawet et al. 2014, eq. 9).

    Args:
        image: map (y, x) with the star in its middle.
        y: of each source.
        x: likewise.
        diameter: of the apertures, the full width at half maximum, in pixels.
        summed: the flux of an aperture is the sum in it; else the value in its middle, for maps of
            fitted fluxes, each of which has been summed over the PSF already.

    Returns:
        ``t``, NaN where fewer than 3 other apertures fit or one leaves the map; ``f − m``; ``s``;
        and ``n``, each (source,).
    """
    sums = aperture_sums(image.double(), diameter) if summed else image.double()
    middle = [(n - 1) / 2 for n in image.shape]
    y, x = y.double(), x.double()
    others_y, others_x, exists = ring(y, x, diameter)
    values = sampled(sums, others_y + middle[0], others_x + middle[1])
    n = exists.sum(1)
    mean = torch.where(exists, values, 0.0).sum(1) / n
    square = torch.where(exists, values - mean[:, None], 0.0).square().sum(1)
    scatter = (square / (n - 1)).sqrt()
    excess = sampled(sums, y + middle[0], x + middle[1]) - mean
    t = excess / (scatter * (1 + 1 / n).sqrt())
    whole = torch.hypot(y, x) + diameter / 2 <= min(middle) + 0.5
    known = (n >= LEAST_APERTURES) & whole & (scatter > 0)
    return torch.where(known, t, math.nan), excess, scatter, n


def snr_map(image: Tensor, diameter: float, *, summed: bool = True) -> Tensor:
    """`signal_to_noise` at each pixel (y, x) of a map; NaN where it is not defined."""
    y, x = (v.flatten() for v in sky_offsets((image.shape[0], image.shape[1])))
    return signal_to_noise(image, y, x, diameter, summed=summed)[0].reshape(image.shape)


def false_alarm(snr: float, apertures: int) -> float:
    """Probability that noise alone gives ``t``: Student's with ``n − 1`` degrees of freedom."""
    return float(stats.t.sf(snr, apertures - 1))


def detections(
    image: Tensor,
    diameter: float,
    pixel_scale: float,
    *,
    threshold: float = 5.0,
    summed: bool = True,
) -> list[Detection]:
    """Sources above a threshold, by falling significance.

    A source is a peak of the flux around a peak of signal to noise. What lies within one aperture
    of a more significant source is its own wing.

    Args:
        image: map (y, x), north up, with the star in its middle.
        diameter: of the apertures, the full width at half maximum, in pixels.
        pixel_scale: mas per pixel.
        threshold: in σ of the Gaussian that is as improbable: 5 is 2.9e-7.
        summed: see `signal_to_noise`.
    """
    t = torch.nan_to_num(snr_map(image, diameter, summed=summed), nan=-math.inf)
    peaks = torch.nn.functional.max_pool2d(t[None, None], 3, 1, 1)[0, 0]
    sums = aperture_sums(image.double(), diameter) if summed else image.double()
    places = [
        _summit(sums, row, column, diameter)
        for row, column in ((t == peaks) & (t > 1)).nonzero().tolist()
    ]
    if not places:
        return []
    y, x = torch.tensor(places, dtype=torch.float64).unbind(1)
    ts, fluxes, _, counts = signal_to_noise(image, y, x, diameter, summed=summed)
    found = []
    for place, snr, flux, n in zip(
        places, ts.tolist(), fluxes.tolist(), counts.tolist(), strict=True
    ):
        if math.isfinite(snr):
            chance = false_alarm(snr, n)
            separation, angle = separation_and_angle(*place)
            arcsec = separation * pixel_scale / 1000
            sigma = float(stats.norm.isf(chance))
            found.append((place, Detection(arcsec, angle, snr, chance, sigma, flux)))
    kept: list[tuple[tuple[float, float], Detection]] = []
    for place, one in sorted(found, key=lambda each: -each[1].significance):
        apart = all(math.dist(place, other) >= diameter for other, _ in kept)
        if one.significance >= threshold and apart:
            kept.append((place, one))
    return [one for _, one in kept]


def _summit(sums: Tensor, row: int, column: int, reach: float) -> tuple[float, float]:
    """Where one comes uphill in flux from a pixel, from the middle of the map.

    Signal to noise peaks elsewhere: its noise changes from circle to circle.
    """
    start = best = (row, column)
    while True:
        near = [
            (r, c)
            for r in range(max(0, best[0] - 1), min(sums.shape[0], best[0] + 2))
            for c in range(max(0, best[1] - 1), min(sums.shape[1], best[1] + 2))
        ]
        higher = max(near, key=lambda at: float(sums[at]))
        if float(sums[higher]) <= float(sums[best]):
            break
        best = higher
        if math.dist(start, best) > reach:  # another source's, or the star's
            best = start
            break
    place = []
    for axis, index in enumerate(best):
        line = sums[:, best[1]] if axis == 0 else sums[best[0]]
        at = float(index)
        if 0 < index < len(line) - 1:
            a, b, c = (float(v) for v in line[index - 1 : index + 2])
            if a - 2 * b + c < 0:
                at += max(-0.5, min(0.5, 0.5 * (a - c) / (a - 2 * b + c)))
        place.append(at - (len(line) - 1) / 2)
    return place[0], place[1]
