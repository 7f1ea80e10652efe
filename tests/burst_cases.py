"""Bursts of smooth scenes with known motions, for the tests of their solvers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon.operators import Burst, Decimation
from labrecon.space import Space

F64 = torch.float64
FRAMES = 5


def scene(*batch: int, size: int = 48, seed: int = 0) -> Tensor:
    """Blobs of 3 to 6 samples, between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.arange(size, dtype=F64)
    x = torch.zeros(*batch, size, size, dtype=F64)
    for one in x.reshape(-1, size, size):
        for _ in range(40):
            y0, x0, width, level = torch.rand(4, dtype=F64, generator=generator)
            v, u = (grid - size * y0)[:, None], (grid - size * x0)[None]
            one += (level - 0.4) * torch.exp(-(v**2 + u**2) / 2 / (1.5 + 1.5 * width) ** 2)
    return (x - x.amin()) / (x.amax() - x.amin())


def drawn(*shape: int, seed: int = 1, reach: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    motion = reach * (2 * torch.rand(*shape, dtype=F64, generator=generator) - 1)
    motion[..., 0, :] = 0
    return motion


def noise(like: Tensor, sigma: float = 0.01, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sigma * torch.randn(like.shape, dtype=like.dtype, generator=generator)


def burst(size: int = 48, factor: int = 2, frames: int = FRAMES, **options: Any) -> Burst:
    return Burst(Decimation(Space((size, size), F64), factor), frames, **options)


def taken(*batch: int, seed: int = 1, around: int = 8, **options: Any) -> tuple[Burst, Any, Any]:
    """A burst, its frames of a scene that goes on beyond them, and the true motions."""
    wide = burst(48 + 2 * around, **options)
    motion = drawn(*batch, FRAMES, wide.model.numbers, seed=seed)
    edge = around // 2
    frames = wide(scene(*batch, size=48 + 2 * around), motion=motion)[..., edge:-edge, edge:-edge]
    return burst(**options), frames + noise(frames), motion


def rms(a: Tensor) -> float:
    return float(a.square().mean().sqrt())
