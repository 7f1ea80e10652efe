"""Operators kept for scans of equal geometry: the matrix, the NUFFT plan, the PSF."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch
from pydantic import BaseModel

from labrecon.instrument import Instrument
from labrecon.io.plain import dumps
from labrecon.operator import Operator
from labrecon.posing import make_operator

__all__ = ["OperatorCache"]


class OperatorCache:
    """The operators of the last acquisitions.

    Acquisitions are equal where all fields of their geometries are, to the last bit, but for those
    of the noise (`Instrument.noise_fields`). An operator is dropped *before* the one that takes its
    place is built: two may not fit.

    Args:
        size: how many are kept; 0 builds each anew.

    Attributes:
        built: how many were built.
        reused: how many were not.
    """

    def __init__(self, size: int = 1) -> None:
        if size < 0:
            raise ValueError(f"an operator cache holds 0 operators or more, not {size}")
        self.size = size
        self.built = self.reused = 0
        self._kept: OrderedDict[bytes, Operator] = OrderedDict()

    def get(
        self,
        instrument: Instrument,
        geometry: BaseModel,
        options: Mapping[str, Any],
        device: torch.device,
    ) -> Operator:
        """The forward model of an acquisition.

        Raises:
            ReconstructionError: see `labrecon.posing.make_operator`.
        """
        seen = geometry.model_dump_json(exclude=set(instrument.noise_fields))
        told = "\n".join((instrument.name, seen, dumps(options), str(device)))
        key = sha256(told.encode()).digest()
        if key in self._kept:
            self._kept.move_to_end(key)
            self.reused += 1
            return self._kept[key]
        while self._kept and len(self._kept) >= self.size:
            self._kept.popitem(last=False)
        operator = make_operator(instrument, geometry, options, device)
        self.built += 1
        if self.size:
            self._kept[key] = operator
        return operator
