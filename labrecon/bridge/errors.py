"""What can go wrong at the border to external code."""

from __future__ import annotations

__all__ = ["BridgeError"]


class BridgeError(RuntimeError):
    """External code failed, or returned what was not declared."""
