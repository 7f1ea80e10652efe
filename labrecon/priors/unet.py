"""The U-Net (Ronneberger, Fischer and Brox 2015)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from labrecon.options import flag, whole
from labrecon.prior import PriorError
from labrecon.priors.channels import convolution

__all__ = ["Padding", "UNet"]

Padding = Literal["reflect", "zero"]

_POOL: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORMALISE: dict[int, type[nn.Module]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
_GROW: dict[int, type[nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


class UNet(nn.Module):
    """Convolutions at several resolutions, with the fine features handed across.

    Each level has convolutions 3 wide with ReLU; halving is by maximum, doubling by a transposed
    convolution, after which the features of the same level on the way down are put beside; a last
    convolution 1 wide makes the output. ``features`` doubles from level to level.

    Any size of image will do: it is padded to a multiple of ``2^levels`` within the network, on
    both sides alike, and the result is cropped back to it. As a prior it is
    ``Denoiser(UNet(…))``, see `labrecon.priors.denoisers.Denoiser`.

    Args:
        channels: of the input, real and imaginary parts counted.
        outputs: channels of the output; those of the input unless given.
        axes: image axes, 1 to 3.
        features: of the finest level.
        levels: how many times the size is halved.
        normalise: batch normalisation after each convolution. It couples the images of a training
            batch, and their values' scale is lost: not for small batches of unlike objects.
        residual: add the input to the output (as many channels): ``x + net(x)``.
        padding: "reflect" continues the image, which must be larger than the padding; "zero" suits
            objects on an empty ground, of any size.
        first: convolutions of the finest level on the way down; the others have 2.

    Raises:
        PriorError: a number is wrong, or a residual network has other outputs than inputs.
    """

    def __init__(
        self,
        channels: int = 1,
        outputs: int | None = None,
        *,
        axes: int = 2,
        features: int = 64,
        levels: int = 4,
        normalise: bool = False,
        residual: bool = True,
        padding: Padding = "reflect",
        first: int = 2,
    ) -> None:
        super().__init__()
        if axes not in _POOL:
            raise PriorError(f"UNet: axes is 1, 2 or 3, got {axes!r}")
        if padding not in ("reflect", "zero"):
            raise PriorError(f'UNet: padding is "reflect" or "zero", got {padding!r}')
        self.channels = whole("UNet: channels", channels, error=PriorError)
        outputs = channels if outputs is None else whole("UNet: outputs", outputs, error=PriorError)
        self.axes = axes
        self.levels = whole("UNet: levels", levels, error=PriorError)
        self.residual = flag("UNet: residual", residual, error=PriorError)
        self.padding = padding
        if residual and outputs != channels:
            raise PriorError(f"UNet: residual with {channels} channels in and {outputs} out")
        flag("UNet: normalise", normalise, error=PriorError)
        whole("UNet: first", first, error=PriorError)
        width = whole("UNet: features", features, error=PriorError)
        widths = [width * 2**level for level in range(levels + 1)]
        incoming = [channels, *widths[:-1]]
        self.down = nn.ModuleList(
            _block(axes, a, b, 2 if level else first, normalise)
            for level, (a, b) in enumerate(zip(incoming, widths, strict=True))
        )
        self.grow = nn.ModuleList(
            _GROW[axes](2 * w, w, kernel_size=2, stride=2) for w in widths[:-1]
        )
        self.up = nn.ModuleList(_block(axes, 2 * w, w, 2, normalise) for w in widths[:-1])
        self.last = convolution(axes, width, outputs, 1)
        self.pool = _POOL[axes](2)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, *image)`` to ``(batch, outputs, *image)``.

        Raises:
            PriorError: the image is too small for the padding by reflection.
        """
        sizes = x.shape[-self.axes :]
        before = [-n % 2**self.levels // 2 for n in sizes]
        z = self._padded(x, before)
        across: list[Tensor] = []
        for block in self.down:
            z = block(self.pool(z) if across else z)
            across.append(z)
        levels = reversed(list(zip(self.grow, self.up, across[:-1], strict=True)))
        for grow, block, fine in levels:
            z = block(torch.cat([fine, grow(z)], 1))
        z = self.last(z)
        for axis, start, n in zip(range(-self.axes, 0), before, sizes, strict=True):
            z = z.narrow(axis, start, n)
        return x + z if self.residual else z

    def _padded(self, x: Tensor, before: list[int]) -> Tensor:
        sizes = x.shape[-self.axes :]
        after = [-n % 2**self.levels - b for n, b in zip(sizes, before, strict=True)]
        if not any(after):
            return x
        pads = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
        if self.padding == "zero":
            return functional.pad(x, pads)
        if any(a >= n for a, n in zip(after, sizes, strict=True)):
            raise PriorError(
                f"UNet: an image {tuple(sizes)} is too small to be reflected to a multiple of "
                f'{2**self.levels}; take fewer levels than {self.levels}, or padding="zero"'
            )
        return functional.pad(x, pads, mode="reflect")


def _block(axes: int, inputs: int, outputs: int, layers: int, normalise: bool) -> nn.Sequential:
    made: list[nn.Module] = []
    for k in range(layers):
        made.append(convolution(axes, outputs if k else inputs, outputs, bias=not normalise))
        if normalise:
            made.append(_NORMALISE[axes](outputs))
        made.append(nn.ReLU())
    return nn.Sequential(*made)
