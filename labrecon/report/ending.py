"""How a solve ended, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ending"]

_WORDS = {"iterations": "iteration limit", "time": "time limit"}


def ending(numbers: Mapping[str, Any]) -> tuple[str, str]:
    """A word for the status, and how much was done; "" where that says nothing.

    A sampler has no end to reach but its number of samples, and a direct method, or a network, none
    but its one step.

    Args:
        numbers: of a reconstruction, as in the summary.

    Example:
        >>> ending({"status": "converged", "iterations": 12})
        ('converged', '12 iterations')
        >>> ending({"status": "iterations", "iterations": 20, "samples": 40})
        ('done', '40 samples')
    """
    status = numbers["status"]
    if numbers.get("one_step"):
        return "fixed point not reached" if status == "iterations" else "done", ""
    samples = numbers.get("samples")
    if samples is not None:
        done = "done" if status == "iterations" else _WORDS.get(status, status)
        return done, _count(samples, "sample")
    return _WORDS.get(status, status), _count(numbers["iterations"], "iteration")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
