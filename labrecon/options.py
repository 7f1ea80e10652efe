"""Checks of the options that constructors take, with messages a recipe's author understands."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["flag", "number", "whole"]


def number(
    what: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    error: type[ValueError] = ValueError,
) -> float:
    """``value`` as a finite float within bounds, else ``error`` naming ``what``.

    Example:
        >>> number("sirt: relaxation", 2.5, above=0, below=2)
        Traceback (most recent call last):
        ...
        ValueError: sirt: relaxation must be a number > 0 and < 2, got 2.5
    """
    bounds = {"≥": at_least, ">": above, "<": below}
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or (at_least is not None and value < at_least)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        told = " and ".join(
            f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None
        )
        raise error(
            f"{what} must be a {'' if told else 'finite '}number {told}".rstrip()
            + f", got {value!r}"
        )
    return float(value)


def whole(what: str, value: Any, *, at_least: int = 1, error: type[ValueError] = ValueError) -> int:
    """``value`` as an int not below ``at_least``, else ``error`` naming ``what``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise error(f"{what} must be a whole number ≥ {at_least}, got {value!r}")
    return value


def flag(what: str, value: Any, *, error: type[ValueError] = ValueError) -> bool:
    """``value`` if it is true or false, else ``error`` naming ``what``."""
    if not isinstance(value, bool):
        raise error(f"{what} must be true or false, got {value!r}")
    return value
