"""Space: where an array lives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class SpaceError(ValueError):
    """An array does not live in the space that was asked for."""


@dataclass(frozen=True)
class Space:
    """Shape, dtype and axis names of the arrays that an operator takes or returns.

    Tensors carry leading batch dimensions: ``(*batch, *space.shape)``. The inner product is the
    plain sum ``Σ conj(a) b``.

    Args:
        shape: size of each axis.
        dtype: floating or complex dtype; it is never cast silently.
        axes: a name for each axis, for plots, checks and subsets.

    Raises:
        SpaceError: a size is not a positive integer, the dtype is not floating or complex, or
            the number of axis names is not the number of axes.

    Example:
        >>> Space((180, 256), axes=("angle", "detector")).size
        46080
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if not self.shape:
            raise SpaceError("a space needs at least one axis; a single number has shape (1,)")
        if any(n < 1 for n in self.shape):
            raise SpaceError(f"every axis needs at least one sample, got shape {self.shape}")
        if not (self.dtype.is_floating_point or self.dtype.is_complex):
            raise SpaceError(f"a space needs a floating or complex dtype, got {self.dtype}")
        if not self.axes:
            object.__setattr__(self, "axes", tuple(f"axis{i}" for i in range(len(self.shape))))
        if len(self.axes) != len(self.shape):
            raise SpaceError(f"{len(self.axes)} axis names {self.axes} for shape {self.shape}")

    @property
    def ndim(self) -> int:
        """Number of axes, batch dimensions not counted."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of samples of one array."""
        return math.prod(self.shape)

    @property
    def real_dtype(self) -> torch.dtype:
        """The dtype of a modulus: float32 for complex64."""
        return self.dtype.to_real()

    def batch(self, x: Tensor) -> tuple[int, ...]:
        """Leading batch dimensions of ``x``."""
        return tuple(x.shape[: x.ndim - self.ndim])

    def check(self, x: Tensor, what: str) -> None:
        """Raise `SpaceError` unless ``x`` has shape ``(*batch, *shape)`` and the space's dtype."""
        if x.dtype == self.dtype and x.shape[x.ndim - self.ndim :] == self.shape:
            return
        if x.dtype != self.dtype:
            raise SpaceError(
                f"{what}: got dtype {x.dtype}, expected {self.dtype}; convert the array with "
                f".to({self.dtype}) or build the operator with that dtype"
            )
        expected = ", ".join(f"{axis}={n}" for axis, n in zip(self.axes, self.shape, strict=True))
        raise SpaceError(f"{what}: got shape {tuple(x.shape)}, expected (*batch, {expected})")

    def zeros(self, *batch: int, device: torch.device | str | None = None) -> Tensor:
        """An array of zeros ``(*batch, *shape)``."""
        return torch.zeros(*batch, *self.shape, dtype=self.dtype, device=device)

    def random(
        self,
        *batch: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Standard normal samples ``(*batch, *shape)``, drawn on the generator's device."""
        source = generator.device if generator is not None else device
        x = torch.randn(*batch, *self.shape, dtype=self.dtype, device=source, generator=generator)
        return x.to(device) if device is not None else x


def inner(a: Tensor, b: Tensor, ndim: int) -> Tensor:
    """``Σ conj(a) b`` over the last ``ndim`` axes: one number per batch element."""
    return (a.conj() * b).flatten(a.ndim - ndim).sum(-1)


def squared_norm(a: Tensor, ndim: int) -> Tensor:
    """``Σ |a|²`` over the last ``ndim`` axes: one real number per batch element."""
    return (
        torch.view_as_real(a.resolve_conj()).square().flatten(a.ndim - ndim).sum(-1)
        if a.is_complex()
        else (a.square().flatten(a.ndim - ndim).sum(-1))
    )


def per_element(values: Tensor, ndim: int) -> Tensor:
    """Append ``ndim`` axes of size one, so that ``values (*batch)`` scale ``(*batch, *shape)``."""
    return values.reshape(*values.shape, *([1] * ndim))


def is_per_element(values: Tensor | float, ndim: int) -> bool:
    """Whether ``values`` scale whole arrays: a number, or one per batch element."""
    return not isinstance(values, Tensor) or all(n == 1 for n in values.shape[-ndim:])
