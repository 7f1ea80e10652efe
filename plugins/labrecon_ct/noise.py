"""Noise of transmission measurements: photon counts seen through their logarithm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon.design import Budget
from labrecon.noise import Gaussian, Noise, NoiseError, PoissonGaussian

__all__ = ["TransmissionNoise", "line_integral_noise", "photon_transfer", "statistical_weights"]

FLOOR = 1.0
#: Least dose of a view that is designed, relative to the open beam.
LEAST_DOSE = 0.01


def statistical_weights(photons: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
    """Inverse variance of a line integral: ``w = N² / (N + σ²)``.

    The variance of ``−ln(N / N₀)`` to first order, for Poisson photons and Gaussian electronic
    noise (Sauer and Bouman 1993; Thibault et al. 2006).

    Args:
        photons: ``N`` above dark, at least 1.
        sigma: electronic noise in photons.
    """
    return photons.square() / (photons + sigma**2)


def line_integral_noise(precision: Tensor) -> tuple[Gaussian, Tensor]:
    """Noise and weights of mean 1 whose product is ``precision``, the inverse variance.

    Weights around 1 keep step sizes and the priors' weights comparable between scans, and the
    residual still has its absolute level: ``Gaussian(σ)`` with ``σ⁻² = mean(precision)``.
    """
    used = precision > 0
    if not bool(used.any()):
        raise NoiseError("no sample has a positive weight: every pixel is marked as bad")
    mean = float(precision[used].double().mean())
    return Gaussian(mean**-0.5), precision / mean


def photon_transfer(
    groups: Sequence[Tensor], darks: Tensor | None, gain: float | None = None
) -> tuple[float, float]:
    """Counts per photon and electronic noise in photons.

    The photon transfer relation: the variance of flats above that of darks is gain times their
    mean. It is taken from consecutive frames within a group, so that a beam that drifts is not
    mistaken for noise; its flicker is taken out through the mean of each frame.

    Args:
        groups: flats ``(frame, …)`` that were taken together, in the order of time.
        darks: ``(frame, …)``.
        gain: counts per photon, where it is known.
    """
    electronic = 0.0
    if darks is not None and len(darks) >= 4:
        electronic = float(darks.double().var(0).median())
    if gain is None and sum(len(group) - 1 for group in groups) >= 3:
        offset = 0.0 if darks is None else darks.mean(0).double()
        nets = [group.double() - offset for group in groups]
        mean = torch.cat(nets).mean(0)
        steps = []
        for net in nets:
            level = net.flatten(1).mean(1)
            steady = net * (level.mean() / level).reshape(-1, *[1] * (net.ndim - 1))
            steps.append(steady.diff(dim=0).square())
        variance = 0.5 * torch.cat(steps).mean(0)
        typical = variance < 10 * variance.median()
        excess = float((variance[typical] - electronic).mean())
        gain = excess / float(mean[typical].mean()) if excess > 0 else None
    gain = gain or 1.0
    return gain, electronic**0.5 / gain


class TransmissionNoise(Noise):
    """Logarithms of photon counts: ``y = −ln(N / N₀)``, ``N ~ Poisson(N₀ e^{−p}) + N(0, σ²)``.

    Samples are exact draws of the counts, floored at one count before the logarithm. The data term
    is the weighted square ``½ w (p − y)²`` with `statistical_weights` at the measured counts, whose
    gradient and step size are known. Below some ten counts the logarithm is biased: then use
    `labrecon_ct.transmission.Transmission` with Poisson noise.

    Args:
        open_beam: ``N₀`` in photons; a number, or a tensor that broadcasts to the data.
        sigma: electronic noise in photons.
        dose: factor of ``N₀`` (view): the design ``dose``, whose sum is a budget.
    """

    open_beam: Tensor
    sigma: Tensor

    def __init__(
        self,
        open_beam: Tensor | float,
        sigma: Tensor | float = 0.0,
        dose: Tensor | None = None,
    ) -> None:
        super().__init__()
        for name, value, low in (("open_beam", open_beam, FLOOR), ("sigma", sigma, 0.0)):
            tensor = torch.as_tensor(value, dtype=torch.float64)
            if not bool((tensor >= low).all()) or not bool(torch.isfinite(tensor).all()):
                raise NoiseError(f"{name} must be finite and at least {low:g}, in photons")
            self.register_buffer(name, tensor)
        self._dosed = dose is not None
        if dose is not None:
            if not bool((self.open_beam.min() * dose.double() >= FLOOR).all()):
                raise NoiseError(
                    f"the dose leaves less than {FLOOR:g} photon of an open beam of "
                    f"{float(self.open_beam.min()):g}: give doses as factors of open_beam"
                )
            least = min(LEAST_DOSE, float(dose.min()))
            feasible = Budget(float(dose.double().sum()), unit="views", low=least)
            self.design("dose", dose.double(), feasible)

    def _beam(self, like: Tensor) -> Tensor:
        beam = self.open_beam
        if self._dosed:
            # Views come before columns, and after the rows of a 3D scan.
            beam = (beam * self.get_parameter("dose")[:, None]).clamp_min(FLOOR)
        return beam.to(like.dtype)

    def precision(self, lines: Tensor) -> Tensor:
        """Inverse variance of line integrals."""
        photons = (self._beam(lines) * torch.exp(-lines)).clamp_min(FLOOR)
        return statistical_weights(photons, self.sigma.to(lines.dtype))

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noisy line integrals; gradients reach ``clean`` and the dose."""
        counts = PoissonGaussian(self.sigma).sample(
            self._beam(clean) * torch.exp(-clean), generator
        )
        return torch.log(self._beam(clean)) - torch.log(counts.clamp_min(FLOOR))

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``½ w(y) (p − y)²``."""
        return 0.5 * self.precision(measured) * (predicted - measured).square()

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """``w(y) (p − y)``."""
        return self.precision(measured) * (predicted - measured)

    def curvature(self, measured: Tensor) -> Tensor | float:
        """``w(y)``."""
        return self.precision(measured)

    def prox(self, v: Tensor, measured: Tensor, step: Tensor | float) -> Tensor:
        """``(v + t w y) / (1 + t w)``."""
        t = step * self.precision(measured)
        return (v + t * measured) / (1 + t)

    def variance(self, predicted: Tensor) -> Tensor:
        """``1 / w(p)``."""
        return 1 / self.precision(predicted)
