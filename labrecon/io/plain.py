"""Values as plain JSON, and in a line, for provenance, reports and the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from labrecon.arrays import Array

__all__ = ["brief", "dumps", "plain"]

_LONGEST = 64
_LISTED = 8


def plain(value: Any) -> Any:
    """The value made of dicts, lists, strings and finite numbers.

    Long arrays are described rather than listed; NaN and infinity become strings, which JSON has.
    """
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="python"))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().resolve_conj().numpy()
    if isinstance(value, Array):
        value = value.values
    if isinstance(value, np.ndarray):
        if value.size > _LONGEST:
            size = np.abs(value) if np.iscomplexobj(value) else value
            of = "modulus " if np.iscomplexobj(value) else ""
            return f"array {value.shape} {value.dtype}, {of}{size.min():.6g} to {size.max():.6g}"
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return str(value) if isinstance(value, Path) else repr(value)


def dumps(value: Any, indent: int | None = 2) -> str:
    """The plain value as JSON text."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def brief(value: Any) -> str:
    """The value in a line; a long list as its length and range.

    Example:
        >>> brief(list(range(181))), brief([1.0, 2.5])
        ('181 values, 0 to 180', '1, 2.5')
    """
    value = plain(value)
    if isinstance(value, list) and len(value) > _LISTED:
        if all(isinstance(item, int | float) for item in value):
            return f"{len(value)} values, {min(value):.6g} to {max(value):.6g}"
        return f"{len(value)} entries"
    if isinstance(value, list):
        return ", ".join(brief(item) for item in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
