"""Scores of candidate rotation centres, smallest at the right one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon_ct.geometry import CTGeometry
from labrecon_ct.redundancy import arc_start

__all__ = ["conjugate_scores", "wedge_scores"]

#: Columns of the window about a candidate centre, at least: fewer tell nothing of its spectrum.
WINDOW = 16


def conjugate_scores(sinograms: Tensor, geometry: CTGeometry) -> tuple[Tensor, Tensor]:
    """Difference between rays and their copies from the other side, for a full turn.

    A ray (β, u) is seen again at (β + π − 2γ, −u), with fan angle γ = atan(u / source_origin); 0
    for parallel rays. The mean square difference over the common columns is divided by their
    variance; candidates with fewer than a tenth of the columns in common are left out.
    """
    columns = geometry.columns
    coarse = torch.arange(0.1 * columns, 0.9 * columns, 0.5, dtype=torch.float64)
    if geometry.beam == "cone":
        middle = geometry.centre_column
        reach = 0.05 * columns
        coarse = coarse[(coarse > middle - reach) & (coarse < middle + reach)]
    scores = torch.stack([_mirrored(sinograms, geometry, float(c)) for c in coarse])
    best = float(coarse[scores.argmin()])
    fine = best + torch.arange(-1.0, 1.01, 0.1, dtype=torch.float64)
    fine = fine[(fine > 1) & (fine < columns - 2)]
    finer = torch.stack([_mirrored(sinograms, geometry, float(c)) for c in fine])
    return _merged(coarse, scores, fine, finer)


def _merged(coarse: Tensor, scores: Tensor, fine: Tensor, finer: Tensor) -> tuple[Tensor, Tensor]:
    """Both searches as one curve: the fine one replaces the coarse one where it reaches."""
    outside = (coarse < fine.min() - 1e-6) | (coarse > fine.max() + 1e-6)
    tried = torch.cat([coarse[outside], fine])
    order = tried.argsort()
    return tried[order], torch.cat([scores[outside], finer])[order]


def _mirrored(sinograms: Tensor, geometry: CTGeometry, centre: float) -> Tensor:
    views, columns = sinograms.shape[-2:]
    u = torch.arange(columns, dtype=torch.float64)
    mirror = 2 * centre - u
    common = (mirror >= 0) & (mirror <= columns - 1)
    if int(common.sum()) < 0.1 * columns:
        return torch.tensor(torch.inf, dtype=torch.float64)
    # Column u of it is column 2c − u of the data.
    flipped = _moved(sinograms.flip(-1), columns - 1 - 2 * centre)[..., common]
    u = u[common]
    turn = torch.full_like(u, math.pi)
    if geometry.beam == "cone":
        pitch = geometry.column_pitch / geometry.magnification
        turn = math.pi - 2 * torch.atan((u - centre) * pitch / (geometry.source_origin or 1.0))
    # Some two hundred views decide as well as all.
    chosen = torch.arange(0, views, max(1, views // 200))
    first, second, part = _between(geometry, chosen, turn)
    part = part.to(sinograms.dtype)
    column = torch.arange(len(u)).expand(len(chosen), -1)
    copies = (1 - part) * flipped[:, first, column] + part * flipped[:, second, column]
    here = sinograms[..., chosen, :][..., common]
    difference = (here - copies).square().mean()
    spread = here.var() + copies.var()
    return (difference / spread.clamp_min(1e-12)).to(torch.float64)


def _between(geometry: CTGeometry, chosen: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two views next to ``angle + turn`` on the circle, and where it lies between them."""
    circle = 2 * math.pi
    angles = torch.tensor(geometry.angles, dtype=torch.float64) % circle
    order = angles.argsort()
    ordered = angles[order]
    wanted = (angles[chosen][:, None] + turn) % circle
    place = torch.searchsorted(ordered, wanted)
    low, high = (place - 1) % len(order), place % len(order)
    gap = ((ordered[high] - ordered[low]) % circle).clamp_min(1e-12)
    part = (((wanted - ordered[low]) % circle) / gap).clamp(0, 1)
    return order[low], order[high], part


def _moved(sinograms: Tensor, by: float) -> Tensor:
    """``s(u + by)`` for each column u, by the shift theorem on the even continuation.

    Interpolation between neighbours would smooth the noise most half-way between columns, and so
    prefer those places.
    """
    columns = sinograms.shape[-1]
    even = torch.cat([sinograms, sinograms.flip(-1)], -1)
    frequency = torch.fft.rfftfreq(2 * columns, dtype=torch.float64)
    phase = torch.polar(torch.ones_like(frequency), 2 * math.pi * by * frequency)
    spectrum = torch.fft.rfft(even) * phase.to(torch.complex64)
    return torch.fft.irfft(spectrum, n=2 * columns)[..., :columns]


def wedge_scores(sinograms: Tensor, geometry: CTGeometry, search: float) -> tuple[Tensor, Tensor]:
    """Energy outside the double wedge for half turns (Vo, Drakopoulos, Atwood and Reinhard 2014).

    The views and their mirror images about a candidate centre make a full turn. Its 2D Fourier
    transform lies in ``|ν| ≤ R |ω|`` if the object fits together at the seams; ``R`` is the radius
    that is in view. Coarse on a binned detector, then fine on the full one. Candidates whose window
    is narrower than `WINDOW` are left out: on a narrow detector there may be none left.
    """
    columns = geometry.columns
    data = _half_turn(sinograms, geometry)
    factor = max(1, columns // 128)
    binned = data[..., : columns // factor * factor].unflatten(-1, (-1, factor)).mean(-1)
    reach = search * columns
    coarse = geometry.centre_column + torch.arange(-reach, reach, 0.5 * factor, dtype=torch.float64)
    coarse = coarse[(coarse > 0.15 * columns) & (coarse < 0.85 * columns)]
    # In columns of the binned detector, which has fewer.
    edge = 0.5 * WINDOW * factor
    coarse = coarse[(coarse >= edge) & (coarse <= columns - 1 - edge)]
    if not len(coarse):
        return coarse, coarse
    places = ((coarse + 0.5) / factor - 0.5).tolist()
    scores = torch.stack([_outside_wedge(binned, place) for place in places])
    best = float(coarse[scores.argmin()])
    fine = best + torch.arange(-1.0 * factor, 1.0 * factor + 1e-6, 0.25, dtype=torch.float64)
    fine = fine[(fine >= edge) & (fine <= columns - 1 - edge)]
    finer = torch.stack([_outside_wedge(data, place) for place in fine.tolist()])
    # Sums on different grids differ by a factor; it is fixed where both were taken.
    return _merged(coarse, scores, fine, finer * (scores.min() / finer.min()))


def _half_turn(sinograms: Tensor, geometry: CTGeometry, most: int = 360) -> Tensor:
    """At most ``most`` views of the first 180°, in the order of their angles."""
    angles = torch.tensor(geometry.angles, dtype=torch.float64)
    # From where the scan begins: one that passes 360° is not two pieces.
    turned = (angles - arc_start(angles) + 1e-9) % (2 * math.pi)
    order = turned.argsort()
    step = float(turned[order].diff().median())
    order = order[turned[order] < math.pi - 0.5 * step]
    stride = math.ceil(len(order) / most)
    # The seam at 180° needs the same step as all others.
    return sinograms[..., order[: len(order) // stride * stride : stride], :]


def _outside_wedge(sinograms: Tensor, centre: float) -> Tensor:
    views, columns = sinograms.shape[-2:]
    # Of even, smooth length: a prime one makes the transform several times slower.
    size = int(2 * min(centre, columns - 1 - centre)) // 16 * 16
    radius = 0.5 * (size - 1)
    half = _moved(sinograms, centre - radius)[..., :size]
    turn = torch.cat([half, half.flip(-1)], -2)
    turn = turn - turn.mean((-2, -1), keepdim=True)
    spectrum = torch.fft.rfft2(turn, dim=(-1, -2)).abs()
    nu = torch.fft.fftfreq(2 * views)[: views + 1].abs() * 2 * views
    omega = torch.fft.fftfreq(size).abs() * 2 * math.pi
    outside = nu[:, None] > 0.5 * radius * omega + 3
    return spectrum[:, outside].mean().to(torch.float64) / size**0.5
