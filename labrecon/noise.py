"""Noise: how measured data scatter around ``A(x)``, for simulation and for the data term."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labrecon.adjustable import Adjustable
from labrecon.options import number

__all__ = [
    "Amplitude",
    "Gaussian",
    "LogPoisson",
    "Noise",
    "NoiseError",
    "Poisson",
    "PoissonGaussian",
    "Scaled",
]


class NoiseError(ValueError):
    """Data that the declared noise can not have produced, or a quantity it does not have."""


class Noise(Adjustable):
    """One object for both uses of a noise model: drawing samples and judging a fit.

    What changes it and not the mean, such as the dose of each view, is a `design` of it.

    A subclass writes `sample` and `density`; `prox`, `curvature` and `variance` make more solvers
    and the residual statistics available.
    """

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noisy data whose mean is ``clean``; gradients reach ``clean`` where possible."""
        raise NoiseError(f"{type(self).__name__} does not define sample")

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """Negative log-likelihood of each sample, up to a constant that makes its minimum 0."""
        raise NoiseError(f"{type(self).__name__} does not define density")

    def nll(
        self,
        predicted: Tensor,
        measured: Tensor,
        weights: Tensor | None = None,
        ndim: int | None = None,
    ) -> Tensor:
        """``Σ w · density`` over the last ``ndim`` axes (default all): one number per element."""
        if weights is not None:
            # A sample without weight counts nothing, even where its density, or the derivative of
            # it, is infinite.
            counted = weights > 0
            predicted = torch.where(counted, predicted, measured.to(predicted.dtype))
            terms = torch.where(counted, weights * self.density(predicted, measured), 0.0)
        else:
            terms = self.density(predicted, measured)
        return terms.flatten(terms.ndim - (terms.ndim if ndim is None else ndim)).sum(-1)

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """Derivative of `density` by ``predicted``; by default automatic differentiation."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            point = (
                predicted.view_as(predicted)
                if predicted.requires_grad
                else predicted.detach().requires_grad_()
            )
            total = self.density(point, measured).sum()
            (g,) = torch.autograd.grad(total, point, create_graph=differentiable)
        return g

    def curvature(self, measured: Tensor) -> Tensor | float:
        """An upper bound on the second derivative of `density`, for safe step sizes."""
        raise NoiseError(
            f"{type(self).__name__} has no bounded curvature: use backtracking, or a solver that "
            "needs only its prox (ADMM, PDHG) or no step size (MLEM)"
        )

    def prox(self, v: Tensor, measured: Tensor, step: Tensor | float) -> Tensor:
        """``argmin_p step · density(p, measured) + ½|p − v|²`` for each sample."""
        raise NoiseError(f"{type(self).__name__} has no closed-form prox")

    def variance(self, predicted: Tensor) -> Tensor:
        """Variance of the data around ``predicted``, for normalised residuals."""
        raise NoiseError(f"{type(self).__name__} does not state its variance")

    def check(self, measured: Tensor) -> None:
        """Raise `NoiseError` on data this noise can not have produced (negative counts)."""


class Gaussian(Noise):
    """``y = A(x) + n`` with independent ``n ~ N(0, σ²)``; ``density = |p − y|² / 2σ²``.

    Complex data have standard deviation ``σ`` in the real and in the imaginary part each.

    Args:
        sigma: standard deviation in the unit of the data; a number or a tensor that broadcasts.
    """

    sigma: Tensor

    def __init__(self, sigma: Tensor | float = 1.0) -> None:
        super().__init__()
        value = torch.as_tensor(sigma, dtype=None if isinstance(sigma, Tensor) else torch.float64)
        if not bool((value > 0).all()) or not bool(torch.isfinite(value).all()):
            raise NoiseError("the standard deviation of Gaussian noise must be positive, finite")
        self.register_buffer("sigma", value)
        self.unit = _is_one(value)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.unit = _is_one(self.sigma)

    def _over_variance(self, values: Tensor) -> Tensor:
        return values if self.unit else values / self.sigma.to(values.real.dtype).square()

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``clean + σ n`` with standard normal ``n`` (per real and imaginary part)."""
        n = _standard_normal(clean, generator)
        return clean + self.sigma.to(clean.real.dtype) * n

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``|p − y|² / 2σ²``."""
        r = predicted - measured
        square = torch.view_as_real(r).square().sum(-1) if r.is_complex() else r.square()
        return 0.5 * self._over_variance(square)

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``(p − y) / σ²``."""
        return self._over_variance(predicted - measured)

    def curvature(self, measured: Tensor) -> Tensor | float:
        """``1 / σ²``."""
        return 1.0 if self.unit else self.sigma.to(measured.real.dtype) ** -2

    def prox(self, v: Tensor, measured: Tensor, step: Tensor | float) -> Tensor:
        """``(v + t y) / (1 + t)`` with ``t = step / σ²``."""
        t = step * self.curvature(measured)
        return (v + t * measured) / (1 + t)

    def variance(self, predicted: Tensor) -> Tensor:
        """``σ²``."""
        return self.sigma.to(predicted.real.dtype).square().expand(predicted.shape)


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
            counts = counts + self.sigma.to(clean.dtype) * _standard_normal(clean, generator)
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


class Scaled(Noise):
    """Noise in other units: ``y = n / gain`` with ``n`` as another noise has it at ``gain · p``.

    Photon noise of intensities that are 1 in an empty field is ``Scaled(Poisson(), electrons)``.

    Args:
        noise: in its own units, such as electrons.
        gain: its units per unit of the data; a number or a tensor that broadcasts.

    Example:
        >>> noise = Scaled(PoissonGaussian(1.5), 30_000.0)
        >>> float(noise.variance(torch.tensor(1.0))) * 30_000
        1.0000...
    """

    gain: Tensor

    def __init__(self, noise: Noise, gain: Tensor | float) -> None:
        super().__init__()
        self.noise = noise
        value = torch.as_tensor(gain, dtype=torch.float64)
        if not bool((value > 0).all()) or not bool(torch.isfinite(value).all()):
            raise NoiseError("the gain of a noise must be positive and finite")
        self.register_buffer("gain", value)

    def _gain(self, like: Tensor) -> Tensor:
        return self.gain.to(like.real.dtype)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw at ``gain · clean``, divided by the gain."""
        gain = self._gain(clean)
        return self.noise.sample(gain * clean, generator) / gain

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """That of the other noise at ``gain · p`` and ``gain · y``."""
        gain = self._gain(predicted)
        return self.noise.density(gain * predicted, gain * measured)

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``gain`` times that of the other noise."""
        gain = self._gain(predicted)
        return gain * self.noise.score(gain * predicted, gain * measured)

    def curvature(self, measured: Tensor) -> Tensor | float:
        """``gain²`` times that of the other noise."""
        gain = self._gain(measured)
        return gain.square() * self.noise.curvature(gain * measured)

    def prox(self, v: Tensor, measured: Tensor, step: Tensor | float) -> Tensor:
        """That of the other noise with a step of ``gain² · step``, divided by the gain."""
        gain = self._gain(v)
        return self.noise.prox(gain * v, gain * measured, step * gain.square()) / gain

    def variance(self, predicted: Tensor) -> Tensor:
        """That of the other noise over ``gain²``."""
        gain = self._gain(predicted)
        return self.noise.variance(gain * predicted) / gain.square()

    def check(self, measured: Tensor) -> None:
        """What the other noise says of ``gain · y``."""
        self.noise.check(self._gain(measured) * measured)


class Amplitude(Noise):
    """Intensities judged by their roots: ``density = (√(p + ε) − √(y + ε))² / 2σ²``.

    The data term of Fourier ptychography and phase retrieval: it is nearly that of photon noise,
    whose root has the same variance at every intensity (Yeh et al. 2015). `sample` draws
    ``(√p + σ n)²``; σ = ½ is photon noise of counts.

    Args:
        sigma: standard deviation of the roots.
        floor: ``ε``, which keeps the derivative finite where no light falls.
    """

    sigma: Tensor

    def __init__(self, sigma: Tensor | float = 0.5, floor: float = 1e-7) -> None:
        super().__init__()
        value = torch.as_tensor(sigma, dtype=torch.float64)
        if not bool((value > 0).all()) or not floor > 0:
            raise NoiseError("sigma and floor of amplitude noise must be positive")
        self.register_buffer("sigma", value)
        self.floor = float(floor)

    def _root(self, intensity: Tensor) -> Tensor:
        return (intensity.clamp_min(0) + self.floor).sqrt()

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``(√p + σ n)²`` with standard normal ``n``."""
        n = _standard_normal(clean, generator)
        return (clean.clamp_min(0).sqrt() + self.sigma.to(clean.dtype) * n).square()

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``(√(p + ε) − √(y + ε))² / 2σ²``."""
        difference = self._root(predicted) - self._root(measured)
        return 0.5 * difference.square() / self.sigma.to(predicted.dtype).square()

    def variance(self, predicted: Tensor) -> Tensor:
        """``4 σ² (p + ε)``: that of the root, carried to the intensity."""
        return 4 * self.sigma.to(predicted.dtype).square() * (predicted.clamp_min(0) + self.floor)

    def check(self, measured: Tensor) -> None:
        """Intensities are not negative."""
        low = measured < 0
        if bool(low.any()):
            raise NoiseError(
                f"{int(low.sum())} of {low.numel()} intensities are negative (lowest "
                f"{float(measured.min()):.4g}) and have no root: clip them in preparation, or take "
                "photon noise"
            )


def _is_one(sigma: Tensor) -> bool:
    return sigma.ndim == 0 and float(sigma) == 1.0


def _standard_normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else like.device
    n = torch.randn(like.shape, dtype=like.dtype, device=device, generator=generator)
    # torch gives a complex normal unit variance in all; here each part has unit variance.
    return (n * 2**0.5 if like.is_complex() else n).to(like.device)
