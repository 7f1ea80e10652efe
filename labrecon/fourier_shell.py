"""Fourier ring and shell correlation: up to which frequency two volumes tell the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["ShellCorrelation", "Threshold", "Window", "shell_correlation"]

Threshold = Literal["half-bit", "1/7", "1/2"]
Window = Literal["tukey", "hann", "none"]
#: Part of an axis over which the Tukey window falls, both ends together.
TAPER = 0.25
#: Independent samples from which a shell is judged; one or two agree by chance.
FEWEST = 2.0


@dataclass(frozen=True)
class ShellCorrelation:
    """``FSC(k) = Re Σ F₁ conj(F₂) / √(Σ|F₁|² Σ|F₂|²)``, summed over each ring or shell.

    Attributes:
        frequency: radius of each shell ``(shells,)`` in cycles per pixel; where pixels differ, of
            the smallest one.
        correlation: ``FSC`` of each shell; 0 where a volume has nothing there.
        samples: independent Fourier samples of each shell: those in it, times what the window and
            the mask leave.
    """

    frequency: Tensor
    correlation: Tensor
    samples: Tensor

    def threshold(self, name: Threshold) -> Tensor:
        """What the correlation is compared with, for each shell.

        "1/7" (0.143, where a map of all data has ½ with the truth: Rosenthal and Henderson 2003)
        and "1/2" are constants. "half-bit" is where all data carry half a bit per sample, which
        depends on the number ``n`` of samples in the shell (van Heel and Schatz 2005)::

            T = (0.2071 + 1.9102/√n) / (1.2071 + 0.9102/√n)
        """
        if name == "half-bit":
            root = self.samples.clamp_min(1).sqrt()
            return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
        if name not in get_args(Threshold):
            raise ValueError(f"a threshold is one of {get_args(Threshold)}, got {name!r}")
        return torch.full_like(self.correlation, 1 / 7 if name == "1/7" else 1 / 2)

    def resolution(self, threshold: Threshold = "half-bit") -> float | None:
        """Frequency at which the correlation first falls below a threshold, in cycles per pixel.

        Interpolated between shells; those of fewer than two independent samples are passed over.

        Returns:
            The last shell's frequency where it never does; None where it is below from the start.
        """
        judged = self.samples >= FEWEST
        above = (self.correlation - self.threshold(threshold))[judged].tolist()
        frequency = self.frequency[judged].tolist()
        for i, margin in enumerate(above):
            if margin >= 0:
                continue
            if i == 0:
                return None
            share = above[i - 1] / (above[i - 1] - margin)
            return frequency[i - 1] + share * (frequency[i] - frequency[i - 1])
        return frequency[-1] if frequency else None


def shell_correlation(
    first: Tensor,
    second: Tensor,
    *,
    ndim: int = 2,
    spacing: tuple[float, ...] | None = None,
    window: Window = "tukey",
    mask: Tensor | None = None,
) -> ShellCorrelation:
    """Correlation of two volumes by frequency (Saxton and Baumeister 1982; Harauz 1986).

    Independent volumes give 0 ± 1/√n (real ones, standard deviation). The shells are one step of
    the finest frequency grid wide, up to half a cycle per pixel; the mean is taken out first.

    Args:
        first: ``(*batch, *shape)``, real or complex; the batch is summed over.
        second: of the same shape.
        ndim: 2 for rings in the last two axes, 3 for shells in the last three.
        spacing: size of a pixel along each of these axes, in any unit; equal by default.
        window: falls to 0 at the edges, which do not meet as the Fourier transform has them meet:
            "tukey" over an eighth at each end, "hann" all the way, "none" for periodic volumes.
        mask: real weights that broadcast to the last ``ndim`` axes, with soft edges. A hard mask
            correlates by itself.

    Raises:
        ValueError: shapes that differ, values that are not finite, a spacing or mask that does not
            fit, or nothing within the window.

    Example:
        >>> x = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
        >>> shell_correlation(x, 3 * x).resolution("1/2")
        0.5
    """
    shape = _checked(first, second, ndim)
    sizes = torch.tensor(spacing or (1.0,) * ndim, dtype=torch.float64)
    if len(sizes) != ndim or not bool(((sizes > 0) & torch.isfinite(sizes)).all()):
        raise ValueError(f"spacing needs {ndim} positive numbers, got {spacing}")
    weights = _weights(shape, window, mask, first.device)
    axes = tuple(range(-ndim, 0))
    a, b = (torch.fft.fftn(_centred(x, weights, axes), dim=axes) for x in (first, second))

    shell, step = _shells(shape, (sizes / sizes.min()).tolist(), first.device)
    count = int(0.5 / step + 1e-9)
    kept = ((shell > 0) & (shell <= count)).flatten()
    index = shell.flatten()[kept]

    def summed(values: Tensor) -> Tensor:
        total = values.reshape(-1, values.shape[-ndim:].numel()).sum(0)[kept]
        return total.new_zeros(count + 1).index_add(0, index, total)[1:].cpu()

    power = (summed(a.abs().square()) * summed(b.abs().square())).sqrt()
    both = summed((a * b.conj()).real)
    correlation = torch.where(power > 0, both / torch.where(power > 0, power, 1.0), 0.0)
    batch = first.numel() // shape.numel()
    independent = float(weights.square().sum() ** 2 / weights.pow(4).sum()) / shape.numel()
    samples = batch * independent * torch.bincount(index, minlength=count + 1)[1:].cpu().double()
    frequency = step * torch.arange(1, count + 1, dtype=torch.float64)
    full = samples > 0
    return ShellCorrelation(frequency[full], correlation[full], samples[full])


def _checked(first: Tensor, second: Tensor, ndim: int) -> torch.Size:
    if ndim not in (2, 3):
        raise ValueError(f"correlation is by rings (ndim=2) or shells (ndim=3), got ndim={ndim}")
    if first.shape != second.shape or first.ndim < ndim:
        raise ValueError(
            f"two volumes of one shape with {ndim} axes or more are compared, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    shape = first.shape[-ndim:]
    if max(shape) < 4 or not first.numel():
        raise ValueError(f"{tuple(first.shape)} is too small to be judged by frequency")
    if not all(bool(torch.isfinite(x).all()) for x in (first, second)):
        raise ValueError("the volumes hold NaN or infinite values")
    return shape


def _weights(
    shape: torch.Size, window: Window, mask: Tensor | None, device: torch.device
) -> Tensor:
    total = torch.ones(shape, dtype=torch.float64, device=device)
    if window not in get_args(Window):
        raise ValueError(f"a window is one of {get_args(Window)}, got {window!r}")
    for axis, size in enumerate(shape):
        # Of a few planes a window would leave one.
        if window == "none" or size < 4:
            continue
        place = (torch.arange(size, dtype=torch.float64, device=device) + 0.5) / size
        edge = torch.minimum(place, 1 - place) / (0.5 if window == "hann" else TAPER / 2)
        fall = 0.5 - 0.5 * torch.cos(torch.pi * edge.clamp(max=1))
        total = total * fall.reshape(-1, *[1] * (len(shape) - 1 - axis))
    if mask is not None:
        if mask.is_complex() or not bool((torch.isfinite(mask) & (mask >= 0)).all()):
            raise ValueError("a mask has real, finite weights that are not negative")
        try:
            total = total * torch.broadcast_to(mask.to(total), shape)
        except RuntimeError as error:
            raise ValueError(
                f"a mask {tuple(mask.shape)} does not fit volumes {tuple(shape)}"
            ) from error
    if not bool(total.any()):
        raise ValueError("nothing is left within the mask and the window")
    return total


def _centred(x: Tensor, weights: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Without its mean, whose sidelobes behind a window would correlate in all low shells."""
    exact = x.to(torch.complex128 if x.is_complex() else torch.float64)
    mean = (weights * exact).sum(axes, keepdim=True) / weights.sum()
    return weights * (exact - mean)


def _shells(shape: torch.Size, spacing: list[float], device: torch.device) -> tuple[Tensor, float]:
    """The shell of each Fourier sample, and the width of a shell in cycles per smallest pixel."""
    step = min(1 / (n * d) for n, d in zip(shape, spacing, strict=True))
    squared = torch.zeros(shape, dtype=torch.float64, device=device)
    for axis, (n, d) in enumerate(zip(shape, spacing, strict=True)):
        k = torch.fft.fftfreq(n, d, dtype=torch.float64, device=device)
        squared = squared + k.square().reshape(-1, *[1] * (len(shape) - 1 - axis))
    return (squared.sqrt() / step).round().long(), step
