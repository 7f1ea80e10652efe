"""Parametric bootstrap: data drawn again as if the estimate were the object."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from labrecon.noise import Gaussian
from labrecon.problem import Problem
from labrecon.uncertainty.conformal import CalibrationError

__all__ = ["bootstrap_deviation", "drawn_again", "require_noise_level"]


def require_noise_level(problem: Problem) -> None:
    """Raise unless it is known how much the data scatter.

    Raises:
        CalibrationError: nothing states a noise level, or weights have no meaning for the noise.
    """
    weights, noise = problem.weights, problem.noise
    graded = weights is not None and not bool(((weights == 0) | (weights == 1)).all())
    if isinstance(noise, Gaussian):
        if noise.unit and not graded:
            raise CalibrationError(
                "the scan states no noise level, so that nothing says how much the data scatter"
            )
    elif graded:
        raise CalibrationError(
            f"weights between 0 and 1 do not say how data with {type(noise).__name__} noise scatter"
        )


def drawn_again(problem: Problem, predicted: Tensor, generator: torch.Generator) -> Problem:
    """The problem with data drawn around ``predicted``.

    Of `Gaussian` noise with weights, the variance is ``σ² / w``, as in the data term. Samples
    without weight stay as they are.
    """
    data = problem.noise.sample(predicted, generator)
    if problem.weights is not None:
        weights = problem.weights.expand(problem.data.shape)
        if isinstance(problem.noise, Gaussian):
            scale = torch.where(weights > 0, weights, 1.0).rsqrt()
            data = predicted + scale * (data - predicted)
        data = torch.where(weights > 0, data, problem.data)
    return dataclasses.replace(problem, data=data, prepared=None)


def bootstrap_deviation(
    reconstruct: Callable[[Problem], Tensor],
    problem: Problem,
    estimate: Tensor,
    predicted: Tensor,
    *,
    draws: int,
    seed: int,
    together: int = 1,
) -> Tensor:
    """``√(mean |x_b − estimate|²)`` over estimates ``x_b`` of data drawn around ``A(estimate)``.

    It is what the error would be if the estimate were the object: noise that comes through, and
    what the method loses when it sees its own result. Detail that the estimate has lost already,
    and errors of the model, are not in it (Efron and Tibshirani 1993, chapter 6).

    Args:
        reconstruct: from a problem to an estimate; with ``together`` above 1 from a stack of data
            ``(draw, *batch, *range)`` to one of estimates.
        problem: of the scan, with its noise.
        estimate: of the scan ``(*batch, *object)``.
        predicted: ``A(estimate)``.
        draws: number of data sets; the deviation scatters by ``1/√(2 draws)``.
        seed: of the draws.
        together: draws that are reconstructed at once.

    Raises:
        CalibrationError: the noise level is not known.
    """
    require_noise_level(problem)
    total = torch.zeros_like(estimate.real)
    for start in range(0, draws, together):
        numbers = range(start, min(start + together, draws))
        some = [drawn_again(problem, predicted, _generator(seed, i)) for i in numbers]
        if together == 1:
            made = reconstruct(some[0])[None]
        else:
            data = torch.stack([each.data for each in some])
            made = reconstruct(dataclasses.replace(some[0], data=data))
        total += (made.to(estimate.device) - estimate).abs().square().sum(0)
    return (total / draws).sqrt()


def _generator(seed: int, draw: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed} bootstrap {draw}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
