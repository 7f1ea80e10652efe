"""High pass: the smooth part of halo, sky and PSF taken out of data and model alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon import Scan
from labrecon.instrument import StepError
from labrecon_coronagraph.steps.requirements import geometry_of

__all__ = ["high_pass"]


def high_pass(scan: Scan, *, width: float = 1.0) -> Scan:
    """``y − G y`` with a Gaussian ``G``, and the same to the PSF: fluxes stay what they were.

    Data are scaled so that the middle pixel of the new PSF is 1: a flux is still the peak that the
    planet had before.

    Args:
        scan: frames; no weights of 0 but those of whole pixels.
        width: standard deviation of the Gaussian in ``λ/D``.

    Raises:
        StepError: a width that is not positive or larger than a frame, or speckles that were taken
            out before.
    """
    geometry = geometry_of(scan)
    if geometry.speckles is not None:
        raise StepError("put high_pass before speckles, whose courses are those of filtered frames")
    pixels = width * geometry.resolution
    if not 0.3 < pixels < min(geometry.shape) / 6:
        raise StepError(
            f"width = {width:g} λ/D is a Gaussian of {pixels:.3g} pixels: give one between 0.3 and "
            f"{min(geometry.shape) / 6:.3g} pixels"
        )
    psf = geometry.psf.tensor(torch.float64)
    filtered = psf - _blurred(psf[None], pixels, "constant")[0]
    scale = float(filtered[psf.shape[0] // 2, psf.shape[1] // 2])
    data = scan.data - _blurred(scan.data, pixels, "replicate")
    changed = geometry.changed(psf=filtered / scale)
    sigma = geometry.sigma
    if sigma is not None:
        changed = changed.changed(sigma=sigma / scale)
    return scan.replace(data=data / scale, geometry=changed).with_step(
        "high_pass", width=width, pixels=pixels, kept_of_a_peak=scale
    )


def _blurred(images: Tensor, sigma: float, rim: str) -> Tensor:
    half = math.ceil(4 * sigma)
    ticks = torch.arange(-half, half + 1, dtype=torch.float64)
    taps = torch.exp(-0.5 * (ticks / sigma).square())
    taps = (taps / taps.sum()).to(images)
    padded = torch.nn.functional.pad(images[:, None], (half,) * 4, rim)
    rows = torch.nn.functional.conv2d(padded, taps[None, None, :, None])
    return torch.nn.functional.conv2d(rows, taps[None, None, None, :])[:, 0]
