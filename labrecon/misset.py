"""An instrument that is not as its geometry says: what calibration is rehearsed on."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from labrecon.calibration.unknowns import nuisance_named
from labrecon.errors import RecipeError
from labrecon.instrument import Instrument, Scan
from labrecon.operator import Operator

__all__ = ["misset", "parse_nuisances"]


def misset(instrument: Instrument, values: Mapping[str, Sequence[float]]) -> Instrument:
    """The instrument with other values of nuisances than its geometries state.

    Its operators have them, so that what it simulates is off.

    Args:
        instrument: to be mis-set; it is left as it is.
        values: all numbers of a nuisance in its unit, by name or the last part of a dotted one.

    The operator raises a `RecipeError` where it has no such nuisance, or another number of them;
    `Instrument.simulate`, where it does without the operator, and would not be off.
    """
    asked: list[Any] = []

    def operator(geometry: Any, *args: Any, **options: Any) -> Operator:
        asked.append(geometry)
        made = instrument.operator(geometry, *args, **options)
        made.place(_placed(made, values))
        return made

    def simulate(geometry: Any, generator: torch.Generator) -> Scan:
        asked.clear()
        scan = type(instrument).simulate(other, geometry, generator)
        if not asked:
            raise RecipeError(
                f"--nuisance {', '.join(values)}: {instrument.name!r} simulates without "
                "Instrument.operator, which alone can be mis-set"
            )
        return scan

    other = copy.copy(instrument)
    other.operator = operator  # type: ignore[method-assign]
    other.simulate = simulate  # type: ignore[method-assign]
    return other


def _placed(operator: Operator, values: Mapping[str, Sequence[float]]) -> dict[str, torch.Tensor]:
    found = {}
    for name, numbers in values.items():
        try:
            full = nuisance_named(operator, name)
        except ValueError as error:
            raise RecipeError(f"--nuisance {name}: {error}") from error
        like = operator.get_parameter(full)
        if len(numbers) != like.numel():
            raise RecipeError(
                f"--nuisance {name}: {len(numbers)} numbers, expected {like.numel()}: "
                f"{', '.join(operator.labels_of(full))}"
            )
        found[full] = torch.tensor(numbers, dtype=like.dtype).reshape(like.shape)
    return found


def parse_nuisances(entries: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """Values from words such as ``delay=-0.5,0.3``.

    Raises:
        RecipeError: an entry is not ``NAME=NUMBER[,NUMBER…]``, or a name is given twice.

    Example:
        >>> parse_nuisances(["delay=-0.5,0.3", "centre=2"])
        {'delay': (-0.5, 0.3), 'centre': (2.0,)}
    """
    found: dict[str, tuple[float, ...]] = {}
    for entry in entries:
        name, _, text = entry.partition("=")
        try:
            numbers = tuple(float(number) for number in text.split(","))
        except ValueError:
            numbers = (math.nan,)
        if not name or not all(map(math.isfinite, numbers)):
            raise RecipeError(
                f"--nuisance {entry}: expected NAME=NUMBER[,NUMBER…], as in delay=-0.5,0.3"
            )
        if name in found:
            raise RecipeError(f"--nuisance {entry}: {name} is given twice")
        found[name] = numbers
    return found
