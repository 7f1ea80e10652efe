"""What can go wrong at the border to external code."""

from __future__ import annotations

__all__ = ["BridgeError", "GradientError"]


class BridgeError(RuntimeError):
    """External code failed, or returned what was not declared."""


class GradientError(BridgeError, TypeError):
    """A gradient was asked for that the external model has no way to give."""
