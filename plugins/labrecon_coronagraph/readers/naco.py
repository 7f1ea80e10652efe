"""NACO sequences as VIP_extras holds them: a cube, and angles and PSF in files beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from labrecon import Gaussian
from labrecon.instrument import ReaderError, Scan
from labrecon_coronagraph.readers.border import (
    checked_angles,
    checked_geometry,
    noise_of_differences,
    read_frames,
)
from labrecon_coronagraph.readers.fits_file import image, is_fits
from labrecon_coronagraph.readers.off_axis_psf import centred_psf

__all__ = ["NacoReader"]

END = "_cube.fits"
#: Of the derotator in pupil tracking, and of true north (Absil et al. 2013), in degrees.
DEROTATOR, TRUE_NORTH = -104.84, -0.45
PIXEL_SCALE, WAVELENGTH, DIAMETER = 27.19, 3.8, 8.2


class NacoReader:
    """``NAME_cube.fits`` (frame, y, x) with ``NAME_pa.fits`` and ``NAME_psf.fits`` beside it.

    The files hold no header: L′ images of 27.19 mas per pixel at an 8.2 m telescope are assumed,
    and parallactic angles in degrees to which −104.84° (derotator) and −0.45° (true north) are
    added. The star is taken to be in the middle of the frame until the step ``centre`` finds it.
    """

    def matches(self, path: str | Path) -> bool:
        """Whether it is such a cube, with its angles beside it."""
        path = Path(path)
        try:
            return (
                path.name.startswith("naco")
                and path.name.endswith(END)
                and is_fits(path)
                and is_fits(_beside(path, "pa"))
            )
        except OSError:
            return False

    def read(self, path: str | Path) -> Scan:
        """The scan in the files.

        Raises:
            ReaderError: a file is missing or damaged, the counts do not agree, or angles look like
                radians.
        """
        path = Path(path)
        if not path.name.endswith(END):
            raise ReaderError(f"{path.name}: expected a name that ends with {END}")
        frames = read_frames(image(path), path.name)
        data = frames.data
        parallactic = checked_angles(
            image(_beside(path, "pa")), len(data), _beside(path, "pa").name
        )
        psf, told = centred_psf(image(_beside(path, "psf")), _beside(path, "psf").name)
        sigma = noise_of_differences(data, frames.weights)
        shape = tuple(data.shape[1:])
        geometry = checked_geometry(
            {
                "shape": shape,
                "pixel_scale": PIXEL_SCALE,
                "wavelength": WAVELENGTH,
                "diameter": DIAMETER,
                "angles": tuple((parallactic + DEROTATOR + TRUE_NORTH).tolist()),
                "centre": tuple((n - 1) / 2 for n in shape),
                "psf": psf,
                "sigma": sigma,
            }
        )
        span = np.ptp(np.unwrap(parallactic, period=360.0))
        return Scan(
            data,
            geometry,
            Gaussian(sigma or 1.0),
            weights=frames.weights,
            found={
                **frames.found,
                "parallactic angle": f"{parallactic[0]:.2f}° to {parallactic[-1]:.2f}°, "
                f"{span:.1f}° of field rotation",
                "off-axis PSF": told,
            },
            assumed={
                "optics": f"{WAVELENGTH} µm, {DIAMETER} m, {PIXEL_SCALE} mas per pixel (NACO L′)",
                "offset of the angles": f"{DEROTATOR}° (derotator) {TRUE_NORTH}° (true north)",
                "star": "in the middle of the frame, until the step centre finds it",
                "noise": f"{sigma or 1.0:.4g}, from differences of frames",
            },
            provenance={
                "source": str(path),
                "format": "NACO cube with angles and PSF (FITS)",
                "files": [str(file) for file in (path, _beside(path, "pa"), _beside(path, "psf"))],
                "reader": "labrecon_coronagraph.readers.naco:NacoReader",
            },
        )


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name.removesuffix(END)}_{what}.fits")
