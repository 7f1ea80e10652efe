"""The flux of a single planet at each place, with the speckles fitted beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Scan
from labrecon_coronagraph.derotation import sampled
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.sequence import transmission
from labrecon_coronagraph.sky import on_frame, radii, sky_offsets
from labrecon_coronagraph.speckles import annulus_labels, planets_without_speckles

__all__ = ["matched_filter"]

#: Places whose tracks are compared at once.
CHUNK = 400
#: Part of a planet's signal below which the projection has left too little of it to be told.
LEAST_LEFT = 0.05


def matched_filter(scan: Scan) -> tuple[Tensor, Tensor]:
    """``f = a_sᵀ W y / a_sᵀ W a_s`` and ``σ = (a_sᵀ W a_s)^(-1/2)``, each (y, x) of the sky.

    ``a_s`` is what the projected sequence sees of a planet of flux 1 at ``s``: its self-subtraction
    is in the model. ``W`` are weights over the noise's variance, which the step ``speckles`` sets.
    Where the projection leaves less than 5 % of ``a_sᵀ W a_s`` both are 0: little rotation near
    the star, or too many modes.

    Args:
        scan: prepared by the step ``speckles``.

    Raises:
        ValueError: it was not.
    """
    geometry = scan.geometry
    if not isinstance(geometry, CoronagraphGeometry) or geometry.speckles is None:
        raise ValueError("a matched filter needs a scan that the step speckles has prepared")
    operator = planets_without_speckles(geometry, dtype=scan.data.dtype)
    precision = torch.ones_like(scan.data[0]) if scan.weights is None else _in_time(scan.weights)
    precision = precision / scan.noise.variance(precision)
    with torch.no_grad():
        projected = operator.adjoint(precision * scan.data)
        information, part = (v.to(projected) for v in _information(geometry, precision))
    known = (information > 1e-9 * information.max()) & (part > LEAST_LEFT)
    information = torch.where(known, information, 1.0)
    flux = torch.where(known, projected / information, 0.0)
    return flux, torch.where(known, information.rsqrt(), 0.0)


def _in_time(weights: Tensor) -> Tensor:
    """Weights (y, x), which the frames share."""
    if weights.ndim > 2 and bool((weights != weights[:1]).any()):
        raise ValueError("weights differ between frames: run bad_frames and bad_pixels before")
    return weights[0] if weights.ndim > 2 else weights


def _information(geometry: CoronagraphGeometry, precision: Tensor) -> tuple[Tensor, Tensor]:
    """``Σ_tu (I − V Vᵀ)_tu w(s) ρ(p_t − p_u)``, ``ρ`` the PSF's autocorrelation, (y, x).

    ``w`` is the precision averaged over the square of the PSF, at the radius of the place. And
    which part it is of what there would be without the projection.
    """
    psf = geometry.psf.tensor(torch.float64)
    sizes = [2 * n - 1 for n in psf.shape]
    power = torch.fft.rfft2(psf, s=sizes).abs().square()
    rho = torch.fft.fftshift(torch.fft.irfft2(power, s=sizes))
    square = psf.square() / psf.square().sum()
    mean = torch.nn.functional.conv2d(
        precision.double()[None, None], square[None, None], padding=[n // 2 for n in psf.shape]
    )[0, 0]
    profile = _profile(mean, geometry)
    assert geometry.speckles is not None
    modes = geometry.speckles.tensor(torch.float64)
    courses = torch.eye(geometry.frames, dtype=torch.float64) - modes @ modes.mT
    # The matrix and the autocorrelation are symmetric: each pair of frames once.
    t, u = torch.tril_indices(geometry.frames, geometry.frames)
    pairs = courses[:, t, u] * torch.where(t == u, 1.0, 2.0)
    y, x = (v.flatten() for v in sky_offsets(geometry.field_shape))
    radius = torch.hypot(y, x)
    annulus = torch.bucketize(
        radius, torch.tensor(geometry.annuli, dtype=torch.float64), right=True
    )
    annulus = annulus.sub(1).clamp(0, len(modes) - 1)
    centre = torch.tensor(geometry.centre, dtype=torch.float64)
    angles = torch.tensor(geometry.angles, dtype=torch.float64)
    middle = [n - 1 for n in psf.shape]
    parts = []
    for place in torch.arange(len(y)).split(CHUNK):
        rows, columns = on_frame(y[place, None], x[place, None], angles, centre)
        down = rows[:, t] - rows[:, u] + middle[0]
        across = columns[:, t] - columns[:, u] + middle[1]
        parts.append((pairs[annulus[place]] * sampled(rho, down, across)).sum(1))
    at = radius.round().long().clamp_max(len(profile) - 1)
    left = torch.cat(parts)
    total = (left * profile[at]).reshape(geometry.field_shape) * transmission(geometry).square()
    whole = geometry.frames * float(rho[middle[0], middle[1]])
    return total, (left / whole).reshape(geometry.field_shape)


def _profile(image: Tensor, geometry: CoronagraphGeometry) -> Tensor:
    """Mean of an image by the radius from the star in whole pixels; 0 beyond the annuli."""
    bins = radii(geometry.shape, geometry.centre).round().long()
    inside = annulus_labels(geometry.shape, geometry.centre, geometry.annuli) >= 0
    sums = torch.zeros(int(bins.max()) + 1, dtype=torch.float64)
    counts = sums.clone().index_add(0, bins[inside], torch.ones_like(image[inside]))
    sums = sums.index_add(0, bins[inside], image[inside])
    return sums / counts.clamp_min(1)
