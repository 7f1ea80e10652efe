"""Intervals around an estimate, calibrated or not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from labrecon.uncertainty.card import IntervalsCard, LevelRow
from labrecon.uncertainty.cautions import cautions
from labrecon.uncertainty.conformal import stated_deviation

__all__ = ["Intervals", "make_intervals", "normal_factor"]

#: Gelman and Rubin's R-hat below which chains agree.
MIXED = 1.05


@dataclass(frozen=True)
class Intervals:
    """``estimate ± half_width``; of complex objects a disc of that radius.

    Attributes:
        method: that the deviation is from.
        level: share of samples to be covered.
        half_width: real, of the shape of the estimate and in its unit, on the CPU.
        factor: deviations per half-width.
        card: the calibration, where there is one.
        row: of the level in it.
        why: there is no calibration, in words.
        told: about the method: draws, R-hat.
        covered: share of the true object inside, where that is known.
    """

    method: str
    level: float
    half_width: Tensor
    factor: float
    card: IntervalsCard | None = None
    row: LevelRow | None = None
    why: str = ""
    told: dict[str, float] = field(default_factory=dict)
    covered: float | None = None

    @property
    def statement(self) -> str:
        """What may be said of them, in a sentence."""
        if self.card is None or self.row is None:
            return (
                f"{100 * self.level:.4g} % intervals by {self.method}, not calibrated: "
                f"{self.factor:.3g} deviations, as if errors were normal"
            )
        return (
            f"{100 * self.level:.4g} % intervals, calibrated on {self.card.calibrated_on} objects; "
            f"measured coverage {self.row.covered} on {self.card.measured_on} others"
        )

    @property
    def mixed(self) -> bool:
        """Whether chains agree, or there are none."""
        return self.told.get("rhat", 1.0) < MIXED

    @property
    def cautions(self) -> list[str]:
        """What a reader should know of the calibration; nothing where there is none."""
        if self.card is None or self.row is None:
            return []
        on = {"calibrated_on": self.card.calibrated_on, "measured_on": self.card.measured_on}
        return cautions(self.level, **on)

    def numbers(self) -> dict[str, Any]:
        """All but the map."""
        told: dict[str, Any] = {
            "method": self.method,
            "level": self.level,
            "factor": self.factor,
            "calibrated": self.row is not None,
            "statement": self.statement,
            "cautions": self.cautions,
            "mean_half_width": float(self.half_width.double().mean()),
            **self.told,
        }
        if self.card is not None and self.row is not None:
            told["calibrated_on"] = self.card.calibrated_on
            told["measured_on"] = self.card.measured_on
            told["measured_coverage"] = self.row.coverage
            told["measured_coverage_error"] = self.row.error
        else:
            told["not_calibrated"] = self.why
        if self.covered is not None:
            told["covered_of_truth"] = self.covered
        return told


def normal_factor(level: float, *, is_complex: bool) -> float:
    """Standard deviations within which a normal error lies with probability ``level``.

    Of complex ones, whose deviation is that of both parts together: ``√(−ln(1 − level))``.

    Example:
        >>> round(normal_factor(0.95, is_complex=False), 2)
        1.96
    """
    if is_complex:
        return math.sqrt(-math.log1p(-level))
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))


def make_intervals(
    deviation: Tensor,
    estimate: Tensor,
    ndim: int,
    *,
    method: str,
    level: float,
    card: IntervalsCard | None = None,
    row: LevelRow | None = None,
    why: str = "",
    told: dict[str, float] | None = None,
    truth: Tensor | None = None,
) -> Intervals:
    """Intervals from a deviation: calibrated by ``row``, else as of a normal distribution.

    Args:
        deviation: ``(*batch, *object)``.
        estimate: likewise.
        ndim: number of axes of an object.
        method: see `Intervals`.
        level: likewise.
        card: likewise.
        row: likewise.
        why: likewise.
        told: likewise.
        truth: the true object, where it is known.

    Raises:
        CalibrationError: the deviation is negative, not finite, or 0 everywhere.
    """
    stated = stated_deviation(deviation, ndim)
    if row is None:
        factor = normal_factor(level, is_complex=estimate.is_complex())
        half_width = factor * deviation
    else:
        factor, half_width = row.factor, row.factor * stated
    covered = None
    if truth is not None and truth.shape == estimate.shape:
        covered = float(((estimate - truth).abs() <= half_width).double().mean())
    half_width = half_width.detach().cpu()
    return Intervals(method, level, half_width, factor, card, row, why, told or {}, covered)
