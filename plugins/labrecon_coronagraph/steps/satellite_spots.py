"""The star between its satellite spots: where the lines through opposite ones cross."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon import Scan
from labrecon.instrument import Curve, ReaderError, StepError
from labrecon_coronagraph.apertures import full_width
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.sky import offset
from labrecon_coronagraph.spline import Spline
from labrecon_coronagraph.steps.requirements import not_applicable
from labrecon_coronagraph.steps.uphill import uphill

__all__ = ["centre_between_spots", "find_spots", "line_crossing"]

#: Of the faintest spot, below which a speckle may be taken for it.
LEAST_SNR = 5.0
#: Separation in widths of the PSF, below which the spots leave too little halo to compare with.
LEAST_SEPARATION = 3.0


def centre_between_spots(
    scan: Scan,
    geometry: CoronagraphGeometry,
    spots: Sequence[float],
    search: float,
    file: str | Path | None,
) -> Scan:
    """The scan with its star between four satellite spots; see the step `centre`.

    Raises:
        StepError: no separation and angle, spots off the frame, or a file that is not of it.
    """
    if len(spots) != 2 or not all(math.isfinite(value) for value in spots) or spots[0] <= 0:
        raise StepError(
            f"spots = {list(spots)}, expected their separation in λ/D and the position angle of "
            "one of them in the frame in degrees, such as [14.0, 45.0]"
        )
    psf = geometry.psf.tensor(torch.float64)
    width = full_width(psf)
    separation = float(spots[0]) * geometry.resolution
    if search <= 0 or separation < LEAST_SEPARATION * width:
        raise StepError(
            f"spots at {separation:.3g} pixels, searched for within {search:g}: expected at least "
            f"{LEAST_SEPARATION:g} widths of the PSF, {LEAST_SEPARATION * width:.3g} pixels, and a "
            "search above 0"
        )
    corners = _corners(geometry.centre, separation, float(spots[1]))
    size = torch.tensor(geometry.shape, dtype=torch.float64)
    room = search + 1.5 * width + 1
    if not bool(((corners >= room) & (corners <= size - 1 - room)).all()):
        told = ", ".join(f"({y:.0f}, {x:.0f})" for y, x in corners.tolist())
        raise StepError(
            f"spots at {spots[0]:g} λ/D are expected at (y, x) = {told}; with a search of "
            f"{search:g} pixels and the PSF they must be {room:.1f} from the rim of a frame of "
            f"{geometry.shape} pixels: give another separation, a smaller search, or a larger frame"
        )
    image = _image(scan, geometry, file)
    found = find_spots(image, psf, corners, search)
    record: dict[str, Any] = {
        "position": list(found.centre),
        "source": "satellite spots of " + ("the frames" if file is None else str(file)),
        "spots": [[round(value, 2) for value in place] for place in found.places.tolist()],
        "flux": [float(f"{value:.4g}") for value in found.flux.tolist()],
        "snr": [round(value, 1) for value in found.snr.tolist()],
        "apart": round(found.apart, 3),
    }
    why = _doubt(found, search, width)
    if why:
        record["position"] = list(geometry.centre)
        return not_applicable(scan, "centre", f"{why}; that of the geometry is kept", **record)
    moved = geometry.changed(centre=found.centre)
    return scan.replace(geometry=moved).with_step("centre", curve=found.curve, **record)


def _corners(centre: tuple[float, float], separation: float, angle: float) -> Tensor:
    """(spot, 2) in pixels, one after the other around the star."""
    turned = [offset(separation, angle + 90 * k) for k in range(4)]
    return torch.tensor(centre, dtype=torch.float64) + torch.tensor(turned, dtype=torch.float64)


def _image(scan: Scan, geometry: CoronagraphGeometry, file: str | Path | None) -> Tensor:
    """The median frame (y, x), of the scan or of a centring exposure."""
    if file is None:
        return scan.data.double().quantile(0.5, dim=0)
    from labrecon_coronagraph.readers.fits_file import image

    try:
        values = image(Path(file))
    except ReaderError as error:
        raise StepError(f"the centring exposure: {error}") from error
    if values.ndim not in (2, 3) or values.shape[-2:] != geometry.shape:
        raise StepError(
            f"{Path(file).name} holds an array of {values.shape}, expected (y, x) or (frame, y, x) "
            f"with frames of {geometry.shape} pixels as in the scan: cut it as the scan is, and "
            "put crop after centre"
        )
    frame = torch.from_numpy(values.astype("float64")).reshape(-1, *geometry.shape)
    frame = frame.quantile(0.5, dim=0)
    if not bool(torch.isfinite(frame).all()):
        raise StepError(f"{Path(file).name}: pixels of its median frame are NaN or infinite")
    return frame


def _doubt(found: Spots, search: float, width: float) -> str:
    """Why these are no four spots of a star; empty where they are."""
    if max(abs(value) for value in found.shift) > search - 0.4:
        return f"the spots are at the edge of the search, {search:g} pixels from their places"
    faintest = int(found.snr.argmin())
    if not float(found.snr[faintest]) >= LEAST_SNR:
        y, x = found.places[faintest].tolist()
        return (
            f"no spot near (y, x) = ({y:.1f}, {x:.1f}): S/N {float(found.snr[faintest]):.1f}, "
            f"expected {LEAST_SNR:g}"
        )
    # Noise alone moves a spot by 0.4 width / (S/N), so that the middles are 0.6 of that apart; the
    # tenth of a width is for speckles that stay and for distortion.
    if found.apart > width * (0.1 + 3 * 0.6 / float(found.snr[faintest])):
        return (
            f"the middles between opposite spots are {found.apart:.2f} pixels apart: something "
            "bright is beside one of them"
        )
    return ""


@dataclass(frozen=True)
class Spots:
    """Four satellite spots of a star.

    Attributes:
        centre: (y, x) of the star in pixels.
        places: (spot, 2) of the spots, one after the other around the star.
        flux: (spot,), the peak of each.
        snr: (spot,), over the scatter of the halo at their separation.
        apart: distance of the middles of the two lines, 0 for spots that are opposite each other.
        shift: (y, x) from where the star was expected to the best place of the coarse search.
        curve: of that search.
    """

    centre: tuple[float, float]
    places: Tensor
    flux: Tensor
    snr: Tensor
    apart: float
    shift: tuple[float, float]
    curve: Curve


class _PointFilter:
    """Flux of a point source at any place of an image: least squares of its PSF and a plane.

    Args:
        image: (y, x).
        psf: (y, x) of odd size, 1 in its middle pixel.
    """

    def __init__(self, image: Tensor, psf: Tensor) -> None:
        self.image, self.shape = Spline(image), image.shape
        self.width = full_width(psf)
        half = math.floor(self.width)
        ticks = torch.arange(-half, half + 1, dtype=torch.float64)
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        inside = torch.hypot(y, x) <= self.width
        self.y, self.x = y[inside], x[inside]
        middle = [(n - 1) / 2 for n in psf.shape]
        profile = Spline(psf)(self.y + middle[0], self.x + middle[1])
        terms = torch.stack([profile, torch.ones_like(profile), self.y, self.x], 1)
        self.weights = torch.linalg.pinv(terms)[0]

    def __call__(self, places: Tensor) -> Tensor:
        """Fluxes (…,) at places (…, 2) in pixels (y, x)."""
        y, x = places[..., :1] + self.y, places[..., 1:] + self.x
        return self.image(y, x) @ self.weights


def find_spots(image: Tensor, psf: Tensor, corners: Tensor, search: float) -> Spots:
    """Four spots of a square around the star, each fitted by the PSF to a part of a pixel.

    The square is moved over the image as a whole; of its four fluxes the mean of the middle two
    counts, so that a planet or a hot pixel beside one spot does not lead it away. Of each spot only
    the place across its line matters to the crossing: neither a separation that is a little off,
    nor spots drawn out along the radius by the band, nor unequal light of the spots move it.

    Args:
        image: (y, x).
        psf: of a star off the mask (y, x), of odd size, 1 in its middle pixel.
        corners: (spot, 2) where the spots are expected in pixels, one after the other around.
        search: half width of the search in pixels.

    Source: Sivaramakrishnan and Oppenheimer 2006, ApJ 647, 620; Marois et al. 2006, ApJ 647, 612.
    """
    fitted = _PointFilter(image, psf)
    shift, curve = _coarse(fitted, corners, search)
    places = torch.stack([_summit(fitted, corner + shift) for corner in corners])
    centre = line_crossing(places)
    middles = (places[:2] + places[2:]) / 2
    flux = fitted(places)
    return Spots(
        centre=(float(centre[0]), float(centre[1])),
        places=places,
        flux=flux,
        snr=flux / _scatter(fitted, places, centre),
        apart=float(torch.dist(*middles)),
        shift=(float(shift[0]), float(shift[1])),
        curve=curve,
    )


def line_crossing(places: Tensor) -> Tensor:
    """(2,) where the line through the points 0 and 2 of (4, 2) meets that through 1 and 3.

    Example:
        >>> line_crossing(torch.tensor([[2.0, 0.0], [0.0, 9.0], [-5.0, 0.0], [0.0, -1.0]]))
        tensor([0., 0.])
    """
    first, second = places[2] - places[0], places[3] - places[1]
    along = torch.linalg.solve(torch.stack([first, -second], 1), places[1] - places[0])
    return places[0] + along[0] * first


def _coarse(fitted: _PointFilter, corners: Tensor, search: float) -> tuple[Tensor, Curve]:
    ticks = torch.arange(-search, search + 1e-9, 0.5, dtype=torch.float64)
    shifts = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)
    fluxes = fitted(corners + shifts[:, None])
    scores = fluxes.sort(1).values[:, 1:3].mean(1)
    at = int(scores.argmax())
    column = float(corners[:, 1].mean())
    curve = Curve(
        "Search for the satellite spots",
        (column + ticks).tolist(),
        scores.reshape(len(ticks), -1)[at // len(ticks)].tolist(),
        "column of the star",
        "flux of the spots",
        column + float(shifts[at, 1]),
    )
    return shifts[at], curve


def _summit(fitted: _PointFilter, start: Tensor) -> Tensor:
    """The spot within half a width of where the square has it."""
    reach = math.ceil(fitted.width) / 2
    ticks = torch.arange(-reach, reach + 1e-9, 0.5, dtype=torch.float64)
    near = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2) + start
    best = near[int(fitted(near).argmax())]
    place = uphill(lambda at: fitted(at), (float(best[0]), float(best[1])), 0.5)
    return torch.tensor(place, dtype=torch.float64)


def _scatter(fitted: _PointFilter, places: Tensor, centre: Tensor) -> Tensor:
    """Robust deviation of fluxes at the spots' separation, away from them."""
    away = places - centre
    radius = float(torch.linalg.vector_norm(away, dim=1).mean())
    rings = [radius - fitted.width, radius, radius + fitted.width]
    others = []
    for ring in rings:
        count = max(1, round(2 * math.pi * ring / fitted.width)) if ring > fitted.width else 0
        turn = torch.arange(count, dtype=torch.float64) * (2 * math.pi / max(1, count))
        others.append(centre + ring * torch.stack([turn.cos(), turn.sin()], 1))
    free = torch.cat(others)
    size = torch.tensor(fitted.shape, dtype=torch.float64)
    inside = ((free >= fitted.width) & (free <= size - 1 - fitted.width)).all(1)
    apart = torch.cdist(free, places).amin(1) >= 2 * fitted.width
    fluxes = fitted(free[inside & apart])
    return 1.4826 * (fluxes - fluxes.median()).abs().median()
