"""Orthonormal wavelet transforms with PyWavelets' filters."""

from __future__ import annotations

from typing import NamedTuple

import pywt
import torch
from torch import Tensor

from labrecon.functional import linear_function
from labrecon.operators.unitary import Unitary
from labrecon.space import Space, SpaceError

__all__ = ["Wavelet"]


class Tap(NamedTuple):
    """One filter coefficient: output half, pair of samples it reads, which of the two, weight."""

    half: int
    pair: int
    phase: int
    weight: float


class Wavelet(Unitary):
    """Separable orthonormal wavelet transform over the last ``ndim`` axes, periodic boundary.

    The coefficients have the shape of the image, in Mallat's layout (approximation first), as
    ``pywt.coeffs_to_array(pywt.wavedecn(x, wavelet, mode="periodization"))``. Not invariant under
    shifts of the image.

    Args:
        space: real or complex.
        wavelet: name of an orthogonal wavelet of PyWavelets: "haar", "db4", "sym8", "coif2".
        levels: number of levels (default: 3, or as many as the shape allows).
        ndim: how many trailing axes (default all).

    Raises:
        SpaceError: the wavelet is not orthogonal, or an axis is not divisible by ``2^levels``.

    Example:
        >>> Wavelet(Space((2,)), "haar")(torch.tensor([3.0, 1.0])).mul(2**0.5).round()
        tensor([4., 2.])
    """

    def __init__(
        self,
        space: Space,
        wavelet: str = "db4",
        levels: int | None = None,
        ndim: int | None = None,
    ) -> None:
        super().__init__(space, space)
        try:
            known = pywt.Wavelet(wavelet)
        except ValueError as error:
            raise SpaceError(f"PyWavelets knows no wavelet {wavelet!r}") from error
        # PyWavelets calls "dmey" orthogonal, which it is to 2e-3.
        if not known.orthogonal or _defect(known.rec_lo) > 1e-9:
            raise SpaceError(f"{wavelet!r} is not orthogonal; take haar, dbN, symN or coifN")
        ndim = space.ndim if ndim is None else ndim
        if not 1 <= ndim <= space.ndim:
            raise SpaceError(f"{ndim} axes of a space with {space.ndim}")
        self.axes = tuple(range(-ndim, 0))
        sizes = space.shape[-ndim:]
        allowed = min((n & -n).bit_length() - 1 for n in sizes)
        self.levels = min(3, allowed) if levels is None else levels
        if not 1 <= self.levels <= allowed:
            raise SpaceError(
                f"axes of {sizes} samples allow {allowed} wavelet levels, {self.levels} asked: "
                "pad or crop the image to a multiple of 2^levels"
            )
        self.filters = _two_phase(known.rec_lo, known.rec_hi)

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients ``W x``."""
        return linear_function(x, self._analyse, self._synthesise)

    def adjoint(self, y: Tensor) -> Tensor:
        """The image ``Wᴴ y = W⁻¹ y``."""
        return linear_function(y, self._synthesise, self._analyse)

    def _analyse(self, x: Tensor) -> Tensor:
        x = x.clone()
        for level in range(self.levels):
            corner = self._corner(x, level)
            result: Tensor = corner
            for axis in self.axes:
                result = _analyse(result, axis, self.filters)
            corner.copy_(result)
        return x

    def _synthesise(self, y: Tensor) -> Tensor:
        y = y.clone()
        for level in reversed(range(self.levels)):
            corner = self._corner(y, level)
            result: Tensor = corner
            for axis in reversed(self.axes):
                result = _synthesise(result, axis, self.filters)
            corner.copy_(result)
        return y

    def _corner(self, x: Tensor, level: int) -> Tensor:
        for axis in self.axes:
            x = x.narrow(axis, 0, self.domain.shape[axis] >> level)
        return x


def _two_phase(low: list[float], high: list[float]) -> list[Tap]:
    """The taps of both filters, with the samples taken in pairs.

    Output ``i`` reads sample ``2i + t − K/2 + 1`` with tap ``t``. PyWavelets correlates with the
    reversed decomposition filter, which is the reconstruction filter itself.
    """
    first = 1 - len(low) // 2
    return [
        Tap(half, *divmod(first + t, 2), weight)
        for half, taps in enumerate((low, high))
        for t, weight in enumerate(taps)
    ]


def _analyse(x: Tensor, axis: int, filters: list[Tap]) -> Tensor:
    """Low half, then high half, of one axis."""
    n = x.shape[axis] // 2
    before, after = -filters[0].pair, filters[-1].pair
    phases = [_wrap(p, axis, before, after) for p in x.unflatten(axis, (n, 2)).unbind(axis)]
    result = torch.zeros_like(x, memory_format=torch.contiguous_format)
    halves = result.chunk(2, axis)
    for half, pair, phase, weight in filters:
        halves[half].add_(phases[phase].narrow(axis, pair + before, n), alpha=weight)
    return result


def _synthesise(y: Tensor, axis: int, filters: list[Tap]) -> Tensor:
    """The transpose of `_analyse`."""
    n = y.shape[axis] // 2
    before, after = filters[-1].pair, -filters[0].pair
    halves = [_wrap(half, axis, before, after) for half in y.chunk(2, axis)]
    phases = [torch.zeros_like(half.narrow(axis, 0, n)) for half in halves]
    for half, pair, phase, weight in filters:
        phases[phase].add_(halves[half].narrow(axis, before - pair, n), alpha=weight)
    return torch.stack(phases, axis).flatten(axis - 1, axis)


def _wrap(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """``x`` continued periodically along an axis, which may be shorter than the filter."""
    n = x.shape[axis]
    laps = 1 + max(before, after) // n
    ring = torch.cat([x] * laps, axis) if laps > 1 else x
    ends = ring.narrow(axis, laps * n - before, before), ring.narrow(axis, 0, after)
    return torch.cat([ends[0], x, ends[1]], axis)


def _defect(low: list[float]) -> float:
    """How far the shifts of a filter by two samples are from orthonormal."""
    h = torch.tensor(low, dtype=torch.float64)
    products = [float(h[2 * s :] @ h[: len(h) - 2 * s]) for s in range(len(h) // 2)]
    return max(abs(products[0] - 1), *(abs(p) for p in products[1:]), 0.0)
