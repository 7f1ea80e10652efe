"""Unknowns: the nuisances that are estimated, as one vector of numbers within bounds."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from labrecon.design import Box
from labrecon.operator import Operator

__all__ = ["MOST", "Bounds", "Unknowns", "nuisance_named"]

#: Numbers that are estimated at most: each costs a solve for the object per step.
MOST = 64
Bounds = Mapping[str, Sequence[float]]


class Unknowns:
    """Nuisances of an operator as a vector ``p`` in double precision, with names and units.

    Args:
        operator: whose nuisances they are; it is left as it is.
        names: of nuisances, or the last parts of dotted ones.
        bounds: lowest and highest value of each number of a nuisance, in its unit; those of its
            feasible set hold besides.

    Attributes:
        names: full names of the nuisances.
        labels: of each number: ``centre``, ``led_shift x`` (`Adjustable.labels_of`).
        units: of each number; empty where the nuisance states none.
        start: values that the operator has.
        low: lowest value of each number.
        high: highest value of each number.

    Raises:
        ValueError: an unknown or repeated name, more than `MOST` numbers, a start that is not
            finite, or bounds that are empty or leave out the start.
    """

    def __init__(
        self, operator: Operator, names: Sequence[str], bounds: Bounds | None = None
    ) -> None:
        self.names = tuple(nuisance_named(operator, name) for name in names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"expected one or more different nuisances, got {list(names)}")
        self.operator = operator
        values = operator.current(*self.names)
        self._shapes = [value.shape for value in values.values()]
        count = sum(value.numel() for value in values.values())
        if count > MOST:
            told = ", ".join(f"{name} {tuple(v.shape)}" for name, v in values.items())
            raise ValueError(
                f"{told} hold {count} numbers; at most {MOST} are estimated beside the object, "
                "each of which costs a solve per step"
            )
        labels: list[str] = []
        units: list[str] = []
        for name, value in values.items():
            feasible = operator.nuisances[name]
            units += [feasible.unit if feasible is not None else ""] * value.numel()
            labels += operator.labels_of(name)
        self.labels, self.units = tuple(labels), tuple(units)
        self.start = torch.cat([v.detach().double().cpu().flatten() for v in values.values()])
        if not bool(torch.isfinite(self.start).all()):
            raise ValueError(f"{', '.join(self.names)} start at {self.start.tolist()}: not finite")
        self.low, self.high = self._limits(dict(bounds or {}))
        self._require_inside(self.start)

    def __len__(self) -> int:
        return len(self.labels)

    def values(self, p: Tensor) -> dict[str, Tensor]:
        """``p`` as the operator's tensors, by name."""
        parts = p.split([math.prod(shape) for shape in self._shapes])
        known = [self.operator.get_parameter(name) for name in self.names]
        return {
            name: part.reshape(shape).to(like)
            for name, part, shape, like in zip(self.names, parts, self._shapes, known, strict=True)
        }

    def placed(self, p: Tensor) -> Operator:
        """A copy of the operator with these values."""
        made = copy.deepcopy(self.operator)
        made.place(self.values(p))
        return made

    def feasible(self, p: Tensor) -> Tensor:
        """The nearest values within the bounds and the feasible sets."""
        inside = torch.minimum(torch.maximum(p, self.low), self.high)
        parts = []
        for name, value in self.values(inside).items():
            allowed = self.operator.nuisances[name]
            parts.append(value if allowed is None else allowed.project(value))
        return torch.cat([part.detach().double().cpu().flatten() for part in parts])

    def at_bound(self, p: Tensor) -> list[bool]:
        """Which numbers lie on a bound."""
        width = 1e-9 * (1 + p.abs())
        return ((p <= self.low + width) | (p >= self.high - width)).tolist()

    def _limits(self, bounds: dict[str, Sequence[float]]) -> tuple[Tensor, Tensor]:
        named = {nuisance_named(self.operator, name): pair for name, pair in bounds.items()}
        idle = [name for name in named if name not in self.names]
        if idle:
            raise ValueError(
                f"bounds of {', '.join(idle)}, which is not estimated; estimated are "
                f"{', '.join(self.names)}"
            )
        lows, highs = [], []
        for name, shape in zip(self.names, self._shapes, strict=True):
            low = torch.full(shape, -math.inf, dtype=torch.float64)
            high = torch.full(shape, math.inf, dtype=torch.float64)
            allowed = self.operator.nuisances[name]
            if isinstance(allowed, Box):
                low = low if allowed.low is None else allowed.low.double().cpu().expand(shape)
                high = high if allowed.high is None else allowed.high.double().cpu().expand(shape)
            if name in named:
                least, most = _pair(name, named[name])
                low, high = low.clamp_min(least), high.clamp_max(most)
            lows.append(low.flatten())
            highs.append(high.flatten())
        return torch.cat(lows), torch.cat(highs)

    def _require_inside(self, p: Tensor) -> None:
        rows = zip(self.labels, p, self.low, self.high, self.units, strict=True)
        for label, value, low, high, unit in rows:
            if not low <= value <= high:
                raise ValueError(
                    f"{label} starts at {float(value):g} {unit}".rstrip()
                    + f", outside of its bounds {float(low):g} to {float(high):g}: widen them, or "
                    "correct the geometry"
                )


def _pair(name: str, given: Sequence[float]) -> tuple[float, float]:
    if len(given) != 2 or not all(map(math.isfinite, given)) or not given[0] < given[1]:
        raise ValueError(f"bounds of {name} are two finite numbers, low < high; got {list(given)}")
    return float(given[0]), float(given[1])


def nuisance_named(operator: Operator, name: str) -> str:
    """The nuisance of a name, or of the last part of a dotted one.

    Raises:
        ValueError: there is none, or there are several.
    """
    known = operator.nuisances
    if name in known:
        return name
    last = {full: full.rpartition(".")[2] for full in known}
    found = [full for full, short in last.items() if short == name]
    if len(found) != 1:
        close = difflib.get_close_matches(name, [*known, *last.values()], n=1, cutoff=0.5)
        meant = f" (did you mean {close[0]!r}?)" if close and not found else ""
        raise ValueError(
            f"{operator.name} has {'several nuisances' if found else 'no nuisance'} {name!r}; it "
            f"has {', '.join(known) or 'none'}{meant}"
        )
    return found[0]
