"""How near an estimate is to a known truth.

Published figures of one name differ by definition: by the peak or data range, by a border that is
cut away, and by averaging over images or over pixels. Here each metric says its own; ``crop`` cuts
so many pixels off every side of the last two axes, of estimate and truth alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["SSIM_WINDOW", "local_similarity", "nrmse", "psnr", "ssim"]

#: Pixels of the window of SSIM along each axis.
SSIM_WINDOW = 11


def nrmse(estimate: Tensor, truth: Tensor, *, crop: int = 0) -> float:
    """``‖x − t‖₂ / ‖t‖₂`` over all samples; 0 is perfect, 1 is what a zero image has.

    There is no data range in it. scikit-image calls it ``normalization="euclidean"``.
    """
    estimate, truth = _cropped(estimate, crop), _cropped(truth, crop)
    return float(torch.linalg.vector_norm(estimate - truth) / torch.linalg.vector_norm(truth))


def psnr(estimate: Tensor, truth: Tensor, *, peak: float | None = None, crop: int = 0) -> float:
    """``10 log₁₀(R² / mean|x − t|²)`` in dB; the mean is over all samples, complex ones too.

    Args:
        estimate: ``x``.
        truth: ``t``.
        peak: ``R``: 1 or 255 in papers on natural images; by default ``max|t| − min|t|``
            (−∞ dB where that is 0).
        crop: pixels cut from every side before anything else.

    Example:
        >>> t = torch.tensor([0.0, 0.5])
        >>> round(psnr(t + 0.1, t), 2), round(psnr(t + 0.1, t, peak=1.0), 2)
        (13.98, 20.0)
    """
    estimate, truth = _cropped(estimate, crop), _cropped(truth, crop)
    error = float((estimate - truth).abs().square().mean())
    modulus = truth.abs() if truth.is_complex() else truth
    span = float(modulus.max() - modulus.min()) if peak is None else peak
    if error == 0 or span == 0:
        return math.inf if error == 0 else -math.inf
    return 10 * math.log10(span**2 / error)


def ssim(
    estimate: Tensor, truth: Tensor, *, data_range: float | None = None, crop: int = 0
) -> float:
    """Mean structural similarity over the last two axes (Wang et al. 2004).

    Gaussian window of standard deviation 1.5 cut at 11 pixels, constants 0.01 and 0.03, windows
    inside the image only; complex images by modulus. scikit-image gives the same number with
    ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``.

    Args:
        estimate: ``x``.
        truth: ``t``.
        data_range: the range of values; by default ``max − min`` of the truth.
        crop: pixels cut from every side before anything else.

    Raises:
        ValueError: the images are smaller than the window.
    """
    estimate, truth = _modulus(_cropped(estimate, crop)), _modulus(_cropped(truth, crop))
    span = truth.max() - truth.min() if data_range is None else torch.tensor(data_range)
    return float(local_similarity(estimate, truth, span).mean())


def _modulus(x: Tensor) -> Tensor:
    return (x.abs() if x.is_complex() else x).double()


def local_similarity(x: Tensor, t: Tensor, span: Tensor) -> Tensor:
    """SSIM of each window inside real images, differentiable.

    Args:
        x: estimates ``(*batch, rows, columns)``.
        t: truths of the same shape.
        span: dynamic range, one number or ``(*batch)``.

    Returns:
        ``(*batch, rows − 10, columns − 10)``.

    Raises:
        ValueError: the images are smaller than the window.
    """
    if x.ndim < 2 or min(x.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs at least 11 pixels per axis, got {tuple(x.shape)}")
    ticks = torch.arange(-5, 6, dtype=x.dtype, device=x.device)
    window = torch.exp(-0.5 * (ticks / 1.5) ** 2)
    window = window / window.sum()

    def local_mean(v: Tensor) -> Tensor:
        images = v.reshape(-1, 1, *v.shape[-2:])
        rows = functional.conv2d(images, window.view(1, 1, -1, 1))
        means = functional.conv2d(rows, window.view(1, 1, 1, -1))
        return means.reshape(*v.shape[:-2], *means.shape[-2:])

    span = span.to(x)[..., None, None]
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mx, mt = local_mean(x), local_mean(t)
    vx, vt = local_mean(x * x) - mx**2, local_mean(t * t) - mt**2
    cov = local_mean(x * t) - mx * mt
    return (2 * mx * mt + c1) * (2 * cov + c2) / ((mx**2 + mt**2 + c1) * (vx + vt + c2))


def _cropped(x: Tensor, crop: int) -> Tensor:
    if crop == 0:
        return x
    if crop < 0 or x.ndim < 2 or min(x.shape[-2:]) <= 2 * crop:
        raise ValueError(f"crop {crop} leaves nothing of images {tuple(x.shape)}")
    return x[..., crop:-crop, crop:-crop]
