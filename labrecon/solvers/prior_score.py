"""The pull of a prior on a sample: exact, of its Moreau envelope, or from a denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from labrecon.prior import Prior, Zero
from labrecon.priors.denoisers import Denoiser
from labrecon.priors.tikhonov import Tikhonov
from labrecon.problem import SolverError
from labrecon.schedule import Schedule

__all__ = ["BoxPull", "ExactPull", "MoreauPull", "Pull", "TweediePull", "pull_of"]


class Pull(ABC):
    """A field ``u(x)`` that stands for ``∇g(x) = −∇ log p(x)``.

    Attributes:
        lipschitz: a bound on ``‖u(x) − u(z)‖ / ‖x − z‖``.
    """

    lipschitz: float

    @abstractmethod
    def __call__(self, x: Tensor, ndim: int) -> Tensor:
        """``u(x)``; ``ndim`` is the number of axes of one object."""


class ExactPull(Pull):
    """``∇g`` of a quadratic penalty.

    Args:
        prior: ``½ weight ‖K x‖²``.
    """

    def __init__(self, prior: Tikhonov) -> None:
        self.prior = prior
        self.lipschitz = float(torch.as_tensor(prior.weight).detach().max())
        if prior.operator is not None:
            self.lipschitz *= 1.01 * prior.operator.norm() ** 2

    def __call__(self, x: Tensor, ndim: int) -> Tensor:
        """``weight KᴴK x``."""
        operator, weight = self.prior.operator, self.prior.weight
        if operator is None:
            return weight * x
        # A weight per coefficient belongs to ``K x``.
        if isinstance(weight, Tensor) and weight.ndim:
            return operator.normal(x, weight)
        return weight * operator.normal(x)


class MoreauPull(Pull):
    """``(x − prox_{λ g}(x)) / λ``, the gradient of the envelope ``min_u g(u) + ‖x − u‖² / 2λ``.

    Args:
        prior: convex.
        smoothing: ``λ``.
    """

    def __init__(self, prior: Prior, smoothing: float) -> None:
        self.prior, self.smoothing = prior, smoothing
        self.lipschitz = 1 / smoothing

    def __call__(self, x: Tensor, ndim: int) -> Tensor:
        """One prox."""
        return (x - self.prior.prox(x, self.smoothing)) / self.smoothing


class TweediePull(Pull):
    """``(x − D(x)) / ε`` with ``ε = σ²``: ``−∇ log p_ε(x)`` by Tweedie's formula.

    ``p_ε`` is the distribution of objects with white noise of variance ``ε``; the formula is exact
    for the denoiser of least mean square error.

    Args:
        denoiser: ``D``.
        level: ``σ``, at which it was trained.
        residual_lipschitz: of ``D − I``.
    """

    def __init__(self, denoiser: Denoiser, level: float, residual_lipschitz: float) -> None:
        self.denoiser, self.level = denoiser, level
        self.lipschitz = residual_lipschitz / level**2

    def __call__(self, x: Tensor, ndim: int) -> Tensor:
        """One run of the network."""
        given = self.level if self.denoiser.told else None
        return (x - self.denoiser.denoise(x, given)) / self.level**2


class BoxPull(Pull):
    """``(x − Π(x)) / λ``: back to an interval, so that a denoiser is not asked beyond its training.

    Args:
        low: of the interval.
        high: of the interval.
        smoothing: ``λ``.
    """

    def __init__(self, low: float, high: float, smoothing: float) -> None:
        self.low, self.high, self.smoothing = low, high, smoothing
        self.lipschitz = 1 / smoothing

    def __call__(self, x: Tensor, ndim: int) -> Tensor:
        """Zero inside."""
        if x.is_complex():
            raise SolverError("Langevin: a box has no meaning for complex objects; leave it out")
        return (x - x.clamp(self.low, self.high)) / self.smoothing


def pull_of(
    prior: Prior,
    *,
    curvature: float | None,
    smoothing: float | None = None,
    noise_level: float | None = None,
    residual_lipschitz: float = 1.0,
) -> Pull | None:
    """How a prior pulls; None where there is none.

    Args:
        prior: `Tikhonov` pulls by its gradient unless ``smoothing`` is given, a `Denoiser` by
            Tweedie's formula, any other by its Moreau envelope.
        curvature: ``L`` of the data term, where it is known; the envelope's ``λ`` is ``1 / L``.
        smoothing: ``λ``.
        noise_level: ``σ`` of a denoiser; by default the one it is set to.
        residual_lipschitz: of a denoiser.

    Raises:
        SolverError: a denoiser whose level is not known, or an option that the prior has no use of.
    """
    if isinstance(prior, Denoiser):
        if smoothing is not None:
            raise SolverError("Langevin: smoothing is for penalties; a denoiser has a noise_level")
        return TweediePull(prior, _level(prior, noise_level), residual_lipschitz)
    if noise_level is not None:
        raise SolverError(
            f"Langevin: noise_level is for a denoiser, and the prior is {type(prior).__name__}"
        )
    if isinstance(prior, Zero):
        return None
    if isinstance(prior, Tikhonov) and smoothing is None:
        return ExactPull(prior)
    if smoothing is None and curvature is None:
        raise SolverError(
            f"Langevin: the envelope of {type(prior).__name__} needs a width, as the curvature of "
            "the data term is not known: give smoothing"
        )
    return MoreauPull(prior, 1 / curvature if smoothing is None else smoothing)  # type: ignore[operator]


def _level(denoiser: Denoiser, given: float | None) -> float:
    level = denoiser.noise_level if given is None else given
    if level is None or isinstance(level, Schedule) or not level > 0:
        raise SolverError(
            "Langevin: give noise_level, the standard deviation (in units of the object) at which "
            "the denoiser was trained: its square is the ε of Tweedie's formula"
        )
    return float(level)
