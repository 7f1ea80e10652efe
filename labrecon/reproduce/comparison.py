"""How far two volumes are apart, and where most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Comparison", "compare", "compare_parts", "unlike"]

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
    why = unlike((x.dtype, y.dtype), (x.shape, y.shape))
    if why:
        return Comparison(False, why)
    return compare_parts(zip(_flat(x), _flat(y), strict=True), x.shape)


def unlike(dtypes: Sequence[torch.dtype], shapes: Sequence[Sequence[int]]) -> str:
    """Why two volumes can not be compared number by number; "" where they can."""
    if dtypes[0] != dtypes[1]:
        return f"the dtype was {_name(dtypes[0])}, and is {_name(dtypes[1])} now"
    if tuple(shapes[0]) != tuple(shapes[1]):
        return f"the shape was {_sizes(shapes[0])}, and is {_sizes(shapes[1])} now"
    return ""


def compare_parts(parts: Iterable[tuple[Tensor, Tensor]], shape: Sequence[int]) -> Comparison:
    """`compare` of volumes that come in parts, such as slabs of one larger than memory.

    Args:
        parts: of both volumes, in C order and of one dtype.
        shape: of the volume.
    """
    identical, bad = True, [0, 0]
    largest, size, where, passed = -1.0, 0.0, 0, 0
    pair: tuple[Any, Any] = (0, 0)
    squares = [0.0, 0.0]
    for x, y in parts:
        for old, new in zip(_flat(x), _flat(y), strict=True):
            identical = identical and torch.equal(_bytes(old), _bytes(new))
            bad = [n + int((~v.isfinite()).sum()) for n, v in zip(bad, (old, new), strict=True)]
            wide = torch.complex128 if old.is_complex() else torch.float64
            before = old.to(wide)
            difference = (new.to(wide) - before).abs()
            if float(difference.max()) > largest:
                at = int(difference.argmax())
                largest, where = float(difference.max()), passed + at
                pair = old[at].item(), new[at].item()
            size = max(size, float(before.abs().max()))
            squares[0] += float(difference.square().sum())
            squares[1] += float(before.abs().square().sum())
            passed += len(old)
    if identical:
        return Comparison(True)
    if any(bad):
        return Comparison(False, f"{bad[0]} samples were not finite, {bad[1]} are now")
    return Comparison(
        False,
        largest=_ratio(largest, size),
        rms=_ratio(math.sqrt(squares[0]), math.sqrt(squares[1])),
        where=tuple(int(i) for i in torch.unravel_index(torch.tensor(where), tuple(shape))),
        then=f"{pair[0]:.8g}",
        now=f"{pair[1]:.8g}",
    )


def _flat(x: Tensor) -> tuple[Tensor, ...]:
    """The values in a row, some at a time: double precision of all may not fit."""
    return x.reshape(-1).split(_PART)


def _ratio(difference: float, size: float) -> float:
    if difference == 0.0:  # zeros of two signs
        return 0.0
    return difference / size if size > 0.0 else math.inf


def _bytes(x: Tensor) -> Tensor:
    whole = x.contiguous()
    return whole.view(torch.uint8) if whole.ndim else whole[None].view(torch.uint8)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sizes(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "that of one number"
