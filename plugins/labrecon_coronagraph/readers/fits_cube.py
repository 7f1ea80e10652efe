"""FITS cubes with angles and PSF beside them, SPHERE products, and what labrecon simulates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labrecon import Gaussian
from labrecon.instrument import ReaderError, Scan
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.readers.border import (
    checked_angles,
    checked_geometry,
    noise_of_differences,
    read_frames,
)
from labrecon_coronagraph.readers.cube_parts import CubeFile, open_cube
from labrecon_coronagraph.readers.fits_file import axes, is_fits, native
from labrecon_coronagraph.readers.header_fields import (
    KEYWORDS,
    numbers,
    optics,
    star_position,
)
from labrecon_coronagraph.readers.off_axis_psf import centred_psf
from labrecon_coronagraph.readers.sphere_header import (
    exposure_and_smear,
    frame_times,
    is_sphere,
    sky_angles,
)

__all__ = ["FitsCubeReader"]


class FitsCubeReader:
    """A cube (frame, y, x) in a FITS file, with angles and off-axis PSF.

    Angles in degrees are an extension or a column ``PARANG`` (or ``ANGLES``), or a file
    ``NAME_parang.fits`` beside it; the PSF is an extension ``PSF`` or ``NAME_psf.fits``. Products
    of the SPHERE Data Center (``…IRD_SCIENCE_REDUCED_MASTER_CUBE-center_im.fits``) bring both by
    their names. Without angles, those of SPHERE cubes are computed from the header. The header
    tells ``PIXSCALE`` in mas and ``WAVELEN`` in µm, and may tell ``CENTREY``, ``CENTREX`` (pixels
    from 0), ``DIAMETER``, ``EXPOSURE``, ``SMEAR``, ``STARFLUX``, ``SIGMA``, ``GAIN``, ``RDNOISE``
    and ``SATURATE``. `write` writes such a file.
    """

    suffix = ".fits"

    def matches(self, path: str | Path) -> bool:
        """Whether it is a FITS file with images, or one too damaged to tell."""
        path = Path(path)
        if not is_fits(path):
            return False
        try:
            return any(count >= 2 for count in axes(path))
        except Exception:  # damaged files raise whatever their bytes make them
            return True

    def read(self, path: str | Path) -> Scan:
        """The scan in the file and those beside it.

        Raises:
            ReaderError: damaged, without angles or PSF, with counts that do not agree, angles in
                radians, or a pixel scale that is not in mas.
        """
        path = Path(path)
        file = open_cube(path)
        header = {**dict(file.units[0].header), **dict(file.header)}
        ignored = {}
        cube = file.cube
        if cube.ndim == 4:
            if len(cube) > 1:
                ignored["wavelengths"] = f"all but the first of {len(cube)}"
            cube = cube[0]
        if is_sphere(header) and cube.shape[2] == 2 * cube.shape[1]:
            raise ReaderError(
                f"{path.name} holds raw frames of {cube.shape[1]} × {cube.shape[2]} pixels with "
                "both fields of IRDIS: subtract the dark, divide by the flat, and cut out one field"
            )
        saturation = header.get("SATURATE")
        frames = read_frames(cube, path.name, None if saturation is None else float(saturation))
        data, found = frames.data, dict(frames.found)
        assumed: dict[str, str] = {}
        turned, told = _rotation(file, header, len(data))
        found.update(told)
        values, where, is_centred = file.psf()
        psf, how = (values, "as it is") if is_centred else centred_psf(values, where)
        found["off-axis PSF"] = f"{where}: {how}"
        fields: dict[str, Any] = {"shape": tuple(data.shape[1:]), "psf": psf, **turned}
        fields.update(optics(file, header, found, assumed))
        fields.update(numbers(header))
        fields["centre"] = star_position(header, data.shape[1:], found, assumed)
        if "FIELDY" in header:
            fields["field"] = (int(header["FIELDY"]), int(header["FIELDX"]))
        fields["transmission"] = _transmission(file)
        if "sigma" not in fields and "NOSIGMA" not in header:
            fields["sigma"] = noise_of_differences(data, frames.weights)
            assumed["noise"] = f"{fields['sigma'] or 1.0:.4g}, from differences of frames"
        geometry = checked_geometry(fields)
        return Scan(
            data,
            geometry,
            Gaussian(geometry.sigma or 1.0),
            weights=frames.weights,
            truth=_truth(file, geometry),
            found=found,
            assumed=assumed,
            ignored=ignored,
            provenance={
                "source": str(path),
                "format": "FITS cube with angles and PSF",
                "files": [str(each) for each in file.files],
                "reader": "labrecon_coronagraph.readers.fits_cube:FitsCubeReader",
            },
        )

    def write(self, scan: Scan, path: str | Path) -> None:
        """A file that `read` reads: cube, angles in degrees, PSF, transmission, known planets.

        Raises:
            ReaderError: speckles were taken out of the data, which no file format knows of.
        """
        from astropy.io import fits

        geometry = scan.geometry
        assert isinstance(geometry, CoronagraphGeometry)
        if geometry.speckles is not None:
            raise ReaderError("write the frames before the step speckles, not what it leaves")
        cube = fits.PrimaryHDU(scan.data.numpy())
        header = cube.header
        header["PIXSCALE"] = geometry.pixel_scale, "mas"
        header["WAVELEN"] = geometry.wavelength, "um"
        header["CENTREY"] = geometry.centre[0], "of the star, pixels from 0"
        header["CENTREX"] = geometry.centre[1], "of the star, pixels from 0"
        for key, (name, what) in KEYWORDS.items():
            value = getattr(geometry, name)
            if value is not None:
                header[key] = value, what
        if geometry.sigma is None:
            header["NOSIGMA"] = True, "the noise is not known"
        if geometry.field is not None:
            header["FIELDY"], header["FIELDX"] = geometry.field
        units = [
            cube,
            fits.ImageHDU(np.asarray(geometry.angles, dtype=np.float64), name="PARANG"),
            fits.ImageHDU(geometry.psf.values, name="PSF"),
        ]
        units[1].header["BUNIT"] = "deg"
        units[2].header["CENTRED"] = True
        if geometry.transmission:
            table = np.asarray(geometry.transmission, dtype=np.float64)
            columns = [
                fits.Column("SEPARATION", "D", unit="mas", array=table[:, 0]),
                fits.Column("TRANSMISSION", "D", array=table[:, 1]),
            ]
            units.append(fits.BinTableHDU.from_columns(columns, name="TRANSMISSION"))
        if scan.truth is not None:
            units.append(fits.ImageHDU(scan.truth.numpy(), name="TRUTH"))
        fits.HDUList(units).writeto(path, overwrite=True)


def _rotation(
    file: CubeFile, header: Mapping[str, Any], frames: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Angles, and what else of the geometry comes with them."""
    given = file.angles()
    if given is not None:
        values, where, sign = given
        angles = sign * checked_angles(values, frames, where)
        span = np.ptp(np.unwrap(angles, period=360.0))
        told = {"angles": f"{where}: {angles[0]:.2f}° to {angles[-1]:.2f}°, {span:.1f}° in all"}
        return {"angles": tuple(angles.tolist())}, told
    if is_sphere(header):
        times = frame_times(header, frames)
        angles, told = sky_angles(header, times)
        exposure, smear = exposure_and_smear(header, times, angles)
        told["exposure"] = f"{exposure:g} s, in which the sky turns by {smear:.3f}°"
        return {"angles": tuple(angles.tolist()), "exposure": exposure, "smear": smear}, told
    if file.path.name.startswith("naco") and file.path.name.endswith("_cube.fits"):
        beside = file.path.name.replace("_cube.fits", "_pa.fits")
        raise ReaderError(
            f"there is no {beside} beside {file.path.name}: put it there, with the parallactic "
            "angles of NACO in degrees, one per frame; or, for angles of the sky, an extension "
            "PARANG"
        )
    raise ReaderError(
        f"{file.path.name} has no parallactic angles, expected an extension PARANG in degrees, one "
        f"per frame, or a file {file.path.stem}_parang.fits beside it"
    )


def _truth(file: CubeFile, geometry: CoronagraphGeometry) -> torch.Tensor | None:
    """The planets of a simulation (y, x), where the file has them."""
    for unit in file.units:
        if unit.name.upper() == "TRUTH" and unit.is_image and unit.data is not None:
            if unit.data.shape != geometry.field_shape:
                raise ReaderError(
                    f"TRUTH is an array of {unit.data.shape}, expected a map of the sky (y, x) of "
                    f"{geometry.field_shape} pixels"
                )
            return torch.from_numpy(native(unit.data).astype(np.float32))
    return None


def _transmission(file: CubeFile) -> tuple[tuple[float, float], ...]:
    for unit in file.units:
        if unit.name.upper() == "TRANSMISSION" and not unit.is_image:
            try:
                places, values = unit.data["SEPARATION"], unit.data["TRANSMISSION"]
            except KeyError as error:
                raise ReaderError(
                    "the table TRANSMISSION has columns SEPARATION in mas and TRANSMISSION"
                ) from error
            return tuple(zip(places.tolist(), values.tolist(), strict=True))
    return ()
