"""Learned optics as FITS: apodizer, phase plate, Lyot stop, mirror commands."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from torch import Tensor

from labrecon.io.atomic import write_file
from labrecon_coronagraph.optics_geometry import OpticsGeometry

__all__ = ["OpticsExporter", "export_optics"]

_UNITS = {"apodizer": "amplitude", "phase": "rad", "lyot_stop": "amplitude", "commands": "nm"}


class OpticsExporter:
    """``NAME.fits``: an image extension for each design, named as the design.

    Header: ``BUNIT`` (rad at ``WAVELEN``; commands in nm, one per actuator over the pupil, row by
    row), ``DIAMETER`` in m, ``WAVELEN`` in µm. Of the optics that it was learned for: ``PUPIL`` and
    ``OBSCUR``, ``FPMASK`` with ``MASKRAD`` in mas or ``CHARGE``, and ``LYOTOUT``, the diameter of
    the Lyot stop in those of the pupil.
    """

    def __call__(
        self, geometry: BaseModel, designs: Mapping[str, Tensor], path: str | Path
    ) -> None:
        """Write the designs.

        Raises:
            ValueError: a design that these optics do not have.
            OutputError: the file can not be written.
        """
        from astropy.io import fits

        assert isinstance(geometry, OpticsGeometry)
        unknown = [name for name in designs if name not in _UNITS]
        if unknown:
            raise ValueError(f"the optics have {', '.join(_UNITS)}, not {', '.join(unknown)}")
        made = [fits.PrimaryHDU()]
        for name, value in designs.items():
            image = fits.ImageHDU(value.detach().cpu().numpy(), name=name)
            image.header["BUNIT"] = _UNITS[name]
            image.header["DIAMETER"] = (geometry.diameter, "of the telescope in m")
            image.header["WAVELEN"] = (geometry.wavelength, "in micrometres")
            image.header.update(_stated(geometry))
            made.append(image)
        buffer = io.BytesIO()
        fits.HDUList(made).writeto(buffer)
        path = Path(path)
        target = path if path.suffix == ".fits" else path.with_name(path.name + ".fits")
        write_file(target, buffer.getvalue(), force=True)

    def read(self, path: str | Path) -> dict[str, Tensor]:
        """The designs that were written."""
        import torch
        from astropy.io import fits

        with fits.open(path) as file:
            return {
                image.name.lower(): torch.from_numpy(
                    np.array(image.data, dtype=image.data.dtype.newbyteorder("="))
                )
                for image in file[1:]
            }


def _stated(g: OpticsGeometry) -> dict[str, tuple[str | float, str]]:
    """Keywords of the header, with comments."""
    pupil = g.pupil if isinstance(g.pupil, str) else "array"
    told: dict[str, tuple[str | float, str]] = {"PUPIL": (pupil, "of the telescope")}
    if g.pupil == "circular":
        told["OBSCUR"] = (g.obscuration, "in diameters")
    told["FPMASK"] = (g.mask, "in the focal plane")
    if g.mask == "disc":
        told["MASKRAD"] = (g.mask_radius, "of the mask in mas")
    if g.mask == "vortex":
        told["CHARGE"] = (g.charge, "of the vortex")
    if isinstance(g.lyot_stop, float):
        told["LYOTOUT"] = (g.lyot_stop, "Lyot stop, in pupil diameters")
    else:
        told["LYOTSTOP"] = ("array", "transmission of its own")
    return told


export_optics = OpticsExporter()
