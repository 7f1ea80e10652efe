"""Normal noise of a level per sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon.noise.model import Noise, NoiseError, standard_normal

__all__ = ["Gaussian"]


class Gaussian(Noise):
    """``y = A(x) + n`` with independent ``n ~ N(0, σ²)``; ``density = |p − y|² / 2σ²``.

    Complex data have standard deviation ``σ`` in the real and in the imaginary part each.

    Args:
        sigma: standard deviation in the unit of the data; a number or a tensor that broadcasts.
    """

    sigma: Tensor

    def __init__(self, sigma: Tensor | float = 1.0) -> None:
        super().__init__()
        value = torch.as_tensor(sigma, dtype=None if isinstance(sigma, Tensor) else torch.float64)
        if not bool((value > 0).all()) or not bool(torch.isfinite(value).all()):
            raise NoiseError("the standard deviation of Gaussian noise must be positive, finite")
        self.register_buffer("sigma", value)
        self.unit = _is_one(value)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.unit = _is_one(self.sigma)

    def _over_variance(self, values: Tensor) -> Tensor:
        return values if self.unit else values / self.sigma.to(values.real.dtype).square()

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``clean + σ n`` with standard normal ``n`` (per real and imaginary part)."""
        n = standard_normal(clean, generator)
        return clean + self.sigma.to(clean.real.dtype) * n

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``|p − y|² / 2σ²``."""
        r = predicted - measured
        square = torch.view_as_real(r).square().sum(-1) if r.is_complex() else r.square()
        return 0.5 * self._over_variance(square)

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``(p − y) / σ²``."""
        return self._over_variance(predicted - measured)

    def curvature(self, measured: Tensor) -> Tensor | float:
        """``1 / σ²``."""
        return 1.0 if self.unit else self.sigma.to(measured.real.dtype) ** -2

    def prox(self, v: Tensor, measured: Tensor, step: Tensor | float) -> Tensor:
        """``(v + t y) / (1 + t)`` with ``t = step / σ²``."""
        t = step * self.curvature(measured)
        return (v + t * measured) / (1 + t)

    def variance(self, predicted: Tensor) -> Tensor:
        """``σ²``."""
        return self.sigma.to(predicted.real.dtype).square().expand(predicted.shape)


def _is_one(sigma: Tensor) -> bool:
    return sigma.ndim == 0 and float(sigma) == 1.0
