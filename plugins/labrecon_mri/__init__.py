"""Magnetic resonance imaging for labrecon: NUFFT, coil arrays, real k-space."""

from __future__ import annotations

from labrecon.plugins import hookimpl

LABRECON_CONTRACT = (1, 0)
LABRECON_REQUIRES = {"finufft": "labrecon[mri]"}


@hookimpl
def labrecon_instruments() -> dict[str, str]:
    """The MR scanner; nothing heavy is imported before it is used."""
    return {"mri": "labrecon_mri.instrument:MRIInstrument"}


@hookimpl
def labrecon_operators() -> dict[str, str]:
    """Non-uniform Fourier transform and coil arrays."""
    return {
        "nufft": "labrecon_mri.nufft:NUFFT",
        "sense": "labrecon_mri.sense:Sense",
        "time-segmented": "labrecon_mri.off_resonance:TimeSegmented",
    }


@hookimpl
def labrecon_feasible_sets() -> dict[str, str]:
    """What gradient coils can do."""
    return {"gradient_slew": "labrecon_mri.gradient_slew:GradientSlew"}


@hookimpl
def labrecon_writers() -> dict[str, str]:
    """Image formats of the field."""
    return {
        "nifti": "labrecon_mri.writers.nifti:write_nifti",
        "bart": "labrecon_mri.writers.bart:write_bart",
    }
