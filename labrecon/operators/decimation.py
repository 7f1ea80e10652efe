"""Decimation: a fine image as a camera with larger pixels records it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from labrecon.operator import Operator
from labrecon.operators.convolution import Convolution
from labrecon.options import whole
from labrecon.space import Space, SpaceError

__all__ = ["Decimation"]

#: Colours of the 2 × 2 pixels of a colour filter array, row by row.
Mosaic = Literal["rggb", "bggr", "grbg", "gbrg"]


class Decimation(Operator):
    """``y = M D B x``: blur by the optics, the mean of ``factor × factor`` samples, colour filters.

    The mean is the pixel's own aperture, without gaps. The blur continues the image by its edge
    samples. With a mosaic the domain is ``(3, y, x)``, red, green and blue, and each pixel sees one
    colour.

    Args:
        domain: of the fine image ``(*lead, y, x)``.
        factor: samples per pixel, along y and x; the sizes are multiples of it.
        psf: of the optics, on the fine grid ``(y, x)``; None for none.
        mosaic: colour of the pixels, row by row: "rggb", "bggr", "grbg" or "gbrg".

    Attributes:
        cell: pixels, along y and x, after which the colours repeat.
        border: samples of the domain at its edge that a blurred image has by continuation only.

    Raises:
        SpaceError: the factor does not divide the domain, the PSF does not fit in it, or a mosaic
            comes without three colours.

    Example:
        >>> Decimation(Space((2, 4)), 2)(torch.tensor([[1., 3., 0., 0.], [1., 3., 0., 4.]]))
        tensor([[2., 1.]])
    """

    colours: Tensor | None

    def __init__(
        self,
        domain: Space,
        factor: int,
        *,
        psf: Tensor | None = None,
        mosaic: Mosaic | None = None,
    ) -> None:
        factor = whole("Decimation: factor", factor, error=SpaceError)
        if domain.ndim < 2 or any(n % factor for n in domain.shape[-2:]):
            raise SpaceError(
                f"pixels of {factor} × {factor} samples need an image whose sizes are multiples of "
                f"{factor}, got {domain.shape}"
            )
        height, width = (n // factor for n in domain.shape[-2:])
        lead = 0 if mosaic is not None else domain.ndim - 2
        shape, axes = (
            (*domain.shape[:lead], height, width),
            (*domain.axes[:lead], *domain.axes[-2:]),
        )
        super().__init__(domain, Space(shape, domain.dtype, axes))
        self.factor = factor
        self.cell = 1 if mosaic is None else 2
        self.register_buffer(
            "colours", None if mosaic is None else _filters(mosaic, domain, factor)
        )
        self.border = 0
        self.blur: Convolution | None = None
        if psf is not None:
            if psf.ndim != 2 or any(
                k > n for k, n in zip(psf.shape, domain.shape[-2:], strict=True)
            ):
                raise SpaceError(
                    f"a PSF is (y, x) and not larger than the image {domain.shape[-2:]}, got "
                    f"{tuple(psf.shape)}"
                )
            self.border = max(psf.shape) // 2
            around = tuple(n + k - 1 for n, k in zip(domain.shape[-2:], psf.shape, strict=True))
            padded = Space((*domain.shape[:-2], *around), domain.dtype, domain.axes)
            self.blur = Convolution(padded, psf, "valid")

    def forward(self, x: Tensor) -> Tensor:
        """``M D B x``."""
        if self.blur is not None:
            x = self.blur(self._continued(x, self.blur.taps))
        f = self.factor
        # Sums over short last axes are slow; these slices are not.
        rows = x.unflatten(-2, (-1, f)).sum(-2)
        y = torch.stack([rows[..., i::f] for i in range(f)]).sum(0) / f**2
        return y if self.colours is None else (self.colours * y).sum(-3)

    def _continued(self, x: Tensor, taps: tuple[int, ...]) -> Tensor:
        for axis, k in zip((-2, -1), taps, strict=True):
            n = x.shape[axis]
            # As "valid" of a convolution with centre k // 2 counts them.
            index = torch.arange(-((k - 1) - k // 2), n + k // 2, device=x.device)
            x = x.index_select(axis, index.clamp(0, n - 1))
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Each pixel spread over its samples, through the optics backwards."""
        if self.blur is not None:
            return Operator.adjoint(self, y)
        if self.colours is not None:
            y = self.colours * y.unsqueeze(-3)
        spread = y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return spread / self.factor**2


def _filters(mosaic: str, domain: Space, factor: int) -> Tensor:
    """1 where a pixel has a colour: ``(colour, y, x)``."""
    if mosaic not in get_args(Mosaic):
        raise SpaceError(f"mosaic is one of {', '.join(get_args(Mosaic))}, got {mosaic!r}")
    height, width = (n // factor for n in domain.shape[-2:])
    if domain.ndim != 3 or domain.shape[0] != 3 or height % 2 or width % 2:
        raise SpaceError(
            f"a colour mosaic needs a domain (3, y, x) with an even number of pixels along each "
            f"axis, got {domain.shape} with {factor} samples per pixel"
        )
    filters = torch.zeros(3, height, width, dtype=domain.real_dtype)
    for place, colour in enumerate(mosaic):
        filters["rgb".index(colour), place // 2 :: 2, place % 2 :: 2] = 1
    return filters
