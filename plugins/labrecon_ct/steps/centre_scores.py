"""Scores of candidate rotation centres, smallest at the right one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon_ct.filtering import ramp
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.redundancy import view_weights

__all__ = ["conjugate_scores", "sharpness_scores"]


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
    u, mirror = u[common], mirror[common]
    low = mirror.floor().clamp(max=columns - 2)
    share = (mirror - low).to(sinograms.dtype)
    index = low.long()
    flipped = (1 - share) * sinograms[..., index] + share * sinograms[..., index + 1]
    turn = torch.full_like(u, 0.5 * views)
    if geometry.beam == "cone":
        pitch = geometry.column_pitch / geometry.magnification
        gamma = torch.atan((u - centre) * pitch / (geometry.source_origin or 1.0))
        turn = (math.pi - 2 * gamma) / (2 * math.pi) * views
    turned = torch.arange(views, dtype=torch.float64)[:, None] + turn
    before = turned.floor()
    part = (turned - before).to(sinograms.dtype)
    first = before.long() % views
    second = (first + 1) % views
    column = torch.arange(len(u)).expand(views, -1)
    copies = (1 - part) * flipped[:, first, column] + part * flipped[:, second, column]
    here = sinograms[..., common]
    difference = (here - copies).square().mean()
    spread = here.var() + copies.var()
    return (difference / spread.clamp_min(1e-12)).to(torch.float64)


def sharpness_scores(
    sinograms: Tensor, geometry: CTGeometry, search: float
) -> tuple[Tensor, Tensor]:
    """``Σ|f|`` of filtered back-projections at candidate centres, from coarse to fine."""
    columns = geometry.columns
    middle = geometry.centre_column
    factor = max(1, columns // 128)
    reach = search * columns
    coarse = middle + torch.arange(-reach, reach + 1e-6, max(1.0, factor / 2), dtype=torch.float64)
    coarse = coarse[(coarse > 0.1 * columns) & (coarse < 0.9 * columns)]
    scores = _absolute_sums(sinograms, geometry, coarse, factor)
    for width, step in ((2.0 * factor, 0.5), (1.0, 0.125)):
        best = float(coarse[scores.argmin()])
        fine = best + torch.arange(-width, width + 1e-6, step, dtype=torch.float64)
        stride = max(1, factor // 2)
        finer = _absolute_sums(sinograms, geometry, fine, 1, stride)
        # Sums on different grids differ by a factor; it is fixed where both were taken.
        scale = scores.min() / finer.min()
        coarse, scores = _merged(coarse, scores, fine, finer * scale)
    return coarse, scores


def _absolute_sums(
    sinograms: Tensor, geometry: CTGeometry, centres: Tensor, factor: int, stride: int = 1
) -> Tensor:
    """``Σ|f|`` inside the circle that every view sees, with the detector binned by ``factor``."""
    columns = geometry.columns // factor
    data = sinograms[..., : columns * factor].unflatten(-1, (columns, factor)).mean(-1)
    angles = torch.tensor(geometry.angles, dtype=torch.float64)
    weights = view_weights(geometry, angles, torch.zeros(()))[:, :1].to(data)
    # Cut-off edges of a truncated object would ring over the whole image.
    data = torch.nn.functional.pad(data, (columns // 2,) * 2, mode="replicate")
    transfer = ramp(2 * columns, 1.0, "hann").to(data)
    size = 2 * (len(transfer) - 1)
    filtered = torch.fft.irfft(torch.fft.rfft(data * weights, n=size) * transfer, n=size)
    filtered = filtered[..., columns // 2 : columns // 2 + columns]
    padded = torch.nn.functional.pad(filtered, (0, 1))
    grid = torch.arange(0, columns, stride, dtype=torch.float64) - (columns - 1) / 2
    x, y = grid, -grid[:, None]
    radius = columns / 2
    inside = (x.square() + y.square()) <= radius**2
    px, py = x.expand(len(grid), -1)[inside], y.expand(-1, len(grid))[inside]
    sums = []
    for centre in centres.tolist():
        middle = (centre + 0.5) / factor - 0.5
        image = torch.zeros(len(data), len(px), dtype=data.dtype)
        for view, theta in enumerate(angles.tolist()):
            place = px * math.cos(theta) + py * math.sin(theta) + middle
            low = place.floor()
            seen = (low >= 0) & (low < columns)
            index = low.clamp(0, columns - 1).long()
            share = (place - low).to(data.dtype)
            line = padded[:, view]
            value = line[:, index] + share * (line[:, index + 1] - line[:, index])
            image += torch.where(seen, value, 0.0)
        sums.append(image.abs().mean().to(torch.float64))
    return torch.stack(sums)
