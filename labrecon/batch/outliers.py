"""Scans that differ from the others of their batch, by robust statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

__all__ = ["flag_outliers"]

#: Finished scans below which there is no saying what is usual.
FEWEST = 8
#: Robust standard deviations beyond which a scan is flagged.
LIMIT = 5.0
#: MAD of a normal distribution, and its mean absolute deviation, in standard deviations.
MAD, MEAN = 1.4826, 1.2533
#: Scatter that a batch is taken to have at least: of factors, and, relative to the median, of
#: values, which rounding moves.
FLOOR, ROUNDING = 0.02, 1e-4
#: The same of times, which other work on the machine doubles: flagged from a factor of 4 on.
TIME_FLOOR = math.log(4) / LIMIT
#: Share of finished scans that converge, from which one that does not is told.
MOST = 0.9

Row = Mapping[str, Any]
Column = Sequence[float | None]


def flag_outliers(rows: Sequence[Row]) -> list[list[str]]:
    """What is unusual about each scan, in words; nothing for most.

    The modified z-score of Iglewicz and Hoaglin 1993, ``|x − median| / (1.4826 MAD)``, beyond 5.
    ``x`` is the logarithm of χ² (of the residual's σ where there is none), of the residual's
    correlation, of the resolution and of the seconds of the solve, and any other number as it is.

    Args:
        rows: of the batch; those that are not done get no flag and count for nothing.

    Returns:
        A list for each row.
    """
    flags: list[list[str]] = [[] for _ in rows]
    done = [i for i, row in enumerate(rows) if row["state"] == "done"]
    if len(done) < FEWEST:
        return flags
    finished = [rows[i] for i in done]
    for told in (*_unusual(finished), _unresolved(finished), _unfinished(finished)):
        for i, text in zip(done, told, strict=True):
            flags[i] += [text] if text else []
    return flags


def _unusual(rows: Sequence[Row]) -> list[list[str]]:
    """Words, or "", for each row, by quantity."""
    names = list(dict.fromkeys(name for row in rows for name in row["numbers"]))
    found = []
    for name in names:
        column = [_number(row["numbers"].get(name)) for row in rows]
        if name == "residual σ":
            # χ² says it better: it knows what each scan's noise should be.
            known = [_number(row["numbers"].get("χ²")) is not None for row in rows]
            column = [None if k else v for k, v in zip(known, column, strict=True)]
        if name in ("χ²", "residual σ") or name.startswith("resolution"):
            found.append(_factors(name, column, FLOOR, both=True))
        elif name.startswith("lag-1"):
            found.append(_factors(name, column, FLOOR, both=False))
        else:
            found.append(_differences(name, column))
    # The first scan of a worker waits for what is loaded once.
    seconds = [
        None if row.get("first") else _number(row["timings"].get("solve", row["seconds"]))
        for row in rows
    ]
    found.append(_factors("seconds of the solve", seconds, TIME_FLOOR, both=False))
    return found


def _factors(name: str, column: Column, floor: float, *, both: bool) -> list[str]:
    """Positive quantities, of which factors matter; upwards only, unless it is to be ``both``."""
    logs = [math.log(value) if value and value > 0 else None for value in column]

    def say(z: float, value: float, middle: float) -> str:
        usual, this = math.exp(middle), math.exp(value)
        if z < 0 and not both:
            return ""
        many = f"{this / usual:.2g} times" if z > 0 else f"1/{usual / this:.2g} of"
        return f"{name} {this:.3g}, {many} the batch's median {usual:.3g}"

    return _scored(logs, lambda _: floor, say)


def _differences(name: str, column: Column) -> list[str]:
    def say(z: float, value: float, middle: float) -> str:
        return f"{name} {value:.4g}, the batch's median is {middle:.4g}"

    return _scored(column, lambda middle: ROUNDING * abs(middle), say)


def _scored(
    column: Column, floor: Callable[[float], float], say: Callable[[float, float, float], str]
) -> list[str]:
    values = [value for value in column if value is not None]
    if len(values) < FEWEST:
        return [""] * len(column)
    middle = median(values)
    away = [abs(value - middle) for value in values]
    scale = max(MAD * median(away), floor(middle))
    if scale == 0 and not all(value == round(value) for value in values):
        # Most are the very same. Of counts, such as planets found, that says nothing.
        scale = MEAN * fmean(away)
    if scale == 0:
        return [""] * len(column)
    scores = [0.0 if value is None else (value - middle) / scale for value in column]
    return [
        say(z, value, middle) if value is not None and abs(z) > LIMIT else ""
        for z, value in zip(scores, column, strict=True)
    ]


def _unresolved(rows: Sequence[Row]) -> list[str]:
    """Scans whose halves agree on nothing, where those of most others do."""
    told = [
        [value for name, value in row["numbers"].items() if name.startswith("resolution")]
        for row in rows
    ]
    asked = [values for values in told if values]
    without = [bool(values) and all(value is None for value in values) for values in told]
    if not asked or sum(without) > (1 - MOST) * len(asked):
        return [""] * len(rows)
    return ["its halves agree on nothing; those of most others do" if w else "" for w in without]


def _unfinished(rows: Sequence[Row]) -> list[str]:
    """Scans that met a limit, where most others converged."""
    limits = {"iterations": "iteration", "time": "time"}
    converged = sum(row["status"] == "converged" for row in rows)
    if converged < MOST * len(rows):
        return [""] * len(rows)
    return [
        f"stopped at its {limits[row['status']]} limit; most others converged"
        if row["status"] in limits
        else ""
        for row in rows
    ]


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
