"""Where the ticks of an axis lie and what is written at them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scale", "linear_scale", "log_scale"]

#: Empty space at both ends, as a share of the range.
_MARGIN = 0.05
#: Below, floats lose their digits.
_SMALLEST = 1e-300
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low: value at its start.
        high: value at its end.
        ticks: value and label of each tick with a label.
        minor: values of ticks without.
        note: what all labels are multiplied by or added to: ``"×10⁻⁶"``, ``"+1000"``.
        log: logarithmic.
    """

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    minor: Sequence[float] = ()
    note: str = ""
    log: bool = False

    def share(self, values: Array | float) -> Array:
        """Where values lie between the start, 0, and the end, 1."""
        shown = np.asarray(values, dtype=np.float64)
        low, high = self.low, self.high
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                shown = np.log10(shown)
            low, high = math.log10(low), math.log10(high)
        share: Array = (shown - low) / (high - low)
        return share


def linear_scale(
    low: float, high: float, count: int, *, whole: bool = False, base: float | None = None
) -> Scale:
    """A linear axis over the values from ``low`` to ``high``.

    Args:
        low: the smallest value.
        high: the largest.
        count: of ticks, at most.
        whole: ticks at integers only.
        base: there is no empty space below this value, as at the foot of bars.
    """
    if high - low < _SMALLEST:
        room = abs(low) * _MARGIN or 0.5
        low, high = low - room, high + room
    room = _MARGIN * (high - low)
    start = low if base == low else low - room
    ticks = _ticks(start, high + room, count, whole)
    labels, note = _labels(ticks)
    return Scale(start, high + room, list(zip(ticks, labels, strict=True)), note=note)


def log_scale(low: float, high: float, count: int) -> Scale:
    """A logarithmic axis over the positive values from ``low`` to ``high``."""
    first, last = math.log10(low), math.log10(high)
    room = _MARGIN * (last - first) or 0.02
    # Within what floats hold, as the ends are numbers again.
    start, end = 10 ** max(first - room, -307.0), 10 ** min(last + room, 307.0)
    powers = range(math.floor(math.log10(start)), math.ceil(math.log10(end)) + 1)
    for digits in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [d * 10.0**p for p in powers for d in digits if start <= d * 10.0**p <= end]
        if len(ticks) >= 3:
            if digits == (1,):
                stride = math.ceil(len(ticks) / count)
                ticks = [t for t in ticks if round(math.log10(t)) % stride == 0]
            minor = [d * 10.0**p for p in powers for d in range(2, 10)] if len(powers) < 9 else []
            minor = [v for v in minor if start <= v <= end and v not in ticks]
            labelled = list(zip(ticks, _powers(ticks), strict=True))
            return Scale(start, end, labelled, minor, log=True)
    ticks = _ticks(start, end, count, whole=False)
    labels, note = _labels(ticks)
    return Scale(start, end, list(zip(ticks, labels, strict=True)), note=note, log=True)


def _ticks(low: float, high: float, count: int, whole: bool) -> list[float]:
    """Multiples of a step of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (high - low) / count
    power = math.floor(math.log10(rough))
    steps = (m * 10.0**p for p in (power, power + 1) for m in (1, 2, 2.5, 5))
    if whole:
        steps = (step for step in (*steps, 1.0) if step >= 1 and step == round(step))
    step = min(step for step in steps if step >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # By division where the step is a fraction: 3 * 0.1 is not 0.3.
    per = round(1 / step) if step < 1 else 0
    exact = per > 0 and abs(per * step - 1) < 1e-9
    return [i / per if exact else i * step for i in range(first, last + 1)]


def _labels(ticks: Sequence[float]) -> tuple[list[str], str]:
    """With as many decimals as the step needs, and what is taken out of all of them."""
    largest = max((abs(t) for t in ticks), default=0.0)
    if len(ticks) < 2 or largest == 0:
        return [f"{t:.6g}" for t in ticks], ""
    step, start = ticks[1] - ticks[0], 0.0
    note = ""
    if step < 1e-4 * largest:
        power = math.floor(math.log10(ticks[-1] - ticks[0])) + 1
        start = math.floor(ticks[0] / 10.0**power) * 10.0**power
        largest = max(abs(t - start) for t in ticks)
        note = f"{start:+.15g}".replace("-", "−")
    exponent = math.floor(math.log10(largest))
    if -5 < exponent < 6:
        exponent = 0
    else:
        note = f"×10{str(exponent).translate(_SUPERSCRIPT)} {note}".rstrip()
    shown = [(t - start) / 10.0**exponent for t in ticks]
    step /= 10.0**exponent
    # The digits of 2, 25, 0.5, 0.25.
    decimals = next((n for n in range(9) if _is_whole(step * 10**n)), 9)
    return [f"{t:.{decimals}f}".replace("-", "−") for t in shown], note


def _is_whole(value: float) -> bool:
    return round(value) > 0 and abs(value - round(value)) < 1e-5 * value


def _powers(ticks: Sequence[float]) -> list[str]:
    found = [(math.floor(math.log10(t) + 1e-9), t) for t in ticks]
    digits = [round(t / 10.0**p) for p, t in found]
    if any(d != 1 for d in digits) and ticks[0] >= 1e-3 and ticks[-1] < 1e5:
        return [f"{t:g}" for t in ticks]
    return [
        f"{'' if d == 1 else f'{d}×'}10{str(p).translate(_SUPERSCRIPT)}"
        for d, (p, _) in zip(digits, found, strict=True)
    ]
