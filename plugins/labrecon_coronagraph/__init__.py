"""Coronagraphs for labrecon: planets in FITS cubes, star images, dark zones."""

from __future__ import annotations

from labrecon.plugins import hookimpl

LABRECON_CONTRACT = (1, 0)


@hookimpl
def labrecon_instruments() -> dict[str, str]:
    """Differential imaging and optics; nothing heavy is imported before it is used."""
    return {
        "coronagraph": "labrecon_coronagraph.instrument:CoronagraphInstrument",
        "wavefront": "labrecon_coronagraph.wavefront_instrument:WavefrontInstrument",
    }


@hookimpl
def labrecon_operators() -> dict[str, str]:
    """Planets in a turning sky, the star's courses in time, images of a star, drifts."""
    return {
        "adi-sequence": "labrecon_coronagraph.sequence:ADISequence",
        "autoregression": "labrecon_coronagraph.autoregression:Autoregression",
        "speckle-projection": "labrecon_coronagraph.speckles:SpeckleProjection",
        "star-images": "labrecon_coronagraph.star_images:StarImages",
    }


@hookimpl
def labrecon_learners() -> dict[str, str]:
    """Optics that make a zone of the image dark."""
    return {"dark-zone": "labrecon_coronagraph.dark_zone:DarkZone"}


@hookimpl
def labrecon_commands() -> dict[str, str]:
    """Learning optics for a dark zone."""
    return {"dark-zone": "labrecon_coronagraph.dark_zone_command:dark_zone"}


@hookimpl
def labrecon_feasible_sets() -> dict[str, str]:
    """What apodizers and mirrors can be."""
    return {
        "microdots": "labrecon_coronagraph.microdots:Microdots",
        "neighbour_steps": "labrecon_coronagraph.actuators:NeighbourSteps",
    }


@hookimpl
def labrecon_findings() -> dict[str, str]:
    """The best of what stands out around the star."""
    return {"around the star": "labrecon_coronagraph.report_section:findings_around_the_star"}


@hookimpl
def labrecon_report_sections() -> dict[str, str]:
    """What was found around the star, and in its wavefront."""
    return {
        "Around the star": "labrecon_coronagraph.report_section:around_the_star",
        "Aberrations": "labrecon_coronagraph.aberration_section:aberrations_found",
    }
