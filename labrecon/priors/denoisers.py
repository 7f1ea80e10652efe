"""Denoising networks, and the prior that one makes (plug and play)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.options import flag, number, whole
from labrecon.prior import Prior, PriorError
from labrecon.priors.channels import (
    apply_network,
    channel_count,
    convolution,
    from_channels,
    to_channels,
)
from labrecon.priors.spectral import spectral_normalised
from labrecon.schedule import Schedule, number_at

__all__ = ["Denoiser", "DnCNN"]

COMPLEX = ("channels", "parts", "modulus")


class Denoiser(Prior):
    """A denoising network in the place of a prox: plug and play (Venkatakrishnan et al. 2013).

    ``prox(x, t) = D(x, σ)``. A denoiser at noise level ``σ`` stands for a prox of step ``σ²``; only
    ``weight``, which makes ``σ² = weight · t``, lets the step have a say. There is no penalty, so
    no objective to watch: convergence is certain only where ``D − I`` is a contraction (Ryu et
    al. 2019), and the limit depends on the step of the solver, unlike with a true prior.

    Args:
        network: from real channels ``(batch, channels, *image)`` to the same. One with a true
            attribute ``noise_channel`` gets the noise level as a further channel.
        noise_level: ``σ`` in units of the object, a number or a `Schedule`, for such a network.
        weight: in its place: ``σ = √(weight · step)``.
        scale: typical size of the object's values: the network sees ``x / scale``.
        input_range: the range ``(low, high)`` that each image is brought to on the way into the
            network, and back from behind it, by its own smallest and largest value: for networks
            trained on images of fixed contrast. It couples the samples of an image.
        complex_as: "channels": real and imaginary part are two channels of the network; "parts":
            each goes through it as an image; "modulus": the object is real and not negative, the
            phase is dropped.
        axes: number of image axes.

    Attributes:
        told: whether the network is told the noise level.

    Raises:
        PriorError: an option is wrong, or the noise level is missing, or given to a network that
            does not take one.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        noise_level: float | Schedule | None = None,
        weight: float | None = None,
        scale: float = 1.0,
        input_range: tuple[float, float] | None = None,
        complex_as: str = "channels",
        axes: int = 2,
    ) -> None:
        super().__init__()
        self.network = network
        self.told = bool(getattr(network, "noise_channel", False))
        given = (noise_level is not None) + (weight is not None)
        if given != self.told:
            raise PriorError(
                f"Denoiser: {type(network).__name__} "
                + ("needs noise_level or weight, and not both" if self.told else _NO_LEVEL)
            )
        if noise_level is not None and not isinstance(noise_level, Schedule):
            noise_level = number("Denoiser: noise_level", noise_level, at_least=0, error=PriorError)
        self.noise_level = noise_level
        if weight is not None:
            weight = number("Denoiser: weight", weight, at_least=0, error=PriorError)
        self.weight = weight
        self.scale = number("Denoiser: scale", scale, above=0, error=PriorError)
        self.input_range = None if input_range is None else _range(input_range)
        if complex_as not in COMPLEX:
            raise PriorError(
                f"Denoiser: complex_as is one of {', '.join(COMPLEX)}, got {complex_as!r}"
            )
        self.complex_as = complex_as
        self.axes = whole("Denoiser: axes", axes, error=PriorError)
        self.k = 0

    def layer(self, k: int) -> Prior:
        """A view with the noise level of iteration ``k``; the network is shared."""
        view = copy.copy(self)
        view.k = k
        return view

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``D(x, σ)``; the step counts only with ``weight``."""
        level: Tensor | float | None = None
        if self.weight is not None:
            level = (self.weight * step) ** 0.5
        elif self.noise_level is not None:
            level = number_at(self.noise_level, self.k)
        return self.denoise(x, level)

    def denoise(self, x: Tensor, noise_level: Tensor | float | None = None) -> Tensor:
        """``D(x, σ)``.

        Args:
            x: ``(*batch, *image)``, real or complex.
            noise_level: ``σ`` in units of ``x``: a number, or one that broadcasts to ``x``.
        """
        if x.ndim < self.axes:
            raise PriorError(f"Denoiser: {self.axes} image axes of an object with {x.ndim}")
        if x.is_complex() and self.complex_as == "modulus":
            return self.denoise(x.abs(), noise_level).to(x.dtype)
        if x.is_complex() and self.complex_as == "parts":
            return torch.complex(
                self.denoise(x.real, noise_level), self.denoise(x.imag, noise_level)
            )
        self._check_channels(x.dtype)
        seen = to_channels([x / self.scale], self.axes)
        gain, shift = self._contrast(seen)
        seen = gain * seen + shift
        if self.told:
            level = torch.as_tensor(noise_level, dtype=seen.dtype, device=seen.device) / self.scale
            level = level.expand(x.shape).unsqueeze(-self.axes - 1)
            seen = torch.cat([seen, gain * level], -self.axes - 1)
        made = (apply_network(self.network, seen, self.axes) - shift) / gain
        return self.scale * from_channels(made, x.dtype, self.axes)[0]

    def _check_channels(self, dtype: torch.dtype) -> None:
        expected = getattr(self.network, "channels", None)
        if expected is not None and expected != channel_count(dtype):
            raise PriorError(
                f"Denoiser: {type(self.network).__name__} takes images of {expected} real "
                f"channel(s), a {'complex' if dtype.is_complex else 'real'} one has "
                f"{channel_count(dtype)}"
                + ("; set complex_as='parts' or 'modulus'" if dtype.is_complex else "")
            )

    def _contrast(self, seen: Tensor) -> tuple[Any, Any]:
        """The gain and shift that bring each image to `input_range`."""
        if self.input_range is None:
            return 1.0, 0.0
        low, high = self.input_range
        axes = tuple(range(-self.axes - 1, 0))
        smallest, largest = seen.amin(axes, keepdim=True), seen.amax(axes, keepdim=True)
        span = largest - smallest
        gain = (high - low) / torch.where(span > 0, span, 1.0)
        return gain, low - gain * smallest


_NO_LEVEL = "has one noise level, that of its training: give neither noise_level nor weight"


def _range(given: Any) -> tuple[float, float]:
    try:
        low, high = given
    except (TypeError, ValueError) as error:
        raise PriorError(f"Denoiser: input_range is a pair (low, high), got {given!r}") from error
    low = number("Denoiser: input_range's low end", low, error=PriorError)
    high = number("Denoiser: input_range's high end", high, above=low, error=PriorError)
    return low, high


_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class DnCNN(nn.Module):
    """``D(x) = x − r(x)``: a chain of convolutions that finds the noise (Zhang et al. 2017).

    For one noise level, that of its training; for any other take `DRUNet`. Convolutions are 3 wide
    with zero padding and without bias.

    Args:
        channels: of the image, 2 for complex ones.
        axes: number of image axes, 1 to 3.
        features: channels between the convolutions.
        depth: number of convolutions.
        batch_norm: normalise the batch between them. Not with ``spectral``: it undoes the bound.
        spectral: hold the norm of each convolution at 1 or below, so that ``r`` is nonexpansive
            (see `labrecon.priors.spectral`).

    Raises:
        PriorError: a size is not a whole number, ``axes`` not 1, 2 or 3, or both options are on.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        axes: int = 2,
        features: int = 64,
        depth: int = 17,
        batch_norm: bool = True,
        spectral: bool = False,
    ) -> None:
        super().__init__()
        if axes not in _NORMS:
            raise PriorError(f"DnCNN: axes is 1, 2 or 3, got {axes!r}")
        self.channels = whole("DnCNN: channels", channels, error=PriorError)
        features = whole("DnCNN: features", features, error=PriorError)
        depth = whole("DnCNN: depth", depth, at_least=2, error=PriorError)
        if flag("DnCNN: spectral", spectral, error=PriorError) and flag(
            "DnCNN: batch_norm", batch_norm, error=PriorError
        ):
            raise PriorError("DnCNN: spectral bounds nothing with batch_norm; set it to False")

        def convolved(inputs: int, outputs: int) -> nn.Module:
            return convolution(axes, inputs, outputs, bias=False)

        parts = [convolved(channels, features), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            parts.append(convolved(features, features))
            if batch_norm:
                parts.append(_NORMS[axes](features))
            parts.append(nn.ReLU(inplace=True))
        self.residual = nn.Sequential(*parts, convolved(features, channels))
        if spectral:
            spectral_normalised(self.residual)

    def forward(self, x: Tensor) -> Tensor:
        """The image without its noise."""
        noise: Tensor = self.residual(x)
        return x - noise
