"""What must be said of a calibration that had few objects."""

from __future__ import annotations

import math

from labrecon.uncertainty.heldout import objects_in_all

__all__ = ["cautions", "covered_of_calibration", "enough_objects"]

#: Part of what may lie outside that few objects may take away from it without a word.
_TAKEN = 1 / 4
#: With fewer objects the standard error of a coverage is known to a quarter at best.
_MEASURED = 10
_ROUNDING = 1e-9


def covered_of_calibration(count: int, level: float) -> float:
    """``level (1 + 1/n)``: the share of their own samples that a factor from ``n`` objects covers.

    So much is the price of the promise to a further object, see
    `labrecon.uncertainty.conformal.conformal_factor`.

    Example:
        >>> round(covered_of_calibration(10, 0.9), 3)
        0.99
    """
    return level * (1 + 1 / count)


def enough_objects(level: float) -> int:
    """How many objects to calibrate on are not few: they take a quarter of ``1 − level`` at most.

    Example:
        >>> enough_objects(0.9), enough_objects(0.95)
        (36, 76)
    """
    return max(1, math.ceil(level / (_TAKEN * (1 - level)) - _ROUNDING))


def cautions(level: float, *, calibrated_on: int, measured_on: int) -> list[str]:
    """What a reader of factor and coverage should know; nothing where there were objects enough.

    Args:
        level: share of samples to be covered.
        calibrated_on: number of objects that the factor is from.
        measured_on: number of objects that coverage was measured on.
    """
    told, enough = [], enough_objects(level)
    if calibrated_on < enough:
        share, better = (
            f"{100 * covered_of_calibration(n, level):.3g} %" for n in (calibrated_on, enough)
        )
        told.append(
            f"{calibrated_on} objects to calibrate on are few: to promise {100 * level:.4g} % of a "
            f"further one, the intervals cover {share} of theirs and are the wider for it; with "
            f"{enough} (of {objects_in_all(enough)} in all) that would be {better}"
        )
    if measured_on == 1:
        told.append("coverage was measured on a single object, and has no ±")
    elif measured_on < _MEASURED:
        known = 100 / math.sqrt(2 * (measured_on - 1))
        told.append(
            f"the ± is from {measured_on} objects, and itself known to {known:.0f} % at best"
        )
    return told
