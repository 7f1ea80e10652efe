"""The star's centre: that of the point symmetry of its halo, or between its satellite spots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from labrecon import Scan
from labrecon.instrument import Curve, StepError
from labrecon_coronagraph.derotation import sampled
from labrecon_coronagraph.steps.requirements import geometry_of, not_applicable
from labrecon_coronagraph.steps.satellite_spots import centre_between_spots
from labrecon_coronagraph.steps.uphill import uphill

__all__ = ["asymmetry", "centre"]

#: Asymmetry of the best centre, above which it is no centre: noise alone has 1.
LARGEST_ASYMMETRY = 0.5


def centre(
    scan: Scan,
    *,
    position: Sequence[float] | None = None,
    radius: float | None = None,
    search: float = 5.0,
    anew: bool = False,
    spots: Sequence[float] | None = None,
    file: str | Path | None = None,
) -> Scan:
    """Find the star behind the mask, or set it; what the file tells of it is kept.

    ``argmin_c Σ_d (I(c + d) − I(c − d))² / Σ_d [(I(c + d) − Ī)² + (I(c − d) − Ī)²]`` over a disc of
    the median frame: the ring of a vortex, the halo of a Lyot coronagraph and the image of a star
    without a mask are all their own mirror images. Around the best point of a coarse grid a
    paraboloid is fitted in ever smaller steps. With ``spots`` the star is where the lines through
    opposite satellite spots cross, see `labrecon_coronagraph.steps.satellite_spots`.

    Args:
        scan: frames of a star that stands still.
        position: set the centre to (y, x) in pixels, counted from 0, instead of searching.
        radius: of the disc in pixels; ``3 λ/D`` by default.
        search: half width of the search around the centre of the geometry, in pixels.
        anew: search although the file tells where the star is.
        spots: separation in λ/D of four satellite spots, cycles per aperture of the mirror's
            waffle, and position angle of one of them in the frame in degrees, from +y towards −x;
            the others follow by 90°. What the file tells of the star is not looked at then.
        file: FITS file with a centring exposure, whose median frame has the spots; by default the
            scan's own frames have them.

    Raises:
        StepError: a position off the frame, a search that does not fit on it, a file that is not of
            these frames, or speckles that were taken out before.
    """
    geometry = geometry_of(scan)
    if geometry.speckles is not None:
        raise StepError("put centre before speckles, which takes the star out")
    if file is not None and spots is None:
        raise StepError("file is a centring exposure with satellite spots: say where by spots")
    if position is not None:
        if spots is not None:
            raise StepError("give position or spots: one sets the star, the other looks for it")
        if len(position) != 2 or not all(
            0 <= at <= n - 1 for at, n in zip(position, geometry.shape, strict=True)
        ):
            raise StepError(
                f"position {list(position)} is not (y, x) on a frame of {geometry.shape} pixels"
            )
        found = (float(position[0]), float(position[1]))
        moved = geometry.changed(centre=found)
        return scan.replace(geometry=moved).with_step("centre", position=list(found), given=True)
    if spots is not None:
        return centre_between_spots(scan, geometry, spots, search, file)
    if "star" in scan.found and not anew:
        return scan.with_step(
            "centre", position=list(geometry.centre), source="the file; anew = true searches"
        )
    reach = 3 * geometry.resolution if radius is None else radius
    room = min(min(at, n - 1 - at) for at, n in zip(geometry.centre, geometry.shape, strict=True))
    if reach < 2 or search <= 0 or reach + search > room:
        raise StepError(
            f"a disc of radius {reach:.3g} moved by up to {search:g} pixels does not fit on the "
            f"frame around {geometry.centre}: give a smaller radius (2 at least) or search"
        )
    image = scan.data.double().quantile(0.5, dim=0)
    best, curve = _coarse(image, geometry.centre, reach, search)
    edge = max(abs(b - c) for b, c in zip(best, geometry.centre, strict=True)) > search - 0.4
    best = uphill(lambda at: -asymmetry(image, at, reach), best, 0.25)
    least = float(asymmetry(image, torch.tensor([best], dtype=torch.float64), reach)[0])
    if edge or least > LARGEST_ASYMMETRY:
        why = "at the edge of the search" if edge else "no symmetric point"
        return not_applicable(scan, "centre", f"{why}: that of the geometry is kept",
                              asymmetry=least, position=list(geometry.centre))  # fmt: skip
    return scan.replace(geometry=geometry.changed(centre=best)).with_step(
        "centre", curve=curve, position=list(best), asymmetry=least, radius=reach
    )


def asymmetry(image: Tensor, centres: Tensor, radius: float) -> Tensor:
    """What `centre` minimises, (centre,): 0 for point symmetry, 1 for noise.

    Args:
        image: (y, x).
        centres: (centre, 2) in pixels (y, x).
        radius: of the disc in pixels.
    """
    half = math.floor(radius)
    ticks = torch.arange(-half, half + 1, dtype=torch.float64)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    inside = torch.hypot(y, x) <= radius
    y, x = y[inside], x[inside]
    # Each pair of opposite places counts twice in both sums.
    here = sampled(image, centres[:, :1] + y, centres[:, 1:] + x)
    there = here.flip(1)
    spread = here - here.mean(1, keepdim=True)
    scale = 2 * spread.square().sum(1)
    return (here - there).square().sum(1) / torch.where(scale > 0, scale, 1.0)


def _coarse(
    image: Tensor, start: tuple[float, float], radius: float, search: float
) -> tuple[tuple[float, float], Curve]:
    ticks = torch.arange(-search, search + 1e-9, 0.5, dtype=torch.float64)
    rows, columns = torch.meshgrid(start[0] + ticks, start[1] + ticks, indexing="ij")
    tried = torch.stack([rows.flatten(), columns.flatten()], 1)
    scores = asymmetry(image, tried, radius)
    at = int(scores.argmin())
    line = scores.reshape(rows.shape)[at // len(ticks)]
    curve = Curve(
        "Search for the star",
        columns[0].tolist(),
        line.tolist(),
        "column",
        "asymmetry about the point (smaller is better)",
        float(tried[at, 1]),
    )
    return (float(tried[at, 0]), float(tried[at, 1])), curve
