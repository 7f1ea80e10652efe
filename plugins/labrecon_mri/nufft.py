"""The non-uniform Fourier transform of images, in cycles/m."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labrecon import Operator, Space
from labrecon.design import Box, FeasibleSet
from labrecon.functional import Map
from labrecon_mri.density import pipe_menon
from labrecon_mri.sums import type1, type2
from labrecon_mri.toeplitz import Toeplitz

__all__ = ["NUFFT"]


class NUFFT(Operator):
    """``y(k) = (∏N)^{−1/2} Σ_r x(r) exp(−i2π k·r)``, ``r = (i − N//2) · fov / N``.

    Domain ``([*frames,] *matrix)``, range ``([*frames,] shot, sample)``; leading batch dimensions
    are coils, slices, whatever shares the trajectory. Gradients by image, data and trajectory are
    right to any order. ``Aᴴ W A`` is a convolution (`Toeplitz`), which solvers use by themselves.

    ``trajectory`` is a design parameter. ``delay``, of the gradients of each axis against the
    receiver in samples, is a nuisance: data are taken at ``k(t + τ) ≈ k + τ dk/dt``, negative where
    the gradients lag behind, as in the steps ``radial_delay`` and ``trajectory_delay``.

    `initial` is gridding: the adjoint with Pipe–Menon density compensation. The density is never
    part of the data term, where it would not be the likelihood of white noise; give it as
    ``weights`` to a problem where that is wanted.

    Args:
        matrix: image size along (y, x) or (z, y, x).
        fov: along the same axes in m.
        trajectory: ([*frames,] shot, sample, axis) in cycles/m, components in the order of matrix.
        dtype: complex64 or complex128.
        backend: "auto", "finufft", "cufinufft", "torchkbnufft", "sigpy" or "exact".
        accuracy: relative error of the sums; see `labrecon_mri.backends.ACCURACY`.
        feasible: what the gradients can do, for learning the trajectory; by default the edge of
            k-space.
        frames: names of the leading axes of the trajectory.

    Raises:
        BackendError: the backend is not there, or not for this device.
        ValueError: the trajectory does not fit the matrix, or is not finite.

    Example:
        >>> k = torch.tensor([[[0.0, 0.0], [0.0, 5.0]]])  # one shot, two samples
        >>> nufft = NUFFT((4, 4), (0.2, 0.2), k, backend="exact")
        >>> nufft(torch.ones(4, 4, dtype=torch.complex64)).abs().round(decimals=3)
        tensor([[4., 0.]])
    """

    trajectory: Tensor
    delay: Tensor

    def __init__(
        self,
        matrix: Sequence[int],
        fov: Sequence[float],
        trajectory: Tensor,
        *,
        dtype: torch.dtype = torch.complex64,
        backend: str = "auto",
        accuracy: float | None = None,
        feasible: FeasibleSet | None = None,
        frames: Sequence[str] = (),
    ) -> None:
        shape, ndim = tuple(matrix), len(matrix)
        if trajectory.ndim < 3 or trajectory.shape[-1] != ndim or len(fov) != ndim:
            raise ValueError(
                f"a trajectory is ([*frames,] shot, sample, axis) with {ndim} components for "
                f"matrix {shape}, and fov has as many; got {tuple(trajectory.shape)} and {fov}"
            )
        if not bool(torch.isfinite(trajectory).all()):
            raise ValueError("the trajectory has samples that are NaN or infinite")
        several = tuple(trajectory.shape[:-3])
        names = tuple(frames) or tuple(f"frame{i}" for i in range(len(several)))
        axes = ("z", "y", "x")[-ndim:]
        super().__init__(
            Space((*several, *shape), dtype, (*names, *axes)),
            Space(tuple(trajectory.shape[:-1]), dtype, (*names, "shot", "sample")),
        )
        self.matrix, self.fov = shape, tuple(float(length) for length in fov)
        self.backend, self.accuracy = backend, accuracy
        edge = torch.tensor([n / (2 * length) for n, length in zip(shape, self.fov, strict=True)])
        reach = feasible if feasible is not None else Box(-edge, edge, unit="cycles/m")
        self.design("trajectory", trajectory.to(torch.float64), reach)
        delay = torch.zeros(ndim, dtype=torch.float64)
        self.nuisance("delay", delay, Box(unit="samples"), numbers=axes)
        self._kernel: tuple[Tensor, Toeplitz] | None = None
        self._density: tuple[Tensor, Tensor] | None = None

    # -- the map -------------------------------------------------------------------------------

    def sampled(self) -> Tensor:
        """Where the samples were taken: the trajectory, moved by the delays."""
        learned = self.delay.requires_grad and torch.is_grad_enabled()
        if self.trajectory.shape[-2] < 2 or not (learned or bool(self.delay.any())):
            return self.trajectory
        (rate,) = torch.gradient(self.trajectory, dim=-2)
        return self.trajectory + self.delay * rate

    def omega(self) -> Tensor:
        """`sampled` in rad/pixel, ([points,] sample, axis)."""
        pixel = [length / n for length, n in zip(self.fov, self.matrix, strict=True)]
        scaled = self.sampled() * self.trajectory.new_tensor(pixel) * (2 * math.pi)
        flat = scaled.flatten(-3, -2)
        return flat.reshape(-1, *flat.shape[-2:]) if flat.ndim > 2 else flat

    def forward(self, x: Tensor) -> Tensor:
        """``A x``."""
        batch, ndim = self.domain.batch(x), len(self.matrix)
        several = self.domain.shape[:-ndim]
        stacked = x.reshape(-1, *self.domain.shape)
        if several:
            stacked = stacked.flatten(1, len(several)).transpose(0, 1)
        y = type2(stacked, self.omega(), self.backend, self.accuracy)
        y = y.transpose(0, 1) if several else y
        return (y / math.prod(self.matrix) ** 0.5).reshape(*batch, *self.range.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Aᴴ y``."""
        batch, several = self.range.batch(y), self.range.shape[:-2]
        stacked = y.reshape(-1, *self.range.shape).flatten(-2)
        if several:
            stacked = stacked.flatten(1, len(several)).transpose(0, 1)
        x = type1(stacked, self.omega(), self.matrix, self.backend, self.accuracy)
        x = x.transpose(0, 1) if several else x
        return (x / math.prod(self.matrix) ** 0.5).reshape(*batch, *self.domain.shape)

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``Aᴴ W A x``."""
        return self.normal_map(weights)(x)

    def normal_map(self, weights: Tensor | None = None) -> Map:
        """``Aᴴ W A`` as a `Toeplitz` convolution; as two transforms while samples move."""
        if self.sampled().requires_grad and torch.is_grad_enabled():
            return lambda x: self.adjoint(self(x) if weights is None else weights * self(x))
        if weights is not None:
            return self._toeplitz(weights)
        held, now = self._kernel, self.sampled().detach()
        if held is None or not torch.equal(held[0], now):
            ones = torch.ones(self.range.shape, device=self.trajectory.device)
            held = self._kernel = now.clone(), self._toeplitz(ones)
        return held[1]

    def _toeplitz(self, weights: Tensor) -> Toeplitz:
        ndim, several = len(self.matrix), self.range.shape[:-2]
        missing = max(0, self.range.ndim - weights.ndim)
        full = weights[(None,) * missing]
        full = full.expand(*full.shape[: full.ndim - self.range.ndim], *self.range.shape)
        flat = full.flatten(-2)
        if len(several) > 1:
            flat = flat.flatten(-1 - len(several), -2)
        made = Toeplitz.of(
            self.omega().detach(), flat, self.matrix, self.domain.dtype, self.backend
        )
        if len(several) > 1:
            spectrum = made.spectrum.unflatten(-ndim - 1, several)
            return Toeplitz(spectrum, self.matrix)
        return made

    # -- first estimates -----------------------------------------------------------------------

    def density(self) -> Tensor:
        """Pipe–Menon density compensation ([*frames,] shot, sample) where samples are now."""
        now = self.sampled().detach()
        held = self._density
        if held is None or not torch.equal(held[0], now):
            value = pipe_menon(self.matrix, self.fov, now, backend=self.backend)
            held = self._density = now.clone(), value
        return held[1]

    def gridded(self, y: Tensor) -> Tensor:
        """Gridding: ``Aᴴ (d · y)``."""
        return self.adjoint(self.density().to(y.real.dtype) * y)

    def initial(self, y: Tensor) -> Tensor:
        """`gridded`, scaled to fit the data."""
        return self.fit_scale(self.gridded(y), y)

    def __getstate__(self) -> dict[str, Any]:
        # What is computed again when it is needed does not travel.
        return {**self.__dict__, "_kernel": None, "_density": None}
