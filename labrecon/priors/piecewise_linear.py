"""A learned shrinkage: a piecewise linear function of each sample, one per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labrecon.options import number, whole
from labrecon.prior import PriorError, soft_threshold

__all__ = ["PiecewiseLinear"]


class PiecewiseLinear(nn.Module):
    """``S(x)`` through the knots ``(pᵢ, qᵢ)``, ``pᵢ`` evenly spaced on [−bound, bound].

    ``S(x) = qᵢ + (x − pᵢ) (qᵢ₊₁ − qᵢ) / (pᵢ₊₁ − pᵢ)`` between them and, outside, slope 1 from the
    ends: ``S(x) = x − p_end + q_end`` (Yang, Sun, Li and Xu 2016, Deep ADMM-Net, eq. 8). The values
    ``q (channels, knots)`` are learned and may become any function, also one that is no prox.
    Complex samples have their real and imaginary part shrunk each.

    Not where samples are far outside the bound, where nothing is left to learn: see ``scale``.

    Args:
        channels: how many functions.
        threshold: they start as soft thresholding by this (of samples of size one).
        knots: number of them; the published 101 lie 0.02 apart.
        bound: the outermost.
        scale: typical size of samples: ``scale · S(x / scale)`` is computed.
        negative: what the first function is for ``x < 0``: "odd", or "zero" to start from ReLU.

    Raises:
        PriorError: a number is out of its range.

    Example:
        >>> shrink = PiecewiseLinear(1, threshold=0.5)
        >>> shrink(torch.tensor([[-2.0, 0.3, 0.75]]), 1).detach()
        tensor([[-1.5000,  0.0000,  0.2500]])
    """

    def __init__(
        self,
        channels: int,
        *,
        threshold: float = 0.0,
        knots: int = 101,
        bound: float = 1.0,
        scale: float = 1.0,
        negative: str = "odd",
    ) -> None:
        super().__init__()
        what = "PiecewiseLinear"
        channels = whole(f"{what}: channels", channels, error=PriorError)
        knots = whole(f"{what}: knots", knots, at_least=2, error=PriorError)
        self.bound = number(f"{what}: bound", bound, above=0, error=PriorError)
        self.scale = number(f"{what}: scale", scale, above=0, error=PriorError)
        threshold = number(f"{what}: threshold", threshold, at_least=0, error=PriorError)
        if negative not in ("odd", "zero"):
            raise PriorError(f'{what}: negative is "odd" or "zero", got {negative!r}')
        start = soft_threshold(torch.linspace(-self.bound, self.bound, knots), threshold)
        if negative == "zero":
            start = start.clamp_min(0)
        self.values = nn.Parameter(start.repeat(channels, 1))

    def forward(self, x: Tensor, axes: int = 2) -> Tensor:
        """``S(x)`` for ``(*lead, channels, *image)`` with ``axes`` image axes."""
        if x.is_complex():
            return torch.complex(self(x.real, axes), self(x.imag, axes))
        channels, knots = self.values.shape
        if x.ndim <= axes or x.shape[-axes - 1] != channels:
            raise PriorError(
                f"PiecewiseLinear: {channels} functions for channels along axis {-axes - 1} of "
                f"{tuple(x.shape)}"
            )
        bound = self.bound * self.scale
        inside = x.clamp(-bound, bound)
        place = (inside + bound) * ((knots - 1) / (2 * bound))
        left = place.detach().floor().clamp(0, knots - 2)
        channel = torch.arange(channels, device=x.device).reshape(-1, *[1] * axes)
        index = (left.long() + channel * knots).flatten()
        values = (self.scale * self.values).flatten()
        q, following = (torch.index_select(values, 0, i).view_as(x) for i in (index, index + 1))
        return torch.lerp(q, following, place - left) + (x - inside)
