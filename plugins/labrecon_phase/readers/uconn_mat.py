"""Fourier ptychography as the Smart Imaging Lab of UConn publishes it: ``.mat`` files."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labrecon.instrument import ReaderError, Scan
from labrecon_phase.instrument import PhaseInstrument
from labrecon_phase.led_arrays import spiral
from labrecon_phase.readers.border import check_finite, checked_geometry
from labrecon_phase.readers.glass_slide import apparent_heights

__all__ = ["UConnMatReader"]

HEAD = b"MATLAB 5.0 MAT-file"
STACK = "imlow_HDR"
NAMES = (STACK, "wlength", "z", "xint", "yint", "theta", "aberration")
#: What the files do not say, from the description that is published with them; lengths in mm.
PITCH, HEIGHT, GLASS, GLASS_INDEX = 4.0, 90.88, 1.0, 1.52
#: Pixel of the camera in µm: 1.845 µm at the sample.
CAMERA_PIXEL, MAGNIFICATION, NA = 3.69, 2.0, 0.1
Values = NDArray[Any]


class UConnMatReader:
    """``imlow_HDR`` (y, x, LED), roots of intensities under single LEDs lit in a spiral.

    With it come ``wlength`` and ``z`` in m, the offset ``xint``, ``yint`` of the array in mm,
    its rotation ``theta`` in degrees, and ``aberration``. The microscope is the published one: 2×,
    NA 0.1, 1.845 µm pixels, LEDs every 4 mm, 90.88 mm below a glass slide of 1 mm. LEDs are put at
    the height at which they seem to be through the slide
    (`labrecon_phase.readers.glass_slide.apparent_heights`).
    """

    def matches(self, path: Path) -> bool:
        """Whether it is a MATLAB 5 file with ``imlow_HDR``, or one too damaged to tell."""
        try:
            if path.suffix.lower() != ".mat" or not path.is_file():
                return False
            with path.open("rb") as file:
                if file.read(len(HEAD)) != HEAD:
                    return False
        except OSError:
            return False
        import scipy.io

        try:
            return STACK in [name for name, _, _ in scipy.io.whosmat(path)]
        except Exception:  # damaged files raise whatever their bytes make them
            return True

    def read(self, path: Path) -> Scan:
        """The scan in the file.

        Raises:
            ReaderError: truncated, not a spiral of LEDs, or with a measured pupil.
        """
        arrays = _load(path)
        numbers = {
            name: _number(arrays, name) for name in ("wlength", "z", "xint", "yint", "theta")
        }
        _check_units(numbers["wlength"], numbers["z"])
        _refuse_pupil(arrays["aberration"])
        data = torch.from_numpy(_amplitudes(arrays[STACK])).square()
        means = data.mean((-2, -1), dtype=torch.float64)
        first, brightest = float(means[0]), float(means.max())
        if not first > 0.5 * brightest:
            raise ReaderError(
                f"the first image (mean {first:.4g}) is much darker than image "
                f"{int(means.argmax())} (mean {brightest:.4g}), expected the LED in the middle "
                f"first and a spiral outwards: is {STACK} in the order of acquisition?"
            )
        data /= first
        turn = math.radians(numbers["theta"])
        c, s = math.cos(turn), math.sin(turn)
        # In these files the offset turns with the array.
        shift = (
            c * numbers["xint"] - s * numbers["yint"],
            s * numbers["xint"] + c * numbers["yint"],
        )
        count = math.isqrt(len(data))
        leds = spiral(count, PITCH, HEIGHT)
        place = torch.tensor([numbers["xint"], numbers["yint"]], dtype=torch.float64)
        radii = torch.linalg.vector_norm(leds[:, :2] + place, dim=1)
        leds[:, 2] = apparent_heights(radii, HEIGHT, GLASS, GLASS_INDEX)
        geometry = checked_geometry(
            shape=tuple(data.shape[1:]),
            wavelength=_scaled(numbers["wlength"]),
            na=NA,
            magnification=MAGNIFICATION,
            camera_pixel=CAMERA_PIXEL,
            defocus=_scaled(numbers["z"]),
            leds=leds,
            led_shift=shift,
            led_rotation=numbers["theta"],
            patterns=torch.eye(len(data), dtype=torch.float64),
            edge=1.0,
            pixel_fill=0.0,
            sample="field",
            # Their programs take the window of the object's spectrum at +ν of an LED at (x, y):
            # at (centre − k/dk) with k = −NA cos. Ours is at −ν, so that coordinates are of the
            # far side. Beside it, exp(+i z k_z) of their defocus is that of our pupil.
            flip_illumination=True,
        )
        return Scan(
            data,
            geometry,
            PhaseInstrument().noise(geometry),
            found={
                "images": f"{len(data)} of {data.shape[1]} × {data.shape[2]} pixels",
                "wavelength": f"{geometry.wavelength:g} µm",
                "defocus": f"{geometry.defocus:g} µm",
                "LED offset": f"{numbers['xint']:g}, {numbers['yint']:g} mm (x, y)",
                "LED rotation": f"{numbers['theta']:g}°",
                "unit of intensity": f"the mean of the first image, {first:.6g} in the file",
            },
            assumed={
                "quantity": f"{STACK} holds amplitudes, roots of intensities: squared",
                "microscope": f"NA {NA:g}, pixels of {CAMERA_PIXEL / MAGNIFICATION:g} µm at the "
                "sample (published with the data)",
                "LEDs": f"{count} × {count} in a spiral, every {PITCH:g} mm, {HEIGHT:g} mm below "
                f"a slide of {GLASS:g} mm glass with n = {GLASS_INDEX:g} (published with the data)",
                "side of the array": "the far one (flip_illumination), as in the programs "
                "published with the data",
            },
            provenance={
                "source": str(path),
                "format": "UConn Fourier ptychography",
                "reader": "labrecon_phase.readers.uconn_mat:UConnMatReader",
            },
        )


def _load(path: Path) -> dict[str, Values]:
    import scipy.io
    from scipy.io.matlab import MatReadError

    try:
        arrays = scipy.io.loadmat(path, variable_names=list(NAMES))
    except (
        MatReadError,
        ValueError,
        TypeError,
        OSError,
        EOFError,
        LookupError,
        NotImplementedError,
        zlib.error,
    ) as error:
        raise ReaderError(
            f"{path.name} ({path.stat().st_size} bytes) is truncated or damaged ({error}); copy it "
            "again"
        ) from error
    missing = [name for name in NAMES if name not in arrays]
    if missing:
        raise ReaderError(
            f"{path.name} has no {', '.join(missing)}, expected {', '.join(NAMES)}: a file cut off "
            "after a variable looks like that, too; copy it again"
        )
    return {name: arrays[name] for name in NAMES}


def _number(arrays: Mapping[str, Values], name: str) -> float:
    values = arrays[name]
    if values.size != 1 or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise ReaderError(f"{name} is {values.dtype} {values.shape}, expected one finite number")
    return float(values.flat[0])


def _check_units(wavelength: float, defocus: float) -> None:
    if not 1e-7 < wavelength < 2e-6:
        raise ReaderError(
            f"wlength is {wavelength:g}, expected a wavelength in m such as 5.32e-07: convert it"
        )
    if not abs(defocus) < 1e-3:
        raise ReaderError(f"z is {defocus:g}, expected a defocus in m, such as 1e-05: convert it")


def _refuse_pupil(values: Values) -> None:
    if values.dtype.kind not in "fiuc" or values.size != 1 or values.flat[0] != 0:
        raise ReaderError(
            f"aberration is {values.dtype} {values.shape}, expected the number 0: a measured image "
            "of the pupil is not read yet. Set it to 0 in the file and give the geometry's "
            "aberration as Zernike coefficients, or learn them with the recipe fpm-calibrated"
        )


def _amplitudes(values: Values) -> NDArray[np.float32]:
    """(LED, y, x), checked."""
    if values.ndim != 3 or values.dtype.kind != "f":
        raise ReaderError(
            f"{STACK} is {values.dtype} {values.shape}, expected real amplitudes (y, x, LED)"
        )
    count = values.shape[2]
    if math.isqrt(count) ** 2 != count:
        raise ReaderError(
            f"{STACK} holds {count} images, expected those of a square array of LEDs (225 for 15 × "
            "15): which LED lit which image can not be told"
        )
    images = np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)
    check_finite(torch.from_numpy(images), STACK)
    if bool((images < 0).any()):
        raise ReaderError(
            f"{int((images < 0).sum())} values of {STACK} are negative (lowest "
            f"{float(images.min()):.4g}), expected amplitudes"
        )
    return images


def _scaled(metres: float) -> float:
    """In µm, without the digits that binary numbers add."""
    return float(f"{1e6 * metres:.12g}")
