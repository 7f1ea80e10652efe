"""Gradient systems: what their coils and amplifiers can do."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

__all__ = ["GAMMA", "SYSTEMS", "GradientSystem", "find_system"]

#: Gyromagnetic ratio of the proton over 2π in Hz/T.
GAMMA = 42.577478518e6


@dataclass(frozen=True)
class GradientSystem:
    """Limits of a gradient system.

    Attributes:
        title: of the scanner.
        max_gradient: in mT/m.
        max_slew: in T/m/s.
        raster: gradient raster time in s.
    """

    title: str
    max_gradient: float
    max_slew: float
    raster: float = 10e-6


#: As mri-nufft lists them; the Prisma's 80 mT/m need its performance mode.
SYSTEMS = {
    "prisma": GradientSystem("Siemens Prisma 3 T", 40, 200),
    "prisma-80": GradientSystem("Siemens Prisma 3 T, 80 mT/m", 80, 200),
    "terra": GradientSystem("Siemens Terra 7 T", 80, 200),
    "cima-x": GradientSystem("Siemens Cima.X 3 T", 200, 200),
    "terra-x": GradientSystem("Siemens Terra.X Impulse 7 T", 200, 900),
}


def find_system(name: str) -> GradientSystem:
    """The gradient system of a name.

    Raises:
        ValueError: nobody has that name; the nearest is suggested.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    near = difflib.get_close_matches(name.lower(), SYSTEMS, n=1, cutoff=0.3)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"no gradient system is called {name!r}{hint}; there are {', '.join(SYSTEMS)}, and "
        "GradientSlew takes any limits as numbers"
    )
