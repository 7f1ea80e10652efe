"""Quality without a truth: does the residual look like the noise it should be?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from labrecon.fourier_shell import ShellCorrelation, Threshold
from labrecon.noise import Gaussian, NoiseError
from labrecon.problem import Problem

__all__ = ["Quality", "SplitHalf", "Whiteness", "assess"]

#: χ² per sample beyond which more than an ill-chosen prior is wrong.
MISFIT = 10.0


@dataclass(frozen=True)
class Whiteness:
    """Correlation of neighbouring residuals along one axis.

    White residuals lie within ``± bound`` (``2/√n``) with 95 % probability.
    """

    axis: str
    correlation: float
    bound: float


@dataclass(frozen=True)
class SplitHalf:
    """Reconstructions of two halves of a scan, compared by frequency.

    Attributes:
        axis: of the data, whose acquisitions were dealt in turn.
        threshold: that decides on the resolution.
        curve: the Fourier ring or shell correlation.
        resolution: in cycles per pixel, of the smallest one; None where nothing is resolved.
        pixel: size of that pixel in mm, where it is known.
    """

    axis: str
    threshold: Threshold
    curve: ShellCorrelation
    resolution: float | None
    pixel: float | None

    @property
    def length(self) -> float | None:
        """The resolution as a full period in mm, where that is known."""
        if self.resolution is None or self.pixel is None:
            return None
        return self.pixel / self.resolution

    @property
    def limited_by_sampling(self) -> bool:
        """Whether the halves agree up to the finest period that the pixels hold."""
        return self.resolution is not None and self.resolution >= float(self.curve.frequency[-1])

    def numbers(self) -> dict[str, Any]:
        """The resolution without the curve."""
        return {
            "axis": self.axis,
            "resolution_cycles_per_pixel": self.resolution,
            "resolution_mm": self.length,
            "limited_by_sampling": self.limited_by_sampling,
            "threshold": self.threshold,
        }


@dataclass(frozen=True)
class Quality:
    """Residual statistics.

    Attributes:
        residual: normalised residual ``(y − A x)/σ``, 0 at samples without weight. Where the
            noise level is unknown it is divided by its own standard deviation instead.
        level_known: whether the noise states an absolute standard deviation.
        chi2: mean square of the normalised residual, 1 for a fit within the noise; None where
            the level is unknown.
        deviation: standard deviation of the plain residual, in the unit of the data.
        samples: number of real samples that count.
        masked: number of samples with weight 0.
        whiteness: lag-1 autocorrelation along each axis of the data.
        split_half: what two halves of the data agree on, where it was asked for.
    """

    residual: Tensor
    level_known: bool
    chi2: float | None
    deviation: float
    samples: int
    masked: int
    whiteness: list[Whiteness] = field(default_factory=list)
    split_half: SplitHalf | None = None

    @property
    def doubt(self) -> str:
        """What χ² has against the image; empty where there is nothing, or no χ²."""
        if self.chi2 is None or self.chi2 <= MISFIT:
            return ""
        return (
            f"χ² {self.chi2:.3g} per sample, and about 1 where noise is all that data and image "
            "differ by: too few iterations or too strong a prior, a model or network that does "
            "not fit the scan, or noise that is understated; the residual may show which"
        )

    def numbers(self) -> dict[str, Any]:
        """The statistics without the residual itself."""
        return {
            "chi2": self.chi2,
            "noise_level_known": self.level_known,
            "residual_std": self.deviation,
            "samples": self.samples,
            "masked": self.masked,
            "lag1_correlation": {w.axis: w.correlation for w in self.whiteness},
            "lag1_worst": self.lag1_worst,
            **({} if self.split_half is None else {"split_half": self.split_half.numbers()}),
        }

    @property
    def lag1_worst(self) -> float | None:
        """The largest ``|correlation| / bound`` of all axes, of which white residuals reach 1.

        None where no axis is long enough.
        """
        return max((abs(w.correlation) / w.bound for w in self.whiteness), default=None)


def assess(problem: Problem, predicted: Tensor) -> Quality:
    """Residual statistics of a prediction ``A x`` against the measured data.

    With unit `Gaussian` noise, weights other than 0 and 1 are inverse variances, as in the data
    term; with weights 0 and 1 only, nothing states the noise level and no χ² is given.
    """
    measured, weights = problem.data, problem.weights
    residual = measured - predicted
    weight = (
        torch.ones_like(residual.real)
        if weights is None
        else (torch.broadcast_to(weights, residual.shape).to(residual.real.dtype))
    )
    valid = weight > 0
    unit = isinstance(problem.noise, Gaussian) and problem.noise.unit
    binary = bool(((weight == 0) | (weight == 1)).all())
    try:
        variance = problem.noise.variance(predicted)
        known = not (unit and binary)
    except NoiseError:
        variance, known = torch.ones_like(weight), False
    tiny = torch.finfo(weight.dtype).tiny
    scaled = residual * (weight / variance.clamp_min(tiny)).sqrt()
    scaled = torch.where(valid, scaled, 0.0)
    parts = 2 if residual.is_complex() else 1
    samples = int(valid.sum()) * parts
    chi2 = float(scaled.abs().double().square().sum()) / max(samples, 1)
    power = float(torch.where(valid, residual, 0.0).abs().double().square().sum())
    deviation = math.sqrt(power / max(samples, 1))
    if not known:
        scaled = scaled / (math.sqrt(chi2) or 1.0)
    return Quality(
        scaled,
        known,
        chi2 if known else None,
        deviation,
        samples,
        int((~valid).sum()),
        _whiteness(scaled, valid, problem.operator.range.axes, parts),
    )


def _whiteness(z: Tensor, valid: Tensor, axes: tuple[str, ...], parts: int) -> list[Whiteness]:
    mean = z.sum() / valid.sum().clamp_min(1)
    z = torch.where(valid, z - mean, 0.0)
    found = []
    for axis, name in zip(range(-len(axes), 0), axes, strict=True):
        size = z.shape[axis]
        if size < 3:
            continue
        a, b = z.narrow(axis, 0, size - 1), z.narrow(axis, 1, size - 1)
        both = valid.narrow(axis, 0, size - 1) & valid.narrow(axis, 1, size - 1)
        pairs = int(both.sum()) * parts
        power = (torch.where(both, a.abs().square() + b.abs().square(), 0.0)).sum() / 2
        if pairs < 2 or float(power) == 0:
            continue
        correlation = float(((a.conj() * b).real * both).sum() / power)
        found.append(Whiteness(name, correlation, 2 / math.sqrt(pairs)))
    return found
