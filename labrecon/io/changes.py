"""Two tables of settings compared, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["changes"]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is not the same, a line each; a dash for what only one of them sets.

    Args:
        old: nested plain values.
        new: likewise.

    Example:
        >>> changes({"solver": {"name": "cg", "rho": 0.1}}, {"solver": {"name": "cg", "rho": 0.2}})
        ['solver.rho: 0.1 → 0.2']
    """
    before, after = _flat(old), _flat(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {_told(before.get(key))} → {_told(after.get(key))}" for key in keys]


def _told(value: Any) -> str:
    return "–" if value is None else str(value)


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    """``{"solver.iterations": 50}`` of nested values."""
    pairs: Any = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        pairs = enumerate(value)
    else:
        return {at: value}
    flat: dict[str, Any] = {}
    for key, item in pairs:
        flat |= _flat(item, f"{at}.{key}" if at else str(key))
    return flat
