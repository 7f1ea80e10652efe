"""Values as plain JSON, for provenance and for --json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

__all__ = ["dumps", "plain"]

_LONGEST = 64


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
    if isinstance(value, np.ndarray):
        if value.size > _LONGEST:
            return f"array {value.shape} {value.dtype}, {value.min():.6g} to {value.max():.6g}"
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
