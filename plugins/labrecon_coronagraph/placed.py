"""A constant that is kept for each precision and device that is used."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Placed"]


class Placed:
    """A constant in double precision, handed out in the precision and on the device of a field."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._kept: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, field: Tensor) -> Tensor:
        """The constant to compute with ``field``."""
        key = (field.dtype, field.device)
        if key not in self._kept:
            # A tensor made in inference mode could never be part of a gradient.
            with torch.inference_mode(False), torch.no_grad():
                self._kept[key] = self.value.to(field.device, field.dtype)
        return self._kept[key]
