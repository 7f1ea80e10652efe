"""How near an estimate is to a known truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["nrmse", "psnr", "ssim"]


def nrmse(estimate: Tensor, truth: Tensor) -> float:
    """``‖x − t‖₂ / ‖t‖₂``; 0 is perfect, 1 is what a zero image has."""
    return float(torch.linalg.vector_norm(estimate - truth) / torch.linalg.vector_norm(truth))


def psnr(estimate: Tensor, truth: Tensor) -> float:
    """``10 log₁₀(R² / mean|x − t|²)`` in dB, where ``R = max|t| − min|t|`` of the truth."""
    error = float((estimate - truth).abs().square().mean())
    modulus = truth.abs() if truth.is_complex() else truth
    peak = float(modulus.max() - modulus.min())
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def ssim(estimate: Tensor, truth: Tensor) -> float:
    """Mean structural similarity over the last two axes (Wang et al. 2004).

    Gaussian window of standard deviation 1.5 cut at 11 pixels, constants 0.01 and 0.03, dynamic
    range ``max − min`` of the truth, windows inside the image only; complex images by modulus.

    Raises:
        ValueError: the images are smaller than the window.
    """
    if estimate.is_complex():
        estimate, truth = estimate.abs(), truth.abs()
    if estimate.ndim < 2 or min(estimate.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs at least 11 pixels per axis, got {tuple(estimate.shape)}")
    x, t = (v.double().reshape(-1, 1, *v.shape[-2:]) for v in (estimate, truth))
    ticks = torch.arange(-5, 6, dtype=torch.float64, device=x.device)
    window = torch.exp(-0.5 * (ticks / 1.5) ** 2)
    window = window / window.sum()

    def local_mean(v: Tensor) -> Tensor:
        rows = functional.conv2d(v, window.view(1, 1, -1, 1))
        return functional.conv2d(rows, window.view(1, 1, 1, -1))

    span = float(t.max() - t.min())
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mx, mt = local_mean(x), local_mean(t)
    vx, vt = local_mean(x * x) - mx**2, local_mean(t * t) - mt**2
    cov = local_mean(x * t) - mx * mt
    similarity = (2 * mx * mt + c1) * (2 * cov + c2) / ((mx**2 + mt**2 + c1) * (vx + vt + c2))
    return float(similarity.mean())
