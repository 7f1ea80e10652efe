"""The noise level of line integrals, estimated from the data."""

from __future__ import annotations

import torch

from labrecon import Gaussian, Scan
from labrecon.instrument import StepError
from labrecon_ct.steps.requirements import not_applicable, require_integrals

__all__ = ["noise_level"]


def noise_level(scan: Scan, *, sigma: float | None = None) -> Scan:
    """Set the standard deviation of the noise, so that χ² of the residual means something.

    Estimated as the robust standard deviation of third differences along the views, over √20: an
    object's sinogram is smooth along the views. With weights ``w``, ``σ`` is that of weight 1.

    Args:
        scan: line integrals ``([row,] angle, column)``.
        sigma: use this value instead.

    Raises:
        StepError: ``sigma`` is not positive, or the data are raw counts.
    """
    require_integrals(scan, "noise_level")
    if sigma is not None and not sigma > 0:
        raise StepError(f"sigma must be positive, got {sigma}")
    if sigma is None:
        if scan.data.shape[-2] < 8:
            return not_applicable(scan, "noise_level", "fewer than 8 views")
        weights = torch.ones_like(scan.data) if scan.weights is None else scan.weights
        third = scan.data.diff(n=3, dim=-2)
        scaled = third * weights.expand_as(scan.data)[..., 1:-2, :].sqrt()
        used = scaled[scaled != 0].abs()
        if not len(used):
            return not_applicable(scan, "noise_level", "the data do not vary")
        used = used[:: max(1, len(used) // 10**6)]
        sigma = float(1.4826 * used.median() / 20**0.5)
    noise = Gaussian(sigma)
    return scan.replace(noise=noise).with_step("noise_level", sigma=sigma)
