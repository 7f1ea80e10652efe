"""What the header of a cube tells of the optics, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labrecon.instrument import ReaderError
from labrecon_coronagraph.readers.border import checked_pixel_scale
from labrecon_coronagraph.readers.cube_parts import CubeFile
from labrecon_coronagraph.readers.sphere_header import PIXEL_SCALES, WAVELENGTHS, arm

__all__ = ["KEYWORDS", "numbers", "optics", "star_position"]

#: Keyword of the header, field of the geometry, and what it is.
KEYWORDS = {
    "DIAMETER": ("diameter", "of the telescope in m"),
    "EXPOSURE": ("exposure", "of a frame in s"),
    "SMEAR": ("smear", "rotation within an exposure in degrees"),
    "STARFLUX": ("star_flux", "peak of the star without the mask"),
    "SIGMA": ("sigma", "noise of a pixel"),
    "GAIN": ("gain", "electrons per unit of the data"),
    "RDNOISE": ("read_noise", "in electrons"),
}


def optics(
    file: CubeFile, header: Mapping[str, Any], found: dict[str, str], assumed: dict[str, str]
) -> dict[str, float]:
    """Pixel scale in mas, wavelength in µm and, for SPHERE, the diameter of its pupil.

    Raises:
        ReaderError: one is missing, or in another unit.
    """
    sphere = str(header.get("INSTRUME", "")).strip() == "SPHERE" or file.is_data_center
    if "PIXSCALE" in header:
        scale = checked_pixel_scale(_real(header, "PIXSCALE"), "PIXSCALE")
        found["pixel scale"] = f"{scale:g} mas"
    elif sphere:
        scale = PIXEL_SCALES[arm(header)]
        assumed["pixel scale"] = f"{scale:g} mas ({arm(header)})"
    else:
        raise ReaderError("the header has no PIXSCALE, expected mas per pixel")
    table = file.wavelength()
    name = str(header.get("ESO INS COMB IFLT", "")).strip()
    if "WAVELEN" in header:
        wavelength = _real(header, "WAVELEN")
    elif table is not None:
        wavelength = table
    elif name in WAVELENGTHS:
        wavelength = WAVELENGTHS[name]
        assumed["wavelength"] = f"{wavelength:g} µm ({name})"
    else:
        raise ReaderError("the header has no WAVELEN, expected the wavelength in µm")
    if not 0.2 < wavelength < 30:
        raise ReaderError(f"the wavelength is {wavelength:g}, expected µm, such as 1.593")
    optics = {"pixel_scale": scale, "wavelength": wavelength}
    if sphere and "DIAMETER" not in header:
        optics["diameter"] = 8.0
        assumed["diameter"] = "8 m (SPHERE's pupil)"
    return optics


def numbers(header: Mapping[str, Any]) -> dict[str, float]:
    """Fields of the geometry that `KEYWORDS` of the header tell.

    Raises:
        ReaderError: one that is no number, or a diameter that is not in m.
    """
    told = {name: _real(header, key) for key, (name, _) in KEYWORDS.items() if key in header}
    diameter = told.get("diameter", 1.0)
    if not 0.01 <= diameter <= 100:
        guess = f" (is it mm? then {diameter / 1000:g})" if 100 < diameter <= 1e5 else ""
        raise ReaderError(f"DIAMETER is {diameter:g}, expected m, such as 8.2{guess}")
    return told


def _real(header: Mapping[str, Any], key: str) -> float:
    try:
        return float(header[key])
    except (TypeError, ValueError) as error:
        raise ReaderError(f"{key} is {header[key]!r}, expected a number") from error


def star_position(
    header: Mapping[str, Any], shape: Any, found: dict[str, str], assumed: dict[str, str]
) -> tuple[float, float]:
    """(y, x) in pixels from 0: of ``CENTREY`` and ``CENTREX``, or the middle of the frame."""
    if "CENTREY" in header and "CENTREX" in header:
        centre = _real(header, "CENTREY"), _real(header, "CENTREX")
        found["star"] = f"at (y, x) = ({centre[0]:.2f}, {centre[1]:.2f})"
        return centre
    assumed["star"] = "in the middle of the frame, until the step centre finds it"
    return (shape[0] - 1) / 2, (shape[1] - 1) / 2
