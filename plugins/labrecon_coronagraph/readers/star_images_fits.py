"""Images of a star in FITS, with the optics in a JSON file beside them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from labrecon.instrument import ReaderError, Scan
from labrecon.io.atomic import write_file
from labrecon_coronagraph.optics_geometry import OpticsGeometry
from labrecon_coronagraph.readers.fits_file import hdus, is_fits
from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument

__all__ = ["StarImagesReader"]


class StarImagesReader:
    """``NAME.fits`` (frame, image, y, x), or (image, y, x) of one frame, with ``NAME.json``.

    The JSON file is the geometry (`OpticsGeometry`), the images are in units of the star's peak
    without mask and apodizer: counts less the dark, over the exposure and over that peak.
    """

    suffix = ".fits"

    def matches(self, path: str | Path) -> bool:
        """A FITS file; `read` tells where the JSON file is missing."""
        return is_fits(Path(path))

    def read(self, path: str | Path) -> Scan:
        """The images.

        Raises:
            ReaderError: damaged files, a geometry that is none, other sizes, NaN.
        """
        path = Path(path)
        beside = path.with_suffix(".json")
        if not beside.is_file():
            raise ReaderError(
                f"there is no {beside.name} beside {path.name}, expected the geometry of the "
                "optics as JSON: `labrecon describe wavefront` lists its fields, and `labrecon "
                "simulate wavefront try.fits` writes an example"
            )
        try:
            geometry = OpticsGeometry.model_validate_json(beside.read_bytes())
        except (OSError, ValidationError) as error:
            raise ReaderError(f"{beside.name} is no geometry of the optics: {error}") from error
        values = np.asarray(hdus(path)[0].data)
        expected = (geometry.frames, len(geometry.diversity), geometry.pixels, geometry.pixels)
        if values.ndim == 3 and geometry.frames == 1:
            values = values[None]
        if values.shape != expected or values.dtype.kind not in "fiu":
            raise ReaderError(
                f"{path.name} holds {values.dtype} of {values.shape}, expected real (frame, image, "
                f"y, x) = {expected} by {beside.name}"
            )
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise ReaderError(f"{path.name}: {bad} of {values.size} samples are NaN or infinite")
        if float(values.max()) > 1.5:
            raise ReaderError(
                f"{path.name} reaches {float(values.max()):.4g}: images are in units of the star's "
                "peak without mask, so divide counts by that peak"
            )
        return Scan(
            torch.from_numpy(values.astype(np.float64)),
            geometry,
            WavefrontInstrument().noise(geometry),
            found={"images": " × ".join(map(str, expected)) + f", {values.dtype}"},
            provenance={
                "source": str(path),
                "format": "images of a star with the optics as JSON",
                "reader": "labrecon_coronagraph.readers.star_images_fits:StarImagesReader",
                "files": [str(path), str(beside)],
            },
        )

    def write(self, scan: Scan, path: str | Path) -> None:
        """Images and geometry, as `read` reads them."""
        path = Path(path)
        from astropy.io import fits

        assert isinstance(scan.geometry, OpticsGeometry)
        buffer = io.BytesIO()
        fits.PrimaryHDU(scan.data.numpy()).writeto(buffer)
        write_file(path.with_suffix(".json"), scan.geometry.model_dump_json(indent=1), force=True)
        write_file(path, buffer.getvalue(), force=True)
