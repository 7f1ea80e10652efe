"""SENSE: what an array of coils measures of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from labrecon import Operator, Space, linear_function
from labrecon.functional import Map
from labrecon_mri.toeplitz import Toeplitz

__all__ = ["Sense"]

#: Bytes of coil images that are made at once.
CHUNK_BYTES = 2**28


class Sense(Operator):
    """``y_c = F(S_c · x)``: coil sensitivities, then the sampling of k-space.

    Domain ``([*frames,] [set,] *matrix)``, range ``([*frames,] coil, …)``. With several sets of
    maps (soft SENSE, Uecker et al. 2014) each has its own image, ``y_c = F(Σ_s S_{s,c} x_s)``.
    Coils are done in chunks, so that large volumes need the memory of a few coil images only.

    Args:
        sampling: of one coil's images, ``([*frames,] *matrix)`` to ``([*frames,] …)``: a `NUFFT`,
            a `TimeSegmented` or a `MaskedFourier`; or without frames, where all frames share it.
        maps: ``([*frames,] set, coil, *matrix)``, complex.
        frames: names and sizes of the axes of images that were acquired apart.
        chunk: coils done at once; by default as many as 256 MiB hold.

    Raises:
        ValueError: the maps do not fit the sampling operator or the frames.
    """

    maps: Tensor

    def __init__(
        self,
        sampling: Operator,
        maps: Tensor,
        frames: dict[str, int] | None = None,
        *,
        chunk: int | None = None,
    ) -> None:
        frames = dict(frames or {})
        sizes, own = tuple(frames.values()), sampling.domain
        framed = bool(sizes) and own.axes[: len(sizes)] == tuple(frames)
        ndim = own.ndim - (len(sizes) if framed else 0)
        matrix, axes = own.shape[-ndim:], own.axes[-ndim:]
        if maps.shape[-ndim:] != matrix or maps.ndim not in (ndim + 2, ndim + 2 + len(sizes)):
            raise ValueError(
                f"maps are ([*frames,] set, coil, *{matrix}), got {tuple(maps.shape)} for frames "
                f"{frames}"
            )
        if maps.dtype != own.dtype:
            raise ValueError(f"maps are {own.dtype} as the images, got {maps.dtype}")
        sets, coils = maps.shape[-ndim - 2], maps.shape[-ndim - 1]
        several = (sets,) if sets > 1 else ()
        behind = len(sizes) if framed else 0
        super().__init__(
            Space(
                (*sizes, *several, *matrix), own.dtype, (*frames, *("set",) * len(several), *axes)
            ),
            Space(
                (*sizes, coils, *sampling.range.shape[behind:]),
                own.dtype,
                (*frames, "coil", *sampling.range.axes[behind:]),
            ),
        )
        self.sampling = sampling
        self.register_buffer("maps", maps)
        self.sets, self.coils, self.frames = sets, coils, frames
        self._ndim, self._framed = ndim, framed
        one = math.prod(sizes) * math.prod(matrix) * own.dtype.itemsize
        self.chunk = chunk if chunk is not None else max(1, CHUNK_BYTES // one)

    @property
    def matrix(self) -> tuple[int, ...]:
        """Image size."""
        return tuple(self.domain.shape[-self._ndim :])

    # -- the map -------------------------------------------------------------------------------

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Coils, and their maps ([*frames,] set, coil, *matrix)."""
        for start in range(0, self.coils, self.chunk):
            part = slice(start, min(start + self.chunk, self.coils))
            yield part, self.maps.narrow(-self._ndim - 1, start, part.stop - start)

    def _spread(self, x: Tensor, maps: Tensor) -> Tensor:
        """``Σ_s S x``: (…, *frames, coil, *matrix)."""
        if self.sets == 1:
            return x.unsqueeze(-self._ndim - 1) * maps.squeeze(-self._ndim - 2)
        return (x.unsqueeze(-self._ndim - 1) * maps).sum(-self._ndim - 2)

    def _gather(self, images: Tensor, maps: Tensor) -> Tensor:
        """``Σ_c conj(S) u``."""
        if self.sets == 1:
            own = maps.squeeze(-self._ndim - 2).conj()
            return (own * images).sum(-self._ndim - 1)
        return (maps.conj() * images.unsqueeze(-self._ndim - 2)).sum(-self._ndim - 1)

    def _coils_first(self, images: Tensor, ndim: int) -> Tensor:
        """Coils before the frames, where the sampling operator takes the frames itself."""
        return images.movedim(-ndim - 1, -ndim - 1 - len(self.frames)) if self._framed else images

    def _coils_last(self, values: Tensor, ndim: int) -> Tensor:
        return values.movedim(-ndim - 1 - len(self.frames), -ndim - 1) if self._framed else values

    @property
    def _sample_ndim(self) -> int:
        return self.range.ndim - len(self.frames) - 1

    def forward(self, x: Tensor) -> Tensor:
        """``F(S x)``."""
        parts = []
        for _, maps in self._chunks():
            images = self._coils_first(self._spread(x, maps), self._ndim)
            parts.append(self._coils_last(self.sampling(images), self._sample_ndim))
        return torch.cat(parts, -self._sample_ndim - 1) if len(parts) > 1 else parts[0]

    def adjoint(self, y: Tensor) -> Tensor:
        """``Σ_c conj(S_c) Fᴴ y_c``."""
        return self._back(y, self.sampling.adjoint)

    def _back(self, y: Tensor, transform: Map) -> Tensor:
        n = self._sample_ndim
        total = None
        for part, maps in self._chunks():
            own = self._coils_first(y.narrow(-n - 1, part.start, part.stop - part.start), n)
            images = self._coils_last(transform(own), self._ndim)
            gathered = self._gather(images, maps)
            total = gathered if total is None else total + gathered
        assert total is not None
        return total

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``Σ_c S_cᴴ Fᴴ W F S_c x``."""
        return self.normal_map(weights)(x)

    def normal_map(self, weights: Tensor | None = None) -> Map:
        """`normal` with the convolution's kernel computed once."""
        inner = self.sampling.normal_map(self._inner_weights(weights))
        if weights is not None and self._per_coil(weights):
            return lambda x: self._gather(
                self._coils_last(
                    inner(self._coils_first(self._spread(x, self.maps), self._ndim)), self._ndim
                ),
                self.maps,
            )
        fits_a_cache = isinstance(inner, Toeplitz) and inner.shared and not inner.spectrum.is_cuda
        if isinstance(inner, Toeplitz) and fits_a_cache and not inner.spectrum.requires_grad:
            return lambda x: linear_function(
                x, lambda v: self._convolved(v, inner), lambda v: self._convolved(v, inner)
            )
        return lambda x: self._filtered(x, inner)

    def _per_coil(self, weights: Tensor) -> bool:
        n = self._sample_ndim
        return weights.ndim > n and weights.shape[-n - 1] > 1

    def _inner_weights(self, weights: Tensor | None) -> Tensor | None:
        """As the sampling operator takes them: coils in front, or left out where all are alike."""
        n = self._sample_ndim
        if weights is None or weights.ndim <= n:
            return weights
        moved = self._coils_first(weights[(None,) * (self.range.ndim - weights.ndim)], n)
        behind = n + (len(self.frames) if self._framed else 0)
        # With a batch in front the coils' axis stays: the batch would be read as coils.
        alike = not self._per_coil(weights) and weights.ndim <= self.range.ndim
        return moved.squeeze(-behind - 1) if alike else moved

    def _filtered(self, x: Tensor, inner: Map) -> Tensor:
        total = None
        for _, maps in self._chunks():
            images = self._coils_first(self._spread(x, maps), self._ndim)
            gathered = self._gather(self._coils_last(inner(images), self._ndim), maps)
            total = gathered if total is None else total + gathered
        assert total is not None
        return total

    def _convolved(self, x: Tensor, inner: Toeplitz) -> Tensor:
        """Coil by coil in one padded buffer, which stays in the CPU's cache."""
        maps = self.maps.expand(*self.frames.values(), *self.maps.shape[-self._ndim - 2 :])
        images = x.reshape(-1, math.prod(self.frames.values()), self.sets, *self.matrix)
        maps = maps.reshape(-1, *maps.shape[-self._ndim - 2 :])
        result = torch.zeros_like(images)
        step = min(inner.chunk, self.coils)
        pad = inner.workspace(step, x)
        for element in range(len(images)):
            for frame in range(images.shape[1]):
                for start in range(0, self.coils, step):
                    own = maps[frame, :, start : start + step]
                    work = pad[: own.shape[1]]
                    corner = inner.corner(work)
                    torch.mul(own[0], images[element, frame, 0], out=corner)
                    for s in range(1, self.sets):
                        corner.addcmul_(own[s], images[element, frame, s])
                    back = inner.filtered(work)
                    for s in range(self.sets):
                        for coil, image in zip(own[s], back, strict=True):
                            result[element, frame, s].addcmul_(coil.conj(), image)
        return result.reshape(x.shape)

    # -- first estimates -----------------------------------------------------------------------

    def initial(self, y: Tensor) -> Tensor:
        """Zero-filled or gridded coil images, combined by the maps, scaled to fit the data."""
        x = self._back(y, getattr(self.sampling, "gridded", self.sampling.adjoint))
        if self.sets == 1:
            power = self.maps.abs().square().sum(-self._ndim - 1).squeeze(-self._ndim - 1)
            floor = 1e-3 * power.max()
            x = torch.where(power > floor, x / power.clamp_min(floor).to(x.dtype), 0)
        return self.fit_scale(x, y)
