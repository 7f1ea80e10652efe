"""What a motion between frames can be: a shift, or an affine map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from labrecon.operators.interpolation import Kernel, Taps, require_kernel, shift_matrix, taps
from labrecon.space import SpaceError

__all__ = ["AffineMotion", "Motion", "MotionModel", "TranslationMotion", "motion_model"]

#: The motions that there are, by name.
Motion = Literal["translation", "affine"]


class MotionModel(ABC):
    """``y_k(r) = x(r + d_k(r))`` over the last two axes of images, ``d_k`` linear in its numbers.

    A value, not an operator: images ``x (*batch, *shape)`` and motions ``(*batch, frame, number)``
    in pixels go in together. Beyond its border an image is continued by its edge samples.

    Args:
        shape: of an image; its last two axes are y and x.
        kernel: of the interpolation.

    Attributes:
        name: as `motion_model` knows it.
        numbers: how many describe the motion of a frame.
        axis: the image axis along which each of them moves: 0 for y, 1 for x.
    """

    name: Motion
    numbers: int
    axis: tuple[int, ...]

    def __init__(self, shape: tuple[int, ...], kernel: Kernel) -> None:
        require_kernel(kernel)
        if len(shape) < 2:
            raise SpaceError(f"a motion needs an image of two axes or more, got shape {shape}")
        self.size = (shape[-2], shape[-1])
        self.lead = len(shape) - 2
        self.kernel = kernel

    @abstractmethod
    def warp(self, x: Tensor, motion: Tensor) -> Tensor:
        """The image in each frame: ``(*batch, frame, *shape)``."""

    @abstractmethod
    def transpose(self, y: Tensor, motion: Tensor) -> Tensor:
        """The transpose of `warp` for a fixed motion: ``(*batch, *shape)``."""

    @abstractmethod
    def slopes(self, x: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """The image's derivatives along y and x, where each frame sees it."""

    @abstractmethod
    def basis(self, like: Tensor) -> list[Tensor]:
        """``∂d_k/∂p``: for each number the displacement of each pixel, along its axis."""

    @abstractmethod
    def inside(self, motion: Tensor) -> Tensor:
        """Where a frame sees nothing beyond the border: ``(*batch, frame, y, x)``, boolean."""

    def require(self, motion: Tensor, frames: int | None = None) -> None:
        """Raise `SpaceError` unless ``motion`` has as many numbers for each of the frames."""
        shape = tuple(motion.shape)
        wrong = frames is not None and shape[-2] != frames if len(shape) > 1 else True
        if wrong or shape[-1] != self.numbers:
            count = "frame" if frames is None else f"{frames} frames"
            raise SpaceError(
                f"motions of the kind {self.name!r} are (*batch, {count}, {self.numbers} numbers), "
                f"got shape {shape}"
            )

    def _for_images(self, values: Tensor, image_axes: int = 2) -> Tensor:
        """``values (*batch, frame, *image)`` with axes of size one for the lead of the images."""
        image = values.shape[values.ndim - image_axes :]
        return values.reshape(*values.shape[: values.ndim - image_axes], *[1] * self.lead, *image)

    def _framed(self, x: Tensor) -> Tensor:
        """``x`` with a frame axis of size one."""
        return x.unsqueeze(-self.lead - 3)


class TranslationMotion(MotionModel):
    """The shift ``d_k = (p₀, p₁)``, along y and x."""

    name: Motion = "translation"
    numbers = 2
    axis = (0, 1)

    def _matrix(
        self, motion: Tensor, axis: int, dtype: torch.dtype, part: Literal["weight", "slope"]
    ) -> Tensor:
        matrix = shift_matrix(motion[..., axis], self.size[axis], self.kernel, part)
        return self._for_images(matrix).to(dtype)

    def warp(self, x: Tensor, motion: Tensor) -> Tensor:
        """``M(p₀) x M(p₁)ᵀ``."""
        rows, columns = (self._matrix(motion, axis, x.dtype, "weight") for axis in (0, 1))
        return rows @ self._framed(x) @ columns.mT

    def transpose(self, y: Tensor, motion: Tensor) -> Tensor:
        """``Σ_k M(p₀)ᵀ y_k M(p₁)``."""
        rows, columns = (self._matrix(motion, axis, y.dtype, "weight") for axis in (0, 1))
        return (rows.mT @ y @ columns).sum(-self.lead - 3)

    def slopes(self, x: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """``M′(p₀) x M(p₁)ᵀ`` and ``M(p₀) x M′(p₁)ᵀ``."""
        rows, columns = (self._matrix(motion, axis, x.dtype, "weight") for axis in (0, 1))
        steep_rows, steep_columns = (
            self._matrix(motion, axis, x.dtype, "slope") for axis in (0, 1)
        )
        x = self._framed(x)
        return steep_rows @ x @ columns.mT, rows @ x @ steep_columns.mT

    def basis(self, like: Tensor) -> list[Tensor]:
        """1 for both."""
        return [like.real.new_ones(())] * 2

    def inside(self, motion: Tensor) -> Tensor:
        """A rectangle for each frame."""
        rows, columns = (
            taps(motion[..., axis, None] + torch.arange(n, device=motion.device), self.kernel)
            .inside(n)
            for axis, n in enumerate(self.size)
        )  # fmt: skip
        return rows.unsqueeze(-1) & columns.unsqueeze(-2)


class AffineMotion(MotionModel):
    """``d_k = (p₀ + p₂ v + p₃ u, p₁ + p₄ v + p₅ u)`` with ``v, u`` from −1 to 1 along y and x.

    Every number is a displacement in pixels: ``p₀, p₁`` of the centre, the others of the edge.
    A rotation by a small angle ``θ`` of an image of ``n × n`` pixels is
    ``p₃ = −p₄ = θ (n − 1) / 2``.
    """

    name: Motion = "affine"
    numbers = 6
    axis = (0, 1, 0, 0, 1, 1)

    def _taps(self, motion: Tensor) -> tuple[Taps, Taps]:
        basis = self.basis(motion)
        found = []
        for axis, n in enumerate(self.size):
            position = torch.arange(n, dtype=motion.dtype, device=motion.device)
            position = position.unsqueeze(-1) if axis == 0 else position
            for number, shape in enumerate(basis):
                if self.axis[number] == axis:
                    position = position + motion[..., number, None, None] * shape
            found.append(taps(position, self.kernel))
        return found[0], found[1]

    def _neighbours(self, rows: Taps, columns: Taps) -> Iterator[tuple[int, int, Tensor]]:
        """Pairs of taps, and the index ``(*batch, frame, *1, pixel)`` of each in a flat image."""
        height, width = self.size
        along_y = rows.index.clamp(0, height - 1)
        along_x = columns.index.clamp(0, width - 1)
        for i in range(along_y.shape[-1]):
            for j in range(along_x.shape[-1]):
                index = (along_y[..., i] * width + along_x[..., j]).flatten(-2)
                yield i, j, self._for_images(index, 1)

    def _gathered(self, x: Tensor, motion: Tensor, *parts: tuple[str, str]) -> list[Tensor]:
        """Sums over the neighbours, with ``weight`` or ``slope`` along y and x."""
        rows, columns = self._taps(motion)
        flat = self._framed(x).flatten(-2)
        sums = [torch.zeros((), dtype=x.dtype, device=x.device) for _ in parts]
        for i, j, index in self._neighbours(rows, columns):
            batch = torch.broadcast_shapes(flat.shape[:-1], index.shape[:-1])
            seen = flat.expand(*batch, -1).gather(-1, index.expand(*batch, -1))
            seen = seen.unflatten(-1, self.size)
            for n, (of_rows, of_columns) in enumerate(parts):
                factor = getattr(rows, of_rows)[..., i] * getattr(columns, of_columns)[..., j]
                sums[n] = sums[n] + self._for_images(factor) * seen
        return sums

    def warp(self, x: Tensor, motion: Tensor) -> Tensor:
        """The weighted sum of the neighbours of each position."""
        return self._gathered(x, motion, ("weight", "weight"))[0]

    def transpose(self, y: Tensor, motion: Tensor) -> Tensor:
        """Each sample given to its neighbours with the same weights."""
        rows, columns = self._taps(motion)
        total = torch.zeros((), dtype=y.dtype, device=y.device)
        for i, j, index in self._neighbours(rows, columns):
            factor = self._for_images(rows.weight[..., i] * columns.weight[..., j])
            part = (factor * y).flatten(-2)
            total = total + torch.zeros_like(part).scatter_add(-1, index.expand(part.shape), part)
        return total.unflatten(-1, self.size).sum(-self.lead - 3)

    def slopes(self, x: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """The same sums with the derivatives of the weights."""
        along_y, along_x = self._gathered(x, motion, ("slope", "weight"), ("weight", "slope"))
        return along_y, along_x

    def basis(self, like: Tensor) -> list[Tensor]:
        """``1, 1, v, u, v, u``."""
        v, u = (
            torch.linspace(-1, 1, n, dtype=like.real.dtype, device=like.device) for n in self.size
        )
        one, v = u.new_ones(()), v.unsqueeze(-1)
        return [one, one, v, u, v, u]

    def inside(self, motion: Tensor) -> Tensor:
        """A parallelogram for each frame."""
        rows, columns = self._taps(motion)
        return rows.inside(self.size[0]) & columns.inside(self.size[1])


_MODELS: dict[str, type[MotionModel]] = {m.name: m for m in (TranslationMotion, AffineMotion)}


def motion_model(motion: Motion, shape: tuple[int, ...], kernel: Kernel) -> MotionModel:
    """The model of that name for images of a shape.

    Raises:
        SpaceError: the motion is unknown, or the images have fewer than two axes.
    """
    if motion not in _MODELS:
        raise SpaceError(f"a motion is one of {', '.join(get_args(Motion))}, got {motion!r}")
    return _MODELS[motion](shape, kernel)
