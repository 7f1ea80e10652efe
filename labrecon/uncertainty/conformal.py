"""Conformal risk control: how many heuristic deviations make an interval that covers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon.space import per_element

__all__ = ["CalibrationError", "conformal_factor", "fewest_objects", "scores", "stated_deviation"]

#: Share of an object's root mean square deviation that is added to it everywhere: a heuristic that
#: is 0 somewhere would need an infinite factor.
FLOOR = 0.1
#: Of a product of a level and a count, which should be whole.
_ROUNDING = 1e-9


class CalibrationError(ValueError):
    """Intervals can not be calibrated: too few objects, or a deviation that says nothing."""


def fewest_objects(level: float) -> int:
    """How many objects a level needs to be calibrated on: ``1/α − 1`` with ``α = 1 − level``.

    With fewer, no finite factor covers a share ``level`` for certain.

    Example:
        >>> fewest_objects(0.9), fewest_objects(0.95), fewest_objects(0.5)
        (9, 19, 1)
    """
    return max(1, math.ceil(1 / (1 - level) - _ROUNDING) - 1)


def stated_deviation(deviation: Tensor, ndim: int) -> Tensor:
    """``σ + 0.1 rms(σ)`` of each object: what scores and intervals are in units of.

    Args:
        deviation: ``σ (*batch, *object)``, of any heuristic.
        ndim: number of axes of an object.

    Raises:
        CalibrationError: it is negative, not finite, or 0 everywhere.
    """
    if not bool((torch.isfinite(deviation) & (deviation >= 0)).all()):
        raise CalibrationError("deviations must be finite and not negative")
    square = deviation.square().flatten(deviation.ndim - ndim).mean(-1)
    if not bool((square > 0).all()):
        raise CalibrationError(
            "the deviation is 0 everywhere: the method gives the same result for all data"
        )
    return deviation + FLOOR * per_element(square.sqrt(), ndim)


def scores(estimate: Tensor, truth: Tensor, stated: Tensor) -> Tensor:
    """``|estimate − truth| / stated``: the factor from which on each sample is covered."""
    return (estimate - truth).abs() / stated


def conformal_factor(scores: Tensor, level: float) -> float:
    """The smallest factor with a guarantee for the next object (Angelopoulos et al. 2022).

    The loss of an object is the share of its samples outside of ``estimate ± factor · stated``. The
    factor is the smallest with ``n/(n+1) · mean loss + 1/(n+1) ≤ α = 1 − level``. For an object
    exchangeable with the ``n`` of the calibration, the expected share of its samples inside is then
    at least ``level``, whatever the deviation and whatever the distribution; where scores are
    continuous, at most ``level + 2/(n+1)``. With a single sample per object it is split conformal
    prediction. The expectation is over both: a given object may have less.

    Args:
        scores: ``(object, sample)``, of objects that nothing was trained or tuned on.
        level: share of samples to be covered.

    Raises:
        CalibrationError: fewer objects than `fewest_objects`.

    Example:
        >>> conformal_factor(torch.arange(1.0, 20.0)[:, None], 0.9)
        18.0
    """
    count, size = scores.shape
    if not 0 < level < 1:
        raise CalibrationError(f"the level is a share between 0 and 1, got {level!r}")
    if count < fewest_objects(level):
        raise CalibrationError(
            f"{count} objects are too few for intervals of {level:.6g}: they need "
            f"{fewest_objects(level)} to be calibrated on"
        )
    if bool(torch.isnan(scores).any()):
        raise CalibrationError("estimates, or truths, hold NaN")
    share = ((count + 1) * (1 - level) - 1) / count
    outside = math.floor(share * count * size + _ROUNDING * size)
    values = scores.flatten()
    return float(values.kthvalue(values.numel() - outside).values)
