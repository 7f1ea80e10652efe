"""Telescope pupils: transmissions (y, x) from 0 to 1, with grey edges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from labrecon.instrument import ReaderError
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.grey import area_mean

__all__ = ["circular", "pupil_from_fits", "segmented", "vlt"]


def circular(
    n: int, obscuration: float = 0.0, *, diameter: float = 1.0, supersampling: int = 8
) -> Tensor:
    """A round pupil, with a round obscuration in its middle.

    Args:
        n: samples along each axis of the array, whose width is the telescope's diameter.
        obscuration: its diameter, in telescope diameters.
        diameter: of the pupil, below 1 for an undersized Lyot stop.
        supersampling: points per sample and axis.

    Raises:
        ValueError: an obscuration not within 0 and the diameter, a diameter not within 0…1.

    Example:
        >>> round(float(circular(64).mean()), 4), round(math.pi / 4, 4)
        (0.7854, 0.7854)
    """
    if not 0 < diameter <= 1:
        raise ValueError(f"a pupil of diameter {diameter}, expected above 0 and at most 1")
    if not 0 <= obscuration < diameter:
        raise ValueError(f"an obscuration of {obscuration}, expected within 0 and {diameter}")

    def shape(y: Tensor, x: Tensor) -> Tensor:
        square = y * y + x * x
        inside = (square <= (diameter / 2) ** 2) & (square > (obscuration / 2) ** 2)
        return inside.to(torch.float64)

    return area_mean(shape, Grid.pupil(n), supersampling)


#: Diameter and central obscuration of the Unit Telescopes in m.
_VLT = {"ut1": (8.0, 1.116), "ut2": (8.0, 1.116), "ut3": (8.0, 1.116), "ut4": (8.1196, 1.293)}
_SPIDER_WIDTH, _SPIDER_OFFSET, _SPIDER_ANGLE = 0.040, 0.4045, 101.0


def vlt(
    n: int,
    telescope: Literal["ut1", "ut2", "ut3", "ut4"] = "ut3",
    *,
    spiders: bool = True,
    supersampling: int = 8,
) -> Tensor:
    """A Unit Telescope of the VLT: obscuration and four spiders of 40 mm.

    The spiders start from two points on the diagonal ``x = y`` and run along ±y and ±x, so that
    their middle lines miss the centre.

    Args:
        n: samples along each axis of the array, whose width is the telescope's diameter.
        telescope: UT1 to UT3 have 8.0 m and an obscuration of .14, UT4 8.12 m and .16.
        spiders: whether they are there.
        supersampling: points per sample and axis.

    Raises:
        ValueError: another telescope.

    Source: ERIS pupil documentation, VLT-SPE-AES-11310-0006, as in HCIPy's ``make_vlt_aperture``.
    """
    if telescope not in _VLT:
        raise ValueError(f"telescope {telescope!r}, expected one of {', '.join(_VLT)}")
    diameter, obscuration = _VLT[telescope]
    radius = _SPIDER_OFFSET / math.cos(math.radians(45 - (_SPIDER_ANGLE - 90) / 2))
    start = radius / math.sqrt(2) / diameter
    end = 4.2197 / diameter
    half = _SPIDER_WIDTH / 2 / diameter

    def shape(y: Tensor, x: Tensor) -> Tensor:
        square = y * y + x * x
        open_ = (square <= 0.25) & (square > (obscuration / diameter / 2) ** 2)
        if spiders:
            for side in (1, -1):
                open_ = open_ & ~_bar(side * y, side * x, (start, start), (0.0, end), half)
                open_ = open_ & ~_bar(side * y, side * x, (start, start), (end, 0.0), half)
        return open_.to(torch.float64)

    return area_mean(shape, Grid.pupil(n), supersampling)


def _bar(
    y: Tensor, x: Tensor, start: tuple[float, float], end: tuple[float, float], half: float
) -> Tensor:
    """Points within ``half`` of the line from ``start`` to ``end``, both (y, x)."""
    length = math.dist(start, end)
    along_y, along_x = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    y, x = y - start[0], x - start[1]
    along, across = y * along_y + x * along_x, x * along_y - y * along_x
    return (along >= 0) & (along <= length) & (across.abs() <= half)


def segmented(n: int, rings: int = 3, gap: float = 0.004, *, supersampling: int = 8) -> Tensor:
    """Hexagonal segments in rings around a middle one, as wide as the array.

    The hexagons have two sides along x; the farthest corners are on the circle of diameter 1.

    Args:
        n: samples along each axis of the array.
        rings: around the middle segment; 0 is one hexagon.
        gap: between neighbours, in telescope diameters.
        supersampling: points per sample and axis.

    Raises:
        ValueError: rings below 0, a gap below 0 or as wide as a segment.
    """
    if rings < 0:
        raise ValueError(f"{rings} rings of segments, expected 0 or more")
    # The farthest corner, of the outermost hexagon on an axis, is at (2R+1)a + Rg along it and a/√3
    # beside it, where a is the inner radius of a hexagon.
    across, shift = 2 * rings + 1, rings * gap
    square = across**2 + 1 / 3
    root = (across * shift) ** 2 - square * (shift**2 - 0.25)
    inner = (math.sqrt(root) - across * shift) / square if root > 0 else 0.0
    if gap < 0 or inner <= 0:
        raise ValueError(
            f"a gap of {gap} between {across} segments in a row, expected at least 0 and less than "
            "leaves room for the segments"
        )
    pitch = 2 * inner + gap

    def shape(y: Tensor, x: Tensor) -> Tensor:
        open_ = torch.zeros(torch.broadcast_shapes(y.shape, x.shape), dtype=torch.bool)
        for q in range(-rings, rings + 1):
            for r in range(max(-rings, -q - rings), min(rings, -q + rings) + 1):
                centre_x, centre_y = pitch * math.sqrt(3) / 2 * q, pitch * (r + q / 2)
                open_ |= _hexagon(y - centre_y, x - centre_x, inner)
        return open_.to(torch.float64)

    return area_mean(shape, Grid.pupil(n), supersampling)


def _hexagon(y: Tensor, x: Tensor, inner: float) -> Tensor:
    """Points of the hexagon of an inner radius around 0, with two sides along x."""
    slanted = math.sqrt(3) / 2 * x.abs() + y.abs() / 2
    return (y.abs() <= inner) & (slanted <= inner)


def pupil_from_fits(path: str | Path, n: int) -> Tensor:
    """The transmission (y, x) in the first image of a FITS file, averaged to ``n × n`` samples.

    The pupil's diameter is the width of the image. A sample is the mean over whole pixels, so the
    width must be a multiple of ``n``.

    Raises:
        ReaderError: no FITS file or no image, not square, not a multiple of ``n``, NaN, or values
            outside 0…1.
    """
    from astropy.io import fits

    try:
        values = fits.getdata(path)
    except (OSError, IndexError, TypeError) as error:
        raise ReaderError(f"{path} cannot be read as a FITS image: {error}") from error
    if values is None or values.ndim != 2 or values.shape[0] != values.shape[1]:
        given = "no image" if values is None else f"an array of shape {values.shape}"
        raise ReaderError(f"{path} holds {given}, expected a square pupil (y, x)")
    width = len(values)
    if n < 1 or width % n:
        divisors = [size for size in range(1, width + 1) if width % size == 0]
        nearest = min(divisors, key=lambda size: abs(size - n))
        raise ReaderError(
            f"{path} has {width} pixels along each axis, which {n} samples do not divide: "
            f"the nearest number that does is {nearest}"
        )
    pupil = torch.from_numpy(values.astype("float64"))
    if not bool(torch.isfinite(pupil).all()):
        raise ReaderError(f"{path} holds {int((~torch.isfinite(pupil)).sum())} NaN or infinities")
    low, high = float(pupil.min()), float(pupil.max())
    if low < 0 or high > 1:
        raise ReaderError(
            f"{path} holds values from {low:.4g} to {high:.4g}, expected a transmission in 0…1"
        )
    return pupil.reshape(n, width // n, n, width // n).mean((1, 3))
