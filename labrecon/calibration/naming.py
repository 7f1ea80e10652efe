"""Whether an instrument has a nuisance at all, told before there is a scan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labrecon.calibration.unknowns import nuisance_named
from labrecon.instrument import Instrument

__all__ = ["why_unknown"]


def why_unknown(instrument: Instrument, name: str, options: Mapping[str, Any]) -> str | None:
    """Why no kind of acquisition in `Instrument.examples` has a nuisance of this name.

    None where one of them has it, and where an example can not be built: a scan decides then.

    Args:
        instrument: whose operators are looked at.
        name: of the nuisance, or the last part of a dotted one.
        options: of `Instrument.operator`.
    """
    told = None
    for geometry in instrument.examples().values():
        try:
            operator = instrument.operator(geometry, **options)
        except (ValueError, TypeError, RuntimeError):
            return None
        try:
            nuisance_named(operator, name)
        except ValueError as error:
            told = str(error)
        else:
            return None
    return told
