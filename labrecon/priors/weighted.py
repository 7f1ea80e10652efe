"""What the penalties with a weight have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from labrecon.options import number
from labrecon.prior import Prior, PriorError

__all__ = ["Weighted"]


class Weighted(Prior):
    """A penalty times a weight.

    Args:
        weight: a number, a tensor that broadcasts to the object (kept as a buffer), or an
            `nn.Parameter` to learn; not negative.
    """

    weight: Tensor | float

    def __init__(self, weight: Tensor | float) -> None:
        super().__init__()
        what = f"{type(self).__name__}: weight"
        if isinstance(weight, Tensor):
            if weight.is_complex() or not bool((weight >= 0).all()):
                raise PriorError(f"{what} must not be negative anywhere, nor complex")
            if isinstance(weight, nn.Parameter):
                self.weight = weight
            else:
                self.register_buffer("weight", weight)
        else:
            self.weight = number(what, weight, at_least=0, error=PriorError)

    def _check(self, check: Any, name: str, value: Any, **bounds: Any) -> Any:
        return check(f"{type(self).__name__}: {name}", value, error=PriorError, **bounds)


def grouped(weight: Tensor | float, axis: int) -> Tensor | float:
    """A weight for samples of the object, made to broadcast to groups along a new ``axis``."""
    if isinstance(weight, Tensor) and weight.ndim >= -axis:
        return weight.unsqueeze(axis)
    return weight
