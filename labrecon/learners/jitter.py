"""Jitter: calibration unknowns that differ from what the reconstruction believes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from labrecon.calibration.unknowns import nuisance_named
from labrecon.operator import Operator

__all__ = ["Jitter", "parse_jitter"]

_SIZE = re.compile(r"^\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(\S*)\s*$")
_ENTRY = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*=\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(\S*)\s*$")


class Jitter:
    """Draws of nuisances around the values that an operator has.

    A design that is learned with them works where the instrument is not quite as calibrated: data
    are simulated with the drawn values, and reconstructed with the operator's own.

    Args:
        operator: whose nuisances they are.
        deviations: standard deviation of each number of a nuisance, in its unit: a number, or one
            with the unit, such as ``"0.5 mm"``, which must be that of the nuisance.

    Raises:
        ValueError: the operator has no such nuisance, a deviation is negative, or the unit another.
    """

    def __init__(self, operator: Operator, deviations: Mapping[str, float | str]) -> None:
        found = {}
        for given, size in deviations.items():
            name = nuisance_named(operator, given)
            deviation = found[name] = _in_unit(operator, name, size)
            if not 0 <= deviation < float("inf"):
                raise ValueError(f"jitter of {name}: expected a deviation ≥ 0, got {deviation}")
        self.operator = operator
        self.deviations = {name: d for name, d in found.items() if d > 0}

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Values of all jittered nuisances."""
        known = self.operator.current(*self.deviations)
        return {
            name: self._moved(known[name], deviation, name, generator)
            for name, deviation in self.deviations.items()
        }

    def displaced(
        self, sizes: Mapping[str, float], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Values moved by a given size each, in a random direction."""
        found = {}
        for given, size in sizes.items():
            name = nuisance_named(self.operator, given)
            value = self.operator.current(name)[name]
            n = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            n = n / torch.linalg.vector_norm(n).clamp_min(1e-30)
            found[name] = self._feasible(name, value + (size * n).to(value))
        return found

    def _moved(
        self, value: Tensor, deviation: float, name: str, generator: torch.Generator
    ) -> Tensor:
        n = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return self._feasible(name, value + (deviation * n).to(value))

    def _feasible(self, name: str, value: Tensor) -> Tensor:
        feasible = self.operator.nuisances[name]
        return value if feasible is None else feasible.project(value)

    def simulated(self, objects: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """``A(x)`` of each object, each with a draw of its own."""
        if not self.deviations:
            return self.operator(objects)
        pairs = zip(objects, generators, strict=True)
        return torch.stack([self.operator.at(**self.draw(g))(x) for x, g in pairs])


def _in_unit(operator: Operator, name: str, size: float | str) -> float:
    if not isinstance(size, str):
        return float(size)
    match = _SIZE.match(size)
    feasible = operator.nuisances[name]
    known = "" if feasible is None else feasible.unit
    if match is None or (match[2] and match[2] != known):
        told = f"in {known}" if known else "as a number alone: it states no unit"
        raise ValueError(f"jitter of {name} is given {told}; got {size!r}")
    return float(match[1])


def parse_jitter(entries: Iterable[str]) -> dict[str, float | str]:
    """Deviations from words such as ``led_shift=0.5mm``; the unit stays, for `Jitter` to check.

    Raises:
        ValueError: an entry is not ``NAME=NUMBER``.

    Example:
        >>> parse_jitter(["led_shift=0.5mm", "centre=1e-2"])
        {'led_shift': '0.5mm', 'centre': 0.01}
    """
    found: dict[str, float | str] = {}
    for entry in entries:
        match = _ENTRY.match(entry)
        if match is None:
            raise ValueError(f"jitter is given as NAME=NUMBER, such as led_shift=0.5mm: {entry!r}")
        found[match[1]] = f"{match[2]}{match[3]}" if match[3] else float(match[2])
    return found
