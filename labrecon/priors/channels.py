"""The edge between images of a space, which may be complex, and networks of real channels.

The channels of an image stand before its last ``axes`` axes: ``(*lead, channels, *image)``. A
complex image has two, its real and imaginary part. Leading axes (batches, slices of a volume that
a two-dimensional network treats one by one) become the batch of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["apply_network", "channel_count", "convolution", "from_channels", "to_channels"]

_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def channel_count(dtype: torch.dtype) -> int:
    """2 for complex images, 1 for real ones."""
    return 2 if dtype.is_complex else 1


def convolution(
    axes: int, inputs: int, outputs: int, size: int = 3, *, bias: bool = True
) -> nn.Module:
    """A convolution over ``axes`` image axes that keeps their sizes (zero padding)."""
    return _CONVOLUTIONS[axes](inputs, outputs, size, padding=size // 2, bias=bias)


def to_channels(images: Sequence[Tensor], axes: int = 2) -> Tensor:
    """Images ``(*lead, *image)`` of one shape as real channels ``(*lead, channels, *image)``."""
    parts = []
    for image in images:
        if image.is_complex():
            parts.append(torch.view_as_real(image.resolve_conj()).movedim(-1, -axes - 1))
        else:
            parts.append(image.unsqueeze(-axes - 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -axes - 1)


def from_channels(channels: Tensor, dtype: torch.dtype, axes: int = 2) -> list[Tensor]:
    """The images in real channels: the inverse of `to_channels`."""
    if not dtype.is_complex:
        return [image.to(dtype) for image in channels.unbind(-axes - 1)]
    pairs = channels.unflatten(-axes - 1, (-1, 2)).movedim(-axes - 1, -1).contiguous()
    # A network in mixed precision returns half precision, which has no complex counterpart.
    complexes = torch.view_as_complex(pairs.to(dtype.to_real()))
    return list(complexes.unbind(-axes - 1))


def apply_network(network: Callable[[Tensor], Tensor], channels: Tensor, axes: int = 2) -> Tensor:
    """``network`` over ``(*lead, channels, *image)``, whatever the leading axes.

    The result has the dtype of ``channels``, also in mixed precision.
    """
    lead, rest = channels.shape[: -axes - 1], channels.shape[-axes - 1 :]
    out = network(channels.reshape(-1, *rest))
    return out.reshape(*lead, *out.shape[1:]).to(channels.dtype)
