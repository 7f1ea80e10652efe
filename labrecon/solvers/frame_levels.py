"""Frames of a burst as registration sees them: grey, smoothed, smaller."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from labrecon.operators.burst import Burst

__all__ = ["Level", "gray", "pooled", "smoothed"]


class Level(NamedTuple):
    """Frames of one size, and what of each pixel was measured, ``(*batch, frame, y, x)``."""

    frames: Tensor
    measured: Tensor


def gray(operator: Burst, data: Tensor, weights: Tensor | None) -> Level:
    """One image per frame: over colours, channels and the cell of a mosaic."""
    measured = torch.ones_like(data.real) if weights is None else weights > 0
    measured = measured.to(data.real.dtype).expand(data.shape)
    frames = data.abs() if data.is_complex() else data
    lead = operator.range.ndim - 3
    if lead:
        axes = tuple(range(-lead - 2, -2))
        frames, measured = (frames * measured).sum(axes), measured.sum(axes)
        frames, measured = frames / measured.clamp_min(1), (measured > 0).to(frames.dtype)
    level = Level(frames, measured)
    return level if operator.cell == 1 else pooled(level, operator.cell)


def pooled(level: Level, size: int) -> Level:
    """Means over cells of what was measured."""
    batch = level.frames.shape[:-2]

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values.flatten(0, -3).unsqueeze(1), size).squeeze(1)

    share = mean(level.measured)
    frames = mean(level.frames * level.measured) / share.clamp_min(1e-6)
    known = (share > 0).to(frames.dtype)
    return Level(frames.unflatten(0, batch), known.unflatten(0, batch))


def smoothed(level: Level) -> Level:
    """Means by (1, 2, 1)/4 along both axes of what was measured; unknown pixels are filled."""
    batch = level.frames.shape[:-2]
    line = level.frames.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line)[None, None]

    def smooth(values: Tensor) -> Tensor:
        return functional.conv2d(values.flatten(0, -3).unsqueeze(1), kernel, padding=1).squeeze(1)

    share = smooth(level.measured)
    frames = smooth(level.frames * level.measured) / share.clamp_min(1e-6)
    return Level(frames.unflatten(0, batch), level.measured)
