"""FINUFFT (Barnett, Magland and af Klinteberg 2019): the CPU's default."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["adjoint", "forward"]

#: Its own choice, twice the image, is a power of 2 for most images: four times slower to transform.
UPSAMPLING = 1.9


#: Points, counted for each transform, below which a second thread costs more than it brings.
SMALL = 100_000


def _options(accuracy: float, isign: int, points: int) -> dict[str, Any]:
    return {
        "eps": accuracy,
        "isign": isign,
        "modeord": 0,
        "upsampfac": UPSAMPLING,
        "nthreads": torch.get_num_threads() if points > SMALL else 1,
    }


def _points(omega: Tensor, dtype: torch.dtype) -> list[Any]:
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    # Folded in double precision: single precision loses digits of a phase that is large.
    folded = torch.remainder(omega.double() + torch.pi, 2 * torch.pi) - torch.pi
    return [np.ascontiguousarray(axis) for axis in folded.to(real).mT.numpy()]


def forward(x: Tensor, omega: Tensor, accuracy: float) -> Tensor:
    """``Σ_r x_r exp(−iω·r)``."""
    import finufft

    kind = {1: finufft.nufft1d2, 2: finufft.nufft2d2, 3: finufft.nufft3d2}[x.ndim - 1]
    values = np.ascontiguousarray(x.resolve_conj().numpy())
    y = kind(*_points(omega, x.dtype), values, **_options(accuracy, -1, len(x) * len(omega)))
    return torch.from_numpy(y).reshape(len(x), -1)


def adjoint(y: Tensor, omega: Tensor, shape: tuple[int, ...], accuracy: float) -> Tensor:
    """``Σ_m y_m exp(+iω·r)``."""
    import finufft

    kind = {1: finufft.nufft1d1, 2: finufft.nufft2d1, 3: finufft.nufft3d1}[len(shape)]
    values = np.ascontiguousarray(y.resolve_conj().numpy())
    modes = shape if len(shape) > 1 else shape[0]
    x = kind(*_points(omega, y.dtype), values, modes, **_options(accuracy, 1, len(y) * len(omega)))
    return torch.from_numpy(x).reshape(-1, *shape)
