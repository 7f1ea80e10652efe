"""All checks, in the order in which they are run: cheap and telling ones first."""

from __future__ import annotations

from labrecon.testing import (
    adjoint_checks,
    behaviour_checks,
    build_checks,
    copy_checks,
    cost_checks,
    derivative_checks,
    design_checks,
    file_checks,
    instrument_checks,
    map_checks,
    memory_checks,
    noise_checks,
)
from labrecon.testing.bench import Check

__all__ = ["SUITE"]

SUITE: tuple[Check, ...] = (
    build_checks.build,
    instrument_checks.description,
    instrument_checks.objects,
    instrument_checks.geometry,
    map_checks.spaces,
    map_checks.linearity,
    adjoint_checks.adjoint,
    derivative_checks.graph,
    derivative_checks.gradient,
    derivative_checks.second_derivative,
    adjoint_checks.normal,
    adjoint_checks.norm,
    adjoint_checks.initial,
    map_checks.batch,
    map_checks.precision,
    map_checks.devices,
    behaviour_checks.repeatability,
    behaviour_checks.purity,
    memory_checks.memory,
    behaviour_checks.threads,
    copy_checks.serialisation,
    design_checks.feasible_sets,
    noise_checks.noise,
    instrument_checks.simulation,
    file_checks.readers,
    file_checks.exporters,
    cost_checks.cost,
)
