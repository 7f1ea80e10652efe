"""SPHERE headers: times of frames, angles of the sky in them, what the filters are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import ReaderError
from labrecon_coronagraph.parallactic import parallactic_angles

__all__ = [
    "PIXEL_SCALES",
    "WAVELENGTHS",
    "arm",
    "exposure_and_smear",
    "frame_times",
    "is_sphere",
    "sky_angles",
]

#: Paranal, UT3, in degrees.
LATITUDE, LONGITUDE = -24.62743941, -70.40498688
#: From parallactic angle to that of the sky in the frame (Maire et al. 2016), in degrees.
PUPIL_OFFSET, TRUE_NORTH = 135.99, -1.75
ARM_OFFSETS = {"IRDIS": 0.0, "IFS": -100.48}
#: mas per pixel (Maire et al. 2016).
PIXEL_SCALES = {"IRDIS": 12.25, "IFS": 7.46}
#: µm, of the first of two fields in dual-band imaging.
WAVELENGTHS = {
    "DB_Y23": 1.022, "DB_J23": 1.190, "DB_H23": 1.593, "DB_H34": 1.667, "DB_K12": 2.110,
    "BB_Y": 1.043, "BB_J": 1.245, "BB_H": 1.625, "BB_Ks": 2.182,
}  # fmt: skip
#: Day from which on the derotator is synchronised, as Julian date: 2016-07-12.
SYNCHRONISED = 2457581.5
#: Degrees by which computed and recorded parallactic angle may differ.
TOLERANCE = 0.5


def is_sphere(header: Mapping[str, Any]) -> bool:
    """Whether a header is of SPHERE and holds what times of frames need."""
    return str(header.get("INSTRUME", "")).strip() == "SPHERE" and _eso("DET NDIT") in header


def arm(header: Mapping[str, Any]) -> str:
    """IRDIS or IFS.

    Raises:
        ReaderError: another one.
    """
    name = str(header.get(_eso("SEQ ARM"), "IRDIS")).strip().upper()
    if name not in ARM_OFFSETS:
        raise ReaderError(f"SEQ ARM is {name}, expected {' or '.join(ARM_OFFSETS)}")
    return name


def frame_times(header: Mapping[str, Any], frames: int) -> NDArray[np.float64]:
    """Julian dates (UTC) in the middle of each frame.

    ``DATE-OBS + (FRAM UTC − DATE-OBS) / NDIT · i + DITDELAY + DIT / 2``.

    Raises:
        ReaderError: a keyword is missing, NDIT is another number of frames, or the end is before
            the start.
    """
    start = _julian(_text(header, "DATE-OBS"), "DATE-OBS")
    end = _julian(_text(header, _eso("DET FRAM UTC")), "DET FRAM UTC")
    count = int(_number(header, _eso("DET NDIT")))
    if count != frames:
        raise ReaderError(
            f"DET NDIT is {count} for a cube of {frames} frames: times, and so parallactic angles, "
            "can not be told. Give the angles in an extension PARANG"
        )
    exposure = _number(header, _eso("DET SEQ1 DIT"))
    delay = float(header.get(_eso("DET DITDELAY"), 0.0))
    if not end > start:
        raise ReaderError(f"DET FRAM UTC is {86400 * (start - end):.3g} s before DATE-OBS")
    step = (end - start) / frames
    begins: NDArray[np.float64] = start + step * np.arange(frames, dtype=np.float64)
    return begins + (delay + exposure / 2) / 86400


def sky_angles(
    header: Mapping[str, Any], times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, str]]:
    """Angles of the sky in each frame in degrees, and what they were made of.

    ``parallactic angle + 135.99 (pupil) + 0 (IRDIS) or −100.48 (IFS) − 1.75 (true north)``;
    before 2016-07-12 also ``atan tan(altitude − 2 · derotator)``.

    Raises:
        ReaderError: the field was stabilised, a keyword is missing, or the parallactic angles are
            not those that the telescope recorded.
    """
    mode = _text(header, _eso("INS4 DROT2 MODE")).strip()
    if mode != "ELEV":
        raise ReaderError(
            f"INS4 DROT2 MODE is {mode}, expected ELEV, pupil tracking: in another mode the sky "
            "does not turn in the frames"
        )
    ra = 15 * _packed(_number(header, _eso("INS4 DROT2 RA")), "RA", "hhmmss.sss", 24)
    dec = _packed(_number(header, _eso("INS4 DROT2 DEC")), "DEC", "ddmmss.sss", 90)
    angles = parallactic_angles(times, ra, dec, LATITUDE, LONGITUDE)
    recorded = [float(header.get(_eso(f"TEL PARANG {end}"), math.nan)) for end in ("START", "END")]
    _check_recorded(angles, recorded)
    offset = PUPIL_OFFSET + ARM_OFFSETS[arm(header)] + TRUE_NORTH
    told = {
        "parallactic angle": f"{angles[0]:.2f}° to {angles[-1]:.2f}° from times and coordinates; "
        f"the telescope recorded {recorded[0]:.2f}° to {recorded[1]:.2f}°",
        "offset of the angles": f"{offset:.2f}° (pupil, {arm(header)}, true north)",
    }
    if times[0] < SYNCHRONISED:
        turn = math.radians(
            _number(header, _eso("TEL ALT")) - 2 * _number(header, _eso("INS4 DROT2 BEGIN"))
        )
        slip = math.degrees(math.atan(math.tan(turn)))
        offset += slip
        told["derotator"] = f"{slip:.3f}° (before 2016-07-12 it was not synchronised)"
    return angles + offset, told


def exposure_and_smear(
    header: Mapping[str, Any], times: NDArray[np.float64], angles: NDArray[np.float64]
) -> tuple[float, float]:
    """Exposure of a frame in s, and by how many degrees the sky turns in it, as the median."""
    exposure = _number(header, _eso("DET SEQ1 DIT"))
    rate = np.abs(np.diff(angles)) / (86400 * np.diff(times))
    return exposure, float(np.median(rate)) * exposure


def _check_recorded(angles: NDArray[np.float64], recorded: list[float]) -> None:
    for name, at, value in (("START", angles[0], recorded[0]), ("END", angles[-1], recorded[1])):
        if math.isnan(value):
            continue
        away = abs((at - value + 180) % 360 - 180)
        # The records are of shutter and slew, and a frame's middle is not its end.
        allowed = TOLERANCE + 2 * float(np.ptp(angles)) / max(1, len(angles) - 1)
        if away > allowed:
            raise ReaderError(
                f"the parallactic angle is {at:.2f}° by time and coordinates, TEL PARANG {name} "
                f"{value:.2f}°: are INS4 DROT2 RA and DEC (hhmmss.sss, ddmmss.sss), DATE-OBS and "
                "DET FRAM UTC those of this cube?"
            )


def _eso(name: str) -> str:
    return f"ESO {name}"


def _text(header: Mapping[str, Any], key: str) -> str:
    if key not in header:
        raise ReaderError(f"the header has no {key}, which times and angles of frames need")
    return str(header[key])


def _number(header: Mapping[str, Any], key: str) -> float:
    text = _text(header, key)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ReaderError(f"{key} is {text!r}, expected a number")
    return value


def _packed(value: float, name: str, form: str, most: int) -> float:
    """Degrees or hours of ``ddmmss.sss``."""
    whole, rest = divmod(abs(value), 10000)
    minutes, seconds = divmod(rest, 100)
    if minutes >= 60 or seconds >= 60 or whole > most:
        raise ReaderError(f"INS4 DROT2 {name} is {value:.10g}, expected {form}")
    return math.copysign(whole + minutes / 60 + seconds / 3600, value)


def _julian(text: str, key: str) -> float:
    try:
        moment = np.datetime64(text.strip().rstrip("Z"), "us")
    except ValueError as error:
        raise ReaderError(
            f"{key} is {text!r}, expected a time such as 2017-06-27T01:02:03.4"
        ) from error
    # Of 2000-01-01T12:00.
    return 2451545.0 + (moment - np.datetime64("2000-01-01T12:00:00", "us")).astype(float) / 86.4e9
