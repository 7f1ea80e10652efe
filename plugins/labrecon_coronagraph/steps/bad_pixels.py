"""Dead and hot pixels, and hits of cosmic rays in single frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon import Scan
from labrecon.instrument import StepError
from labrecon_coronagraph.sky import radii
from labrecon_coronagraph.steps.requirements import geometry_of

__all__ = ["bad_pixels"]

#: Of narrowness over that of a star's peak, for the noise in both.
MARGIN = 1.5


def bad_pixels(
    scan: Scan,
    *,
    pixels: Sequence[Sequence[int]] = (),
    detect: bool = True,
    threshold: float = 12.0,
) -> Scan:
    """Give dead and hot pixels weight 0; put the mean of the neighbours where a frame was hit.

    A pixel is bad where it is named, has weight 0 in more than half of the frames, or stands out
    from the median of its neighbours in the median frame by ``threshold`` robust deviations of that
    difference at its distance from the star, and further than the peak of the PSF does: satellite
    spots and static speckles are no defects. A hit stands out likewise in a frame less the median
    frame, by the pixel's own deviation in time. Hits, and other samples of weight 0, are replaced
    and count as measured, since what `speckles` projects out needs each pixel in all frames.

    Args:
        scan: frames of a star.
        pixels: (y, x) of bad pixels, counted from 0.
        detect: look for bad pixels and hits.
        threshold: in robust standard deviations.

    Raises:
        StepError: a pixel that is not on the frame, or speckles that were taken out before.
    """
    geometry = geometry_of(scan)
    if geometry.speckles is not None:
        raise StepError("put bad_pixels before speckles, which spreads a hit over all frames")
    missing = torch.zeros(scan.data.shape, dtype=torch.bool)
    if scan.weights is not None:
        missing = scan.weights.expand_as(scan.data) == 0
    bad = missing.float().mean(0) > 0.5
    empty = int(bad.sum())
    for pixel in pixels:
        if len(pixel) != 2 or not all(
            0 <= at < n for at, n in zip(pixel, geometry.shape, strict=True)
        ):
            raise StepError(
                f"bad pixel {list(pixel)} is not (y, x) on frames of {geometry.shape} pixels"
            )
        bad[int(pixel[0]), int(pixel[1])] = True
    hits = missing & ~bad
    gaps = int(hits.sum())
    if detect:
        # What is known to be bad must not raise the level of what is not.
        data = _replaced(scan.data, missing | bad)
        usual = data.quantile(0.5, dim=0)
        away = usual - _neighbours(usual[None])[0]
        rings = (radii(geometry.shape, geometry.centre) / 3).round().long()
        narrow = _narrowness(usual - _middle_of_ring(usual, rings))
        star = _narrowness(geometry.psf.tensor(usual.dtype))
        peak = tuple(n // 2 for n in star.shape)
        bad |= (away.abs() > threshold * _by_ring(away, rings)) & (narrow > MARGIN * star[peak])
        change = data - usual
        alone = change - _neighbours(change)
        spread = 1.4826 * change.abs().quantile(0.5, dim=0)
        # Of few frames the deviation of a pixel may be small by chance.
        spread = torch.maximum(spread, _by_ring(spread, rings) / 1.4826)
        hits |= (alone.abs() > threshold * spread) & (spread > 0) & ~bad
    data = _replaced(scan.data, hits | bad)
    weights = (~bad).to(scan.data.dtype)
    if scan.weights is not None:
        weights = torch.where(bad, 0.0, scan.weights.expand_as(scan.data).amax(0))
    return scan.replace(data=data, weights=weights.unsqueeze(0)).with_step(
        "bad_pixels",
        empty=empty,
        bad=int(bad.sum()),
        places=bad.nonzero()[:20].tolist(),
        gaps=gaps,
        hits=int(hits.sum()) - gaps,
        frames_hit=hits.flatten(1).any(1).nonzero()[:20, 0].tolist(),
        values="mean of the neighbours",
    )


def _windows(images: Tensor) -> Tensor:
    """The 8 neighbours (frame, 8, y, x), the frame's rim repeated."""
    padded = torch.nn.functional.pad(images[:, None], (1, 1, 1, 1), "replicate")[:, 0]
    height, width = images.shape[-2:]
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return torch.stack([padded[:, y : y + height, x : x + width] for y, x in shifts], 1)


def _neighbours(images: Tensor) -> Tensor:
    return _windows(images).quantile(0.5, dim=1)


def _replaced(images: Tensor, bad: Tensor) -> Tensor:
    """Bad samples by the mean of their good neighbours, from the rim of a patch inwards."""
    values, left = torch.where(bad, 0.0, images), bad.expand_as(images)
    while bool(left.any()):
        good = _windows((~left).to(values.dtype))
        sums = (_windows(values) * good).sum(1)
        counts = good.sum(1)
        now = left & (counts > 0)
        if not bool(now.any()):
            break
        values = torch.where(now, sums / counts.clamp_min(1), values)
        left = left & ~now
    return values


def _narrowness(image: Tensor) -> Tensor:
    """What a pixel (y, x) differs by from its neighbours, over the brightest of them."""
    around = _windows(image[None])[0]
    scale = around.abs().amax(0)
    away = (image - around.quantile(0.5, dim=0)).abs()
    return away / scale.clamp_min(torch.finfo(image.dtype).tiny)


def _middle_of_ring(values: Tensor, rings: Tensor) -> Tensor:
    """Median (y, x) of the ring around the star that a pixel lies in."""
    found = torch.zeros_like(values)
    for ring in rings.unique():
        here = rings == ring
        found[here] = values[here].median()
    return found


def _by_ring(values: Tensor, rings: Tensor) -> Tensor:
    """Robust standard deviation of what scatters around 0, in rings around the star."""
    found = torch.zeros_like(values)
    for ring in rings.unique():
        here = rings == ring
        found[here] = 1.4826 * values[here].abs().median()
    return found
