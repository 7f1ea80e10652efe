"""All checks, in the order in which they are run: cheap and telling ones first."""

from __future__ import annotations

from labrecon.testing import build_checks, design_checks, noise_checks
from labrecon.testing import derivative_checks as derivative
from labrecon.testing import instrument_checks as instrument
from labrecon.testing import map_checks as maps
from labrecon.testing import process_checks as process
from labrecon.testing.bench import Check

__all__ = ["SUITE"]

SUITE: tuple[Check, ...] = (
    build_checks.build,
    instrument.description,
    instrument.objects,
    instrument.geometry,
    maps.spaces,
    maps.linearity,
    maps.adjoint,
    derivative.graph,
    derivative.gradient,
    derivative.second_derivative,
    maps.normal,
    maps.norm,
    maps.initial,
    maps.batch,
    maps.precision,
    maps.devices,
    process.repeatability,
    process.purity,
    process.memory,
    process.threads,
    process.serialisation,
    design_checks.feasible_sets,
    noise_checks.noise,
    instrument.simulation,
    instrument.readers,
    instrument.exporters,
    process.cost,
)
