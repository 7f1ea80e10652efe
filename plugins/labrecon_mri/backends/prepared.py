"""What a library prepares for a set of points, kept for as long as the points are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Prepared"]

T = TypeVar("T")


class Prepared(Generic[T]):
    """The last few preparations by their points, compared by value.

    Args:
        make: from points ``(m, axis)`` and whatever else was asked.
        size: how many are kept.
    """

    def __init__(self, make: Callable[..., T], size: int = 4) -> None:
        self.make = make
        self.size = size
        self.lock = RLock()
        self._held: OrderedDict[object, tuple[Tensor, T]] = OrderedDict()

    def __call__(self, omega: Tensor, *asked: object) -> T:
        """The preparation for these points, made now if it is not there."""
        key = (tuple(omega.shape), omega.device, *asked)
        with self.lock:
            held = self._held.get(key)
            if held is None or not torch.equal(held[0], omega):
                self._held.pop(key, None)
                while len(self._held) >= self.size:
                    self._held.popitem(last=False)
                held = omega.detach().clone(), self.make(omega, *asked)
                self._held[key] = held
            self._held.move_to_end(key)
            return held[1]
