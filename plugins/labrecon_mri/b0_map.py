"""The off-resonance of an object from the phase between echoes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["b0_from_echoes"]


def b0_from_echoes(
    images: Tensor, echo_times: Sequence[float], *, smoothing: float = 1.0
) -> Tensor:
    """Field map in Hz, such that ``x_e ∝ exp(−i2π f t_e)``, the sign of the forward model.

    ``f = −arg Σ_c x_1 conj(x_0) / 2π(t_1 − t_0)`` of the first two echoes, whose spacing must not
    let the phase wrap (``|f| < 1/2Δt``). Each later echo is unwrapped to the nearest multiple of 2π
    from what is known by then, and refines the slope by least squares. The products are smoothed
    before their phase is taken, so that pixels count by their magnitude. Not between echoes whose
    readouts run in opposite directions: their phase differs by more than the field.

    Args:
        images: complex (echo, coil, *matrix).
        echo_times: in s, increasing, one per echo.
        smoothing: standard deviation of a Gaussian in pixels along each image axis; 0 for none.

    Returns:
        (*matrix) in Hz, float64; 0 where there is no signal at all.

    Raises:
        ValueError: fewer than two echoes, times that do not increase or fit, or real images.
    """
    times = [float(t) for t in echo_times]
    if len(times) < 2 or len(images) != len(times):
        raise ValueError(f"{len(images)} echo images and {len(times)} echo times: two or more each")
    if not all(b > a for a, b in pairwise(times)) or times[-1] > 1:
        raise ValueError(f"echo times increase and are in s (not ms); got {times}")
    if not images.is_complex() or images.ndim < 3:
        raise ValueError(
            f"echo images are complex (echo, coil, *matrix), got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if not smoothing >= 0:
        raise ValueError(f"smoothing is a width in pixels from 0 on, got {smoothing}")
    wide = images.to(torch.complex128)
    products = _smoothed((wide[1:] * wide[0].conj()).sum(1), smoothing)
    frequency = torch.zeros(products.shape[1:], dtype=torch.float64)
    phases = torch.zeros_like(frequency)
    power = torch.zeros_like(frequency)
    for product, time in zip(products, times[1:], strict=True):
        apart = time - times[0]
        expected = -2 * math.pi * frequency * apart
        phase = product.angle()
        phase = phase + 2 * math.pi * ((expected - phase) / (2 * math.pi)).round()
        # The variance of a phase is inverse to the squared magnitude of the product.
        weight = product.abs().square()
        phases += weight * phase * apart
        power += weight * apart**2
        frequency = torch.where(power > 0, -phases / (2 * math.pi * power), 0.0)
    return frequency


def _smoothed(values: Tensor, deviation: float) -> Tensor:
    """A Gaussian along all axes but the first, cut at three deviations."""
    if deviation == 0:
        return values
    reach = math.ceil(3 * deviation)
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (place / deviation).square())
    for axis in range(1, values.ndim):
        moved = values.movedim(axis, -1)
        padded = torch.nn.functional.pad(moved, (reach, reach))
        windows = padded.unfold(-1, 2 * reach + 1, 1)
        values = (windows * (kernel / kernel.sum())).sum(-1).movedim(-1, axis)
    return values
