"""Spectral normalisation of convolutions as operators."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from labrecon.options import number, whole
from labrecon.prior import PriorError

__all__ = ["SpectralNorm", "spectral_normalised"]

N = TypeVar("N", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class SpectralNorm(nn.Module):
    """``K ↦ c K / ‖K‖`` with the norm of the convolution as an operator between images.

    ``‖K‖ = max_ω σ_max(K̂(ω))`` over a grid of frequencies, where ``K̂(ω)`` is a matrix of output by
    input channels (Sedghi, Gupta and Long 2019). It bounds the convolution with zero padding on
    images of any size. `torch.nn.utils.parametrizations.spectral_norm` normalises the weight
    reshaped to a matrix instead, whose norm can be too small by the root of the kernel's size.

    ``‖K‖ = Σ K · P`` with a pattern ``P`` of the singular vectors at the best frequency: its
    derivative is exact, and to apply it costs one product. ``P`` follows the weight by a few power
    iterations after each change in training mode, so that it stays as it is within a training step
    however often the network is called. In evaluation mode it is not touched.

    Args:
        weight: of a convolution, ``(outputs, inputs, *kernel)``.
        bound: ``c``, the norm that the convolution gets.
        size: frequencies per axis. The largest one between them is missed, by about
            ``(taps / size)²``.
        iterations: power iterations after a change of the weight.
    """

    pattern: Tensor
    vectors: Tensor

    def __init__(
        self, weight: Tensor, *, bound: float = 1.0, size: int = 16, iterations: int = 2
    ) -> None:
        super().__init__()
        self.bound = number("bound", bound, above=0, error=PriorError)
        self.size = whole("size", size, at_least=2, error=PriorError)
        self.iterations = whole("iterations", iterations, error=PriorError)
        axes = weight.ndim - 2
        if any(taps > self.size for taps in weight.shape[2:]):
            raise PriorError(f"a kernel of {tuple(weight.shape[2:])} needs size ≥ its taps")
        self.grid = (self.size,) * axes
        generator = torch.Generator().manual_seed(0)
        count = self.size ** (axes - 1) * (self.size // 2 + 1)
        start = torch.randn(count, weight.shape[1], 2, dtype=torch.float64, generator=generator)
        # Real, since files of weights and half precision know no complex numbers.
        self.register_buffer("vectors", start.to(weight))
        self.register_buffer("pattern", torch.zeros_like(weight))
        self._version = -1
        self._follow(weight.detach(), 30)

    @torch.no_grad()
    def _follow(self, weight: Tensor, iterations: int) -> None:
        axes = tuple(range(2, weight.ndim))
        spectrum = torch.fft.rfftn(weight, s=self.grid, dim=axes)
        matrices = spectrum.flatten(2).permute(2, 0, 1)
        v = torch.view_as_complex(self.vectors)
        tiny = torch.finfo(v.dtype).tiny
        for _ in range(iterations):
            u = (matrices @ v[..., None]).squeeze(-1)
            v = (matrices.mH @ u[..., None]).squeeze(-1)
            v = v / v.abs().square().sum(-1, keepdim=True).sqrt().clamp_min(tiny)
        u = (matrices @ v[..., None]).squeeze(-1)
        norms = u.abs().square().sum(-1).sqrt()
        best = int(norms.argmax())
        if not float(norms[best]) > 0:
            raise PriorError("a convolution whose weights are all 0 can not be normalised")
        u = u[best] / norms[best]
        # New tensors: a graph that is still to be differentiated may hold the old ones.
        self.vectors = torch.view_as_real(v).contiguous()
        self.pattern = (u[:, None].conj() * v[best]).reshape(*weight.shape[:2], *[1] * len(axes))
        self.pattern = (self.pattern * self._wave(best, weight)).real.contiguous()

    def _wave(self, index: int, weight: Tensor) -> Tensor:
        """``exp(−iω·t)`` over the kernel's taps ``t``, for a frequency of the flattened grid."""
        phase = torch.zeros(weight.shape[2:], dtype=torch.float64, device=weight.device)
        axes = len(self.grid)
        for axis in reversed(range(axes)):
            count = self.size // 2 + 1 if axis == axes - 1 else self.size
            index, place = divmod(index, count)
            taps = torch.arange(weight.shape[2 + axis], device=weight.device)
            turn = 2 * math.pi * place / self.size * taps
            phase = phase + turn.reshape(-1, *[1] * (axes - 1 - axis))
        return torch.polar(torch.ones_like(phase), -phase).to(weight.dtype.to_complex())

    def norm(self, weight: Tensor) -> Tensor:
        """``‖K‖``, differentiable; as near as the power iterations have come."""
        return (weight * self.pattern).sum()

    def forward(self, weight: Tensor) -> Tensor:
        """``c K / ‖K‖``."""
        if self.training and weight._version != self._version:
            self._follow(weight.detach(), self.iterations)
            self._version = weight._version
        return weight * (self.bound / self.norm(weight))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The weight itself: normalised is what is given."""
        return weight


def spectral_normalised(network: N, *, bound: float = 1.0, size: int = 16) -> N:
    """Give every convolution of a network the operator norm ``bound``; returns the network.

    With activations that do not expand, ``bound=1`` bounds the Lipschitz constant of a plain chain
    of convolutions by 1. Skip connections add: ``x + R(x)`` is bounded by 2.

    Raises:
        PriorError: there is no convolution, or one has strides, dilation or groups.
    """
    found = [m for m in network.modules() if isinstance(m, _CONVOLUTIONS)]
    if not found:
        raise PriorError(f"{type(network).__name__} has no convolution to normalise")
    for convolution in found:
        plain = set(convolution.stride) | set(convolution.dilation) | {convolution.groups}
        if plain != {1}:
            raise PriorError(
                "spectral normalisation is for convolutions without strides, dilation and groups; "
                f"got {convolution}"
            )
    for convolution in found:
        norm = SpectralNorm(convolution.weight, bound=bound, size=size)
        parametrize.register_parametrization(convolution, "weight", norm)
    return network
