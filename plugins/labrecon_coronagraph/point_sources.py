"""Images of point sources between the pixels: type-1 non-uniform FFT, then the PSF."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn

__all__ = ["PointSources"]

#: Nodes that a source is spread over along each axis: an error of 1e-4 of the peak at most.
WIDTH = 5
#: Nodes per pixel, at least.
OVERSAMPLE = 1.5


class PointSources(nn.Module):
    """``I(p) = Σ_j f_j psf(p − p_j)`` at the pixels of a frame, with ``psf`` between its samples.

    ``psf`` is the trigonometric interpolation of its samples. The sources are spread over a finer
    grid by the kernel ``(cosh β√(1 − (2u/w)²) − 1) / (cosh β − 1)``, whose transform is divided out
    (as in Barnett, Magland and af Klinteberg 2019, whose kernel ends in a step, which gradients by
    positions would not see). What lies off the frame shows as far as its PSF reaches.

    Args:
        shape: of a frame (y, x).
        psf: (y, x) of odd size.
    """

    filter: Tensor
    low: Tensor

    def __init__(self, shape: tuple[int, int], psf: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.first: list[int] = []  # of the frame's pixels, in the period
        self.period: list[int] = []
        self.nodes: list[int] = []
        transforms = []
        for size, reach in zip(shape, psf.shape, strict=True):
            half = reach // 2 + WIDTH
            period = _odd_fast(size + 2 * half)
            nodes = next_fast_len(math.ceil(OVERSAMPLE * period), real=True)
            self.first.append(half)
            self.period.append(period)
            self.nodes.append(nodes)
            transforms.append(_kernel_transform(period, nodes))
        placed = psf.new_zeros(*self.period)
        placed[: psf.shape[0], : psf.shape[1]] = psf
        placed = placed.roll([-(n // 2) for n in psf.shape], (0, 1))
        spectrum = torch.fft.rfft2(placed)
        rows, columns = self.period
        correction = transforms[0][:, None] * transforms[1][: columns // 2 + 1]
        self.register_buffer("filter", spectrum / correction.to(psf.dtype))
        # Which of the finer grid's frequencies are those of the pixels.
        low = torch.fft.fftfreq(rows, 1 / rows).round().long() % self.nodes[0]
        self.register_buffer("low", low)

    def spread(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes (source, w²) that sources at pixels (y, x) are spread over, and the weights."""
        parts = []
        for axis, place in enumerate((y, x)):
            step = self.period[axis] / self.nodes[axis]
            u = (place + self.first[axis]) / step
            start = (u.detach() - WIDTH / 2).ceil()
            node = start[:, None] + torch.arange(WIDTH, dtype=u.dtype, device=u.device)
            inside = (u.detach() >= WIDTH / 2) & (u.detach() <= self.nodes[axis] - 1 - WIDTH / 2)
            weight = _kernel(u[:, None] - node) * inside[:, None]
            parts.append((node.long().clamp(0, self.nodes[axis] - 1), weight))
        (rows, down), (columns, across) = parts
        index = rows[:, :, None] * self.nodes[1] + columns[:, None, :]
        weight = (down[:, :, None] * across[:, None, :]).flatten(1)
        return index.flatten(), weight.to(self.filter.real.dtype)

    def images(self, spread: tuple[Tensor, Tensor], fluxes: Tensor) -> Tensor:
        """Frames (batch, y, x) of fluxes (batch, source)."""
        index, weight = spread
        values = (fluxes[:, :, None] * weight).flatten(1)
        grid = values.new_zeros(len(fluxes), self.nodes[0] * self.nodes[1])
        grid = grid.index_add(1, index, values).unflatten(1, (self.nodes[0], self.nodes[1]))
        columns = self.period[1] // 2 + 1
        spectrum = torch.fft.rfft2(grid)[:, self.low, :columns]
        return self._cut(torch.fft.irfft2(spectrum * self.filter, s=self.period))

    def _cut(self, image: Tensor) -> Tensor:
        (y, x), (height, width) = self.first, self.shape
        return image[:, y : y + height, x : x + width]

    def fluxes(self, spread: tuple[Tensor, Tensor], images: Tensor) -> Tensor:
        """The transpose of `images`: (batch, y, x) to (batch, source)."""
        index, weight = spread
        rows, columns = self.period
        padded = images.new_zeros(len(images), rows, columns)
        (y, x), (height, width) = self.first, self.shape
        padded[:, y : y + height, x : x + width] = images
        spectrum = torch.fft.rfft2(padded) * self.filter.conj()
        fine = spectrum.new_zeros(len(images), self.nodes[0], self.nodes[1] // 2 + 1)
        fine[:, self.low, : columns // 2 + 1] = spectrum
        scale = self.nodes[0] * self.nodes[1] / (rows * columns)
        grid = torch.fft.irfft2(fine, s=self.nodes).flatten(1) * scale
        return (grid[:, index].reshape(len(images), *weight.shape) * weight).sum(-1)


def _kernel(u: Tensor) -> Tensor:
    beta = 0.97 * math.pi * WIDTH * (1 - 0.5 / OVERSAMPLE)
    root = (1 - (2 * u / WIDTH).square()).clamp_min(1e-12).sqrt()
    return (torch.cosh(beta * root) - 1) / (math.cosh(beta) - 1) * (u.abs() < WIDTH / 2)


def _kernel_transform(period: int, nodes: int) -> Tensor:
    """``∫ φ(u) cos(2π k u / nodes) du`` for the frequencies k of the pixels."""
    places, weights = np.polynomial.legendre.leggauss(64)
    u = torch.from_numpy(places) * WIDTH / 2
    w = torch.from_numpy(weights) * WIDTH / 2 * _kernel(u)
    k = torch.fft.fftfreq(period, 1 / period, dtype=torch.float64)
    return torch.cos(2 * math.pi * k[:, None] * u / nodes) @ w


def _odd_fast(size: int) -> int:
    """An odd size of factors 3, 5 and 7: no frequency is its own mirror image but 0."""
    size += 1 - size % 2
    while True:
        rest = size
        for factor in (3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2
