"""A denoising network that is told the noise level."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from labrecon.options import whole
from labrecon.prior import PriorError
from labrecon.priors.channels import convolution

__all__ = ["DRUNet"]

_DOWN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_UP = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class DRUNet(nn.Module):
    """A U-Net of residual blocks that sees the image and a map of the noise level.

    After DRUNet (Zhang et al. 2021), smaller: it subtracts what it takes for noise. Like the
    original it has no biases, so that ``D(a x, a σ) = a D(x, σ)`` for ``a > 0``: it serves objects
    of any scale, and noise levels it was not trained at degrade it slowly.

    The input is ``(batch, channels + 1, *image)`` with the noise level as the last channel, the
    output ``(batch, channels, *image)``; image sizes are arbitrary.

    Args:
        channels: of the image, 2 for complex ones.
        axes: number of image axes, 1 to 3.
        features: channels at full resolution; they double with each level (64 in the original).
        levels: resolutions (4 in the original).
        blocks: residual blocks per resolution and direction (4 in the original).

    Raises:
        PriorError: a size is not a whole number, or ``axes`` not 1, 2 or 3.
    """

    #: `labrecon.priors.denoisers.Denoiser` appends the noise level as a channel.
    noise_channel = True

    def __init__(
        self,
        channels: int = 1,
        *,
        axes: int = 2,
        features: int = 16,
        levels: int = 3,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        if axes not in _DOWN:
            raise PriorError(f"DRUNet: axes is 1, 2 or 3, got {axes!r}")
        self.channels = whole("DRUNet: channels", channels, error=PriorError)
        self.axes = axes
        features = whole("DRUNet: features", features, error=PriorError)
        self.levels = whole("DRUNet: levels", levels, error=PriorError)
        blocks = whole("DRUNet: blocks", blocks, error=PriorError)

        def stage(width: int) -> nn.Sequential:
            return nn.Sequential(*[_Residual(axes, width) for _ in range(blocks)])

        widths = [features * 2**level for level in range(levels)]
        pairs = list(pairwise(widths))
        self.head = convolution(axes, channels + 1, features, bias=False)
        self.tail = convolution(axes, features, channels, bias=False)
        self.encode = nn.ModuleList([stage(width) for width in widths[:-1]])
        self.down = nn.ModuleList([_DOWN[axes](a, b, 2, stride=2, bias=False) for a, b in pairs])
        self.body = stage(widths[-1])
        self.up = nn.ModuleList([_UP[axes](b, a, 2, stride=2, bias=False) for a, b in pairs])
        self.decode = nn.ModuleList([stage(width) for width in widths[:-1]])

    def forward(self, x: Tensor) -> Tensor:
        """The image without its noise."""
        sizes = x.shape[-self.axes :]
        u = self.head(_padded(x, 2 ** (self.levels - 1), self.axes))
        kept = []
        for encode, down in zip(self.encode, self.down, strict=True):
            u = encode(u)
            kept.append(u)
            u = down(u)
        u = self.body(u)
        for decode, up, skip in list(zip(self.decode, self.up, kept, strict=True))[::-1]:
            u = decode(up(u) + skip)
        noise = self.tail(u)[(..., *[slice(n) for n in sizes])]
        return cast(Tensor, x[:, : self.channels] - noise)


class _Residual(nn.Module):
    """``u + C₂ relu(C₁ u)``."""

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        self.first = convolution(axes, width, width, bias=False)
        self.second = convolution(axes, width, width, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        return cast(Tensor, u + self.second(torch.relu(self.first(u))))


def _padded(x: Tensor, multiple: int, axes: int) -> Tensor:
    """``x`` continued by its last samples up to sizes that can be halved."""
    missing = [-n % multiple for n in x.shape[-axes:]]
    if not any(missing):
        return x
    return functional.pad(x, [m for n in missing[::-1] for m in (0, n)], mode="replicate")
