"""Contrast: what the model of weak objects speaks of."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Gaussian, Scan
from labrecon.instrument import StepError
from labrecon_phase.steps.requirements import geometry_of

__all__ = ["contrast"]

#: Noise of data in which none is seen: rounding of single precision.
LEAST_SIGMA = 1e-6


def contrast(scan: Scan, *, background: bool = True) -> Scan:
    """``I / I₀ − 1``, with ``I₀`` the empty field; stray light is subtracted before.

    Without images of the empty field ``I₀`` is the mean of each exposure, which takes the LEDs'
    unequal brightness out, too. The noise becomes Gaussian: ``σ`` of the geometry over the mean of
    ``I₀``, or the median absolute mixed second difference ``|∂y² ∂x² y|`` times 1.4826 / 6
    (Immerkær 1996), which images that are sampled finely enough have little of.

    Args:
        scan: intensities, with ``calibration["background"]`` (exposure, y, x) where the empty field
            was measured.
        background: divide by it where it is there.

    Raises:
        StepError: data are contrast already; or an exposure, or a pixel of the empty field, is not
            positive.
    """
    geometry = geometry_of(scan)
    if geometry.quantity == "contrast":
        raise StepError("data are contrast already: leave one of the steps contrast out")
    stray = torch.tensor(geometry.background or [0.0] * geometry.exposures)
    light = scan.data - stray.to(scan.data)[:, None, None]
    means = light.mean((-2, -1), keepdim=True)
    if not bool((means > 0).all()):
        worst = (means <= 0).nonzero()[0].tolist()[-3]
        raise StepError(
            f"exposure {worst} has no light (mean {float(means.min()):.4g}): dark fields have no "
            "contrast; leave it out, or reconstruct intensities (the recipe nonlinear)"
        )
    empty, told = means, "mean of each exposure"
    if background and "background" in scan.calibration:
        measured = scan.calibration["background"].to(scan.data)
        empty, told = _checked(measured, light) - stray.to(measured)[:, None, None], "empty field"
        if not bool((empty > 0).all()):
            raise StepError(
                f"{int((empty <= 0).sum())} pixels of the empty field are not positive: set "
                "background = false to divide by the mean instead"
            )
    data = light / empty - 1
    sigma = _sigma(data) if geometry.sigma is None else geometry.sigma / float(empty.mean())
    return scan.replace(
        data=data,
        geometry=geometry.changed(quantity="contrast", background=None, sigma=sigma),
        noise=Gaussian(sigma),
    ).with_step("contrast", divided_by=told, sigma=sigma, sigma_estimated=geometry.sigma is None)


def _checked(measured: Tensor, light: Tensor) -> Tensor:
    if tuple(measured.shape) != tuple(light.shape[-3:]):
        raise StepError(
            f"images of the empty field are {tuple(measured.shape)}, expected one per exposure: "
            f"{tuple(light.shape[-3:])}"
        )
    return measured


def _sigma(data: Tensor) -> float:
    if min(data.shape[-2:]) < 3:
        raise StepError("images of fewer than 3 pixels tell no noise: give the geometry's sigma")
    mixed = data.diff(n=2, dim=-1).diff(n=2, dim=-2).abs().flatten()
    median = float(mixed[:: max(1, mixed.numel() // 10**6)].median())
    return max(LEAST_SIGMA, 1.4826 * median / 6)
