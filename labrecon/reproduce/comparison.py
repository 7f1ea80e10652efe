"""How far two volumes are apart, and where most."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Comparison", "compare"]

_PART = 2**22


@dataclass(frozen=True)
class Comparison:
    """What there is to say of a volume ``x`` that was, and ``y`` that was made again.

    Attributes:
        identical: all bits are equal.
        why: what can not be compared in numbers: dtype, shape, samples that are not finite.
        largest: ``max|y − x| / max|x|``.
        rms: ``‖y − x‖ / ‖x‖``.
        where: index of the largest difference.
        then: value of x there.
        now: value of y there.
    """

    identical: bool
    why: str = ""
    largest: float = 0.0
    rms: float = 0.0
    where: tuple[int, ...] = ()
    then: str = ""
    now: str = ""

    def within(self, tolerance: float) -> bool:
        """Whether both relative differences are that small."""
        return self.identical or (not self.why and max(self.largest, self.rms) <= tolerance)

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        if self.identical:
            return "bit-identical"
        if self.why:
            return self.why
        return (
            f"largest difference {self.largest:.3g} of the largest value, RMS {self.rms:.3g} of "
            f"the volume's; most at {list(self.where)}: {self.then} then, {self.now} now"
        )


def compare(x: Tensor, y: Tensor) -> Comparison:
    """Compare a volume with the one that was made again.

    Example:
        >>> compare(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 4.5])).largest
        0.125
    """
    if x.dtype != y.dtype:
        return Comparison(False, f"the dtype was {_name(x)}, and is {_name(y)} now")
    if x.shape != y.shape:
        return Comparison(False, f"the shape was {_shape(x)}, and is {_shape(y)} now")
    if torch.equal(_bytes(x), _bytes(y)):
        return Comparison(True)
    was, now = (sum(int((~part.isfinite()).sum()) for part in _parts(v)) for v in (x, y))
    if was or now:
        return Comparison(False, f"{was} samples were not finite, {now} are now")
    return _in_numbers(x, y)


def _in_numbers(x: Tensor, y: Tensor) -> Comparison:
    largest, size, where = -1.0, 0.0, 0
    squares = [0.0, 0.0]
    passed = 0
    wide = torch.complex128 if x.is_complex() else torch.float64
    for old, new in zip(_parts(x), _parts(y), strict=True):
        before = old.to(wide)
        difference = (new.to(wide) - before).abs()
        if float(difference.max()) > largest:
            largest, where = float(difference.max()), passed + int(difference.argmax())
        size = max(size, float(before.abs().max()))
        squares[0] += float(difference.square().sum())
        squares[1] += float(before.abs().square().sum())
        passed += len(old)
    at = tuple(int(i) for i in torch.unravel_index(torch.tensor(where), x.shape))
    return Comparison(
        False,
        largest=_ratio(largest, size),
        rms=_ratio(math.sqrt(squares[0]), math.sqrt(squares[1])),
        where=at,
        then=f"{x[at].item():.8g}",
        now=f"{y[at].item():.8g}",
    )


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """The values in a row, some at a time: double precision of all may not fit."""
    return x.reshape(-1).split(_PART)


def _ratio(difference: float, size: float) -> float:
    if difference == 0.0:  # zeros of two signs
        return 0.0
    return difference / size if size > 0.0 else math.inf


def _bytes(x: Tensor) -> Tensor:
    whole = x.contiguous()
    return whole.view(torch.uint8) if whole.ndim else whole[None].view(torch.uint8)


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _shape(x: Tensor) -> str:
    return " × ".join(map(str, x.shape)) or "that of one number"
