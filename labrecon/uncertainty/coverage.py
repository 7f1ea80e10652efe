"""Coverage: the share of samples inside their intervals, as measured on further objects."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Coverage", "Stratum", "coverage", "gradient_size", "strata"]


@dataclass(frozen=True)
class Coverage:
    """A measured coverage.

    Attributes:
        share: of the samples that are covered, the mean over objects.
        error: its standard error. Samples of one object are alike: the objects are counted.
        lowest: of a single object.
        objects: their number.
    """

    share: float
    error: float
    lowest: float
    objects: int


@dataclass(frozen=True)
class Stratum:
    """Coverage among samples of one kind.

    Attributes:
        name: the kind.
        share: of these samples that are covered.
        half_width: mean of theirs.
    """

    name: str
    share: float
    half_width: float


def coverage(scores: Tensor, factor: float) -> Coverage:
    """What share of the samples has a score ``(object, sample)`` up to ``factor``."""
    each = (scores <= factor).double().mean(1)
    error = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    return Coverage(float(each.mean()), error, float(each.min()), len(each))


def gradient_size(x: Tensor, ndim: int) -> Tensor:
    """``|∇|x||`` over the last two axes at most, by forward differences: large at edges."""
    modulus = x.abs()
    square = torch.zeros_like(modulus)
    for axis in range(-min(2, ndim), 0):
        step = modulus.diff(dim=axis, append=modulus.narrow(axis, -1, 1))
        square = square + step.square()
    return square.sqrt()


def strata(scores: Tensor, factor: float, stated: Tensor, **kinds: Tensor) -> list[Stratum]:
    """Coverage in the lowest and in the highest quarter of the samples of each kind.

    A guarantee on all samples is none on these: intervals may be too wide where an object is flat,
    and too narrow at its edges.

    Args:
        scores: ``(object, sample)``.
        factor: of the intervals.
        stated: deviations, likewise.
        **kinds: by name, what samples are ordered by, likewise; known without the truth.
    """
    inside, found = scores <= factor, []
    for name, values in kinds.items():
        size = values.shape[1]
        low = values.kthvalue(max(1, size // 4), dim=1, keepdim=True).values
        high = values.kthvalue(size - size // 4, dim=1, keepdim=True).values
        for quarter, chosen in (("lowest", values <= low), ("highest", values > high)):
            # Where most samples have one value, such as 0, none is above it.
            if bool(chosen.any()):
                share = float(inside[chosen].double().mean())
                width = factor * float(stated[chosen].double().mean())
                found.append(Stratum(f"{name}, {quarter} quarter", share, width))
    return found
