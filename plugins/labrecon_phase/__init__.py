"""LED-array phase microscopy for labrecon: differential phase contrast, Fourier ptychography."""

from __future__ import annotations

from labrecon.plugins import hookimpl

LABRECON_CONTRACT = (1, 0)


@hookimpl
def labrecon_instruments() -> dict[str, str]:
    """Microscope and hologram; nothing heavy is imported before it is used."""
    return {
        "holography": "labrecon_phase.holography_instrument:HolographyInstrument",
        "phase": "labrecon_phase.instrument:PhaseInstrument",
    }


@hookimpl
def labrecon_operators() -> dict[str, str]:
    """Partially coherent imaging, and its first order for weak objects."""
    return {
        "abbe": "labrecon_phase.abbe:AbbeImaging",
        "off-axis-hologram": "labrecon_phase.holography:OffAxisHologram",
        "weak-object": "labrecon_phase.weak_object:WeakObject",
    }


@hookimpl
def labrecon_feasible_sets() -> dict[str, str]:
    """What an LED array can show."""
    return {"led_patterns": "labrecon_phase.led_patterns:LEDPatterns"}
