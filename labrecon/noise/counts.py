"""Photons, with a camera or a logarithm after them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labrecon.noise.model import Noise, NoiseError, standard_normal
from labrecon.options import number

__all__ = ["LogPoisson", "Poisson", "PoissonGaussian"]


class PoissonGaussian(Noise):
    """Photon counts with electronic noise: ``y ~ Poisson(p + b) + N(0, σ²)``.

    The likelihood is the shifted Poisson, ``y + σ² ~ Poisson(p + b + σ²)`` (Snyder, Hammoud and
    White 1993), which has the right mean and variance and is convex:
    ``density = m − s log m − (s − s log s)`` with ``m = p + b + σ²`` and ``s = y + σ²``.

    Args:
        sigma: standard deviation of the electronic noise, in counts.
        background: mean counts added by scatter or dark current.
    """

    sigma: Tensor
    background: Tensor

    def __init__(self, sigma: Tensor | float, background: Tensor | float = 0.0) -> None:
        super().__init__()
        for name, value in (("sigma", sigma), ("background", background)):
            tensor = torch.as_tensor(value, dtype=torch.float64)
            if not bool((tensor >= 0).all()) or not bool(torch.isfinite(tensor).all()):
                raise NoiseError(f"{name} must be non-negative and finite, in counts")
            self.register_buffer(name, tensor)

    def _shift(self, like: Tensor) -> tuple[Tensor, Tensor]:
        variance = self.sigma.to(like.dtype).square()
        return self.background.to(like.dtype) + variance, variance

    def shifted(self, predicted: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """``m = p + b + σ²`` and ``s = y + σ²`` (not below 0): the Poisson pair."""
        shift, variance = self._shift(predicted)
        mean = predicted + shift
        # What an FFT leaves of 0 is not a negative mean.
        rounding = 16 * torch.finfo(mean.dtype).eps * mean.detach().abs().amax()
        mean = torch.where(mean > -rounding, mean.clamp_min(0), mean)
        return mean, (measured + variance).clamp_min(0)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Counts drawn at mean ``clean + b``.

        The values are exact Poisson draws; the gradient is that of the Gaussian of equal mean and
        variance, ``y = m + √m ε`` with ``ε`` held fixed, so that it reaches a dose or a pattern.
        """
        mean = clean + self.background.to(clean.dtype)
        if not bool((mean >= 0).all()):
            raise NoiseError("Poisson noise needs non-negative mean counts (no NaN)")
        where = generator.device if generator is not None else mean.device
        counts = torch.poisson(mean.detach().to(where), generator=generator).to(mean.device)
        if mean.requires_grad:
            safe = mean.clamp_min(torch.finfo(mean.dtype).tiny)
            epsilon = (counts - safe.detach()) / safe.detach().sqrt()
            pathwise = safe + safe.sqrt() * epsilon
            # Its rounding is taken out, so that counts stay whole.
            counts = counts + (pathwise - pathwise.detach())
        if bool((self.sigma > 0).any()):
            counts = counts + self.sigma.to(clean.dtype) * standard_normal(clean, generator)
        return counts

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``m − s − s log(m / s)``; infinite where the predicted mean is negative."""
        mean, counts = self.shifted(predicted, measured)
        # Where no count was seen the logarithm has no say, not even in the derivative at mean 0.
        seen = torch.where(counts > 0, mean, 1.0)
        value = mean - counts + torch.xlogy(counts, counts) - torch.xlogy(counts, seen)
        return torch.where(mean >= 0, value, torch.inf)

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``1 − s / m``."""
        mean, counts = self.shifted(predicted, measured)
        return 1 - counts / mean.clamp_min(torch.finfo(predicted.dtype).tiny)

    def curvature(self, measured: Tensor) -> Tensor | float:
        """``s / (b + σ²)²``, its maximum over ``p ≥ 0``; unbounded without background."""
        shift, variance = self._shift(measured)
        if not bool((shift > 0).all()):
            return super().curvature(measured)
        return (measured + variance).clamp_min(0) / shift.square()

    def prox(self, v: Tensor, measured: Tensor, step: Tensor | float) -> Tensor:
        """``½ (v' − t + √((v' − t)² + 4 t s)) − shift`` with ``v' = v + shift``."""
        shift, variance = self._shift(v)
        u = v + shift - step
        counts = (measured + variance).clamp_min(0)
        return 0.5 * (u + (u.square() + 4 * step * counts).sqrt()) - shift

    def variance(self, predicted: Tensor) -> Tensor:
        """``p + b + σ²``."""
        return predicted + self._shift(predicted)[0]

    def check(self, measured: Tensor) -> None:
        """Counts may be negative by a few ``σ`` of electronic noise, no more."""
        floor = -6.0 * self.sigma.to(measured.dtype)
        low = measured < floor
        if bool(low.any()):
            raise NoiseError(
                f"{int(low.sum())} of {low.numel()} counts are negative beyond the electronic "
                f"noise (lowest {float(measured.min()):.4g}): subtract no dark current before, "
                "or state it as background"
            )


class Poisson(PoissonGaussian):
    """Photon counts ``y ~ Poisson(p + b)``; ``density = m − y − y log(m / y)``, ``m = p + b``.

    Args:
        background: mean counts added by scatter or dark current.
    """

    def __init__(self, background: Tensor | float = 0.0) -> None:
        super().__init__(0.0, background)


class LogPoisson(Noise):
    """Photon counts whose logarithm is modelled: ``y ~ Poisson(m)`` with ``m = exp(p + b)``.

    ``density = m − (p + b) y − (y − y log y)``, convex, and no ``p`` is illegal; what the codes of
    a dictionary add up to is ``p``. Its curvature ``m`` is unbounded: use backtracking.

    Args:
        baseline: ``b``, the logarithm of the mean counts at ``p = 0``.
        clip: ``α`` of a bounded score ``−elu_α(y − m)``, which never rises above ``α`` and so tames
            an iterate far off; where ``m`` is a little too large it is ``α`` times as steep as the
            exact one (Tolooshams et al. 2020). It is the derivative of no density known here, so
            not for backtracking. None for the exact score.

    Example:
        >>> LogPoisson().score(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0]))
        tensor([ 0., -2.])
    """

    def __init__(self, baseline: float = 0.0, *, clip: float | None = None) -> None:
        super().__init__()
        self.baseline = number("the baseline of log-Poisson noise", baseline, error=NoiseError)
        if clip is not None and not clip > 0:
            raise NoiseError(f"the bound of a score is above 0, got {clip!r}")
        self.clip = clip

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Counts of mean ``m``; gradients as those of `Poisson`."""
        return Poisson().sample((clean + self.baseline).exp(), generator)

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``m − (p + b) y − (y − y log y)``."""
        log = predicted + self.baseline
        least = measured - torch.xlogy(measured, measured)
        return log.exp() - log * measured - least

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``m − y``, or its bounded form."""
        excess = (predicted + self.baseline).exp() - measured
        return excess if self.clip is None else -nn.functional.elu(-excess, self.clip)

    def check(self, measured: Tensor) -> None:
        """Counts are not negative."""
        Poisson().check(measured)
