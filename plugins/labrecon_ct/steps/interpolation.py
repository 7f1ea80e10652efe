"""Bad samples replaced by what their neighbours say."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["filled"]


def filled(data: Tensor, bad: Tensor) -> Tensor:
    """Bad samples replaced by linear interpolation along the columns of their view.

    A view without any good sample keeps its values. ``data`` and ``bad``: ``(…, column)``.
    """
    if not bool(bad.any()):
        return data
    columns = data.shape[-1]
    place = torch.arange(columns)
    left = torch.where(bad, -1, place).cummax(-1).values
    right = torch.where(bad, columns, place).flip(-1).cummin(-1).values.flip(-1)
    low, high = left.clamp_min(0), right.clamp_max(columns - 1)
    low, high = torch.where(left < 0, high, low), torch.where(right >= columns, low, high)
    span = (high - low).clamp_min(1)
    share = ((place - low).to(data.dtype) / span).clamp(0, 1)
    value = data.gather(-1, low) * (1 - share) + data.gather(-1, high) * share
    hopeless = bad.all(-1, keepdim=True)
    return torch.where(bad & ~hopeless, value, data)
