"""Sparsity of wavelet coefficients."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from labrecon.operators.wavelet import Wavelet
from labrecon.options import whole
from labrecon.prior import PriorError, soft_threshold
from labrecon.priors.weighted import Weighted
from labrecon.space import Space, SpaceError

__all__ = ["WaveletL1"]


@lru_cache(maxsize=32)
def _transform(space: Space, wavelet: str, levels: int | None, device: torch.device) -> Wavelet:
    return Wavelet(space, wavelet, levels).to(device)


class WaveletL1(Weighted):
    """``g(x) = Σ weight · |W x|`` with an orthonormal wavelet transform ``W``, real or complex.

    For piecewise smooth images; the prox is exact and cheap. The transform is not
    shift-invariant: edges show blocks where `TV` shows stairs. All coefficients are counted,
    those of the coarsest approximation too, unless the weight is a tensor that spares them.

    Args:
        weight: strength, in the unit of the data term; a tensor weighs each coefficient.
        wavelet: an orthogonal wavelet of PyWavelets ("haar", "db4", "sym8", …).
        levels: number of levels (default: up to 3).
        ndim: transformed trailing axes.
    """

    def __init__(
        self,
        weight: Tensor | float = 1.0,
        *,
        wavelet: str = "db4",
        levels: int | None = None,
        ndim: int = 2,
    ) -> None:
        super().__init__(weight)
        self.levels = None if levels is None else self._check(whole, "levels", levels)
        self.ndim = self._check(whole, "ndim", ndim)
        self.wavelet = wavelet
        size = 2 ** (self.levels or 1)
        try:
            Wavelet(Space((size,) * self.ndim), wavelet, self.levels)
        except (SpaceError, TypeError, AttributeError) as error:
            raise PriorError(f"WaveletL1: {error}") from error

    def transform(self, x: Tensor) -> Wavelet:
        """``W`` for objects like ``x``."""
        if x.ndim < self.ndim:
            raise PriorError(f"WaveletL1: {self.ndim} axes of an object with {x.ndim}; set ndim")
        space = Space(x.shape[-self.ndim :], x.dtype)
        return _transform(space, self.wavelet, self.levels, x.device)

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """``Σ weight · |W x|``."""
        terms = self.weight * self.transform(x)(x).abs()
        return terms.flatten(x.ndim - (x.ndim if ndim is None else ndim)).sum(-1)

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``Wᴴ soft(W x, step · weight)``."""
        transform = self.transform(x)
        return transform.adjoint(soft_threshold(transform(x), step * self.weight))
