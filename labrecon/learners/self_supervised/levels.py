"""The noise that was declared: whether its level is known, its variance, and draws of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon.noise import Gaussian, Noise, NoiseError, PoissonGaussian, Scaled
from labrecon.problem import Problem

__all__ = ["clean_of", "counting", "drawn", "level_known", "offset", "require_level", "variance"]


def level_known(problem: Problem) -> bool:
    """Whether noise and weights state an absolute level, as in `labrecon.quality.assess`.

    Unit Gaussian noise does with weights other than 0 and 1, which are inverse variances.
    """
    noise, weights = problem.noise, problem.weights
    if isinstance(noise, Gaussian) and noise.unit:
        return weights is not None and not bool(((weights == 0) | (weights == 1)).all())
    try:
        noise.variance(clean_of(noise, problem.data))
    except NoiseError:
        return False
    return True


def require_level(problem: Problem, what: str) -> None:
    """Raise `ValueError` where the level of the noise is not known.

    Raises:
        ValueError: with what could be done.
    """
    if not level_known(problem):
        raise ValueError(
            f"{what} needs the level of the noise, and {type(problem.noise).__name__} of these "
            "data states none: add a preparation step that finds it (noise_level, prewhiten), or "
            "take ssdu, which needs none"
        )


def offset(noise: Noise, like: Tensor) -> Tensor | float:
    """What the mean of the data is above ``A(x)``: counts of background."""
    if isinstance(noise, Scaled):
        return offset(noise.noise, like) / noise.gain.to(like.real.dtype)
    return noise.background.to(like.dtype) if isinstance(noise, PoissonGaussian) else 0.0


def clean_of(noise: Noise, measured: Tensor) -> Tensor:
    """The ``A(x)`` whose mean the data would be; counts are not negative."""
    inner = noise.noise if isinstance(noise, Scaled) else noise
    counts = measured.clamp_min(0) if isinstance(inner, PoissonGaussian) else measured
    return counts - offset(noise, measured)


def counting(problem: Problem) -> Tensor:
    """Which samples count, in the shape of the data: those of positive weight."""
    if problem.weights is None:
        return torch.ones_like(problem.data, dtype=torch.bool)
    return (problem.weights > 0).expand(problem.data.shape)


def variance(problem: Problem, predicted: Tensor) -> Tensor:
    """Variance of each sample around ``predicted``, per real part; 0 where the weight is 0.

    Weights other than 0 and 1 divide it, as they do in the data term.
    """
    return _weighed(problem, problem.noise.variance(predicted).expand(predicted.shape), 1)


def drawn(problem: Problem, predicted: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Noise of data around ``predicted``, of mean 0; 0 where the weight is 0.

    Where counts would be negative, as a network may predict them, there is no photon noise.
    """
    noise, predicted = problem.noise, predicted.detach()
    gain: Tensor | float = 1.0
    if isinstance(noise, Scaled):
        # In its own units, where the background cancels to the last bit.
        gain = noise.gain.to(predicted.real.dtype)
        noise = noise.noise
    clean = clean_of(noise, gain * predicted + offset(noise, predicted))
    pairs = zip(clean, generators, strict=True)
    made = torch.stack([noise.sample(one, generator) for one, generator in pairs])
    return _weighed(problem, (made - clean - offset(noise, predicted)) / gain, 0.5)


def _weighed(problem: Problem, values: Tensor, power: float) -> Tensor:
    """``values / wᵖ``; 0 where the weight is 0."""
    if problem.weights is None:
        return values
    counted = problem.weights > 0
    return torch.where(counted, values / torch.where(counted, problem.weights, 1.0) ** power, 0.0)
