"""Durations as people read them."""

from __future__ import annotations

__all__ = ["in_words"]


def in_words(seconds: float) -> str:
    """A duration to two digits, in the unit in which it is read.

    Example:
        >>> [in_words(t) for t in (0.0421, 9.84, 59.9, 250.0, 9000.0)]
        ['42 ms', '9.8 s', '1 min', '4.2 min', '2.5 h']
    """
    rounded = float(f"{seconds:.2g}")
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if rounded >= size:
            return f"{float(f'{max(seconds / size, 1.0):.2g}'):g} {unit}"
    return f"{1e3 * rounded:g} ms"
