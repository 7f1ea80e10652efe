"""How noisy data are: a scan that is much noisier than those of the calibration is another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon.learners.self_supervised.levels import level_known, variance
from labrecon.problem import Problem

__all__ = ["compared", "relative_scatter"]

#: Beyond the least and the largest of the calibration by this factor, a scan is unlike them.
ALIKE = 1.5


def relative_scatter(problem: Problem, predicted: Tensor) -> float | None:
    """``rms(σ) / rms(A x)`` over the samples that count; None where the noise level is unknown.

    Args:
        problem: with noise and weights.
        predicted: ``A x``.
    """
    if not level_known(problem):
        return None
    counted = torch.ones_like(predicted.real)
    if problem.weights is not None:
        counted = (problem.weights > 0).to(counted).expand(predicted.shape)
    parts = 2 if predicted.is_complex() else 1
    noise = parts * (counted * variance(problem, predicted)).double().sum()
    signal = (counted * predicted.abs().square()).double().sum()
    return float((noise / signal).sqrt()) if bool(signal > 0) else None


def compared(found: float | None, calibrated: Sequence[float]) -> str:
    """In words, that a scan's noise is unlike that of the calibration; "" where it is not."""
    low, high = min(calibrated), max(calibrated)
    if found is None or low / ALIKE <= found <= ALIKE * high:
        return ""
    return (
        f"the noise of this scan is {100 * found:.3g} % of its data, and the error bars were "
        f"calibrated with {100 * low:.3g} to {100 * high:.3g} %: their level holds for such data"
    )
