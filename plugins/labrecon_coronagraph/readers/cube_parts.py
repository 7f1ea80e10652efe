"""Where a FITS cube has its angles and its PSF: in the file, or in files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labrecon.instrument import ReaderError
from labrecon_coronagraph.readers.fits_file import Image, hdus, image, native

__all__ = ["ANGLES", "PSFS", "CubeFile", "open_cube"]

#: Names of extensions, of columns, and of ends of files beside the cube.
ANGLES = ("PARANG", "PARALLACTIC", "PARALLACTIC_ANGLE", "ANGLES", "PA")
PSFS = ("PSF", "OFFAXIS", "OFF_AXIS_PSF")
#: SPHERE Data Center: how the name of a cube becomes that of its companion.
DATA_CENTER = "IRD_SCIENCE_REDUCED_MASTER_CUBE-center_im"
ROTATION = "IRD_SCIENCE_PARA_ROTATION_CUBE-rotnth"
DATA_CENTER_PSF = "IRD_SCIENCE_PSF_MASTER_CUBE-median_unsat"
DATA_CENTER_WAVELENGTHS = "IRD_SCIENCE_LAMBDA_INFO-lam"


@dataclass
class CubeFile:
    """A cube with what belongs to it, as it is in the files.

    Attributes:
        path: of the cube.
        units: of the cube's file.
        header: of the unit with the cube.
        cube: as it is there.
        files: all that were opened.
    """

    path: Path
    units: list[Any]
    header: Any
    cube: Image
    files: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files.append(self.path)

    @property
    def is_data_center(self) -> bool:
        """Whether it is a product of the SPHERE Data Center, by its name."""
        return DATA_CENTER in self.path.name

    def angles(self) -> tuple[Image, str, float] | None:
        """The angles, where they are, and the sign to `CoronagraphGeometry.angles`; or None."""
        found = self._extension(ANGLES)
        if found is not None:
            return (*found, 1.0)
        if self.is_data_center:
            companion = self._companion(ROTATION)
            # rotnth turns a frame so that north is up: minus the angle of the sky in it.
            return image(companion), companion.name, -1.0
        for name in ANGLES:
            beside = self._beside(name)
            if beside is not None:
                return (image(beside), beside.name, 1.0)
        return None

    def psf(self) -> tuple[Image, str, bool]:
        """The off-axis PSF, where it is, and whether it is said to be centred.

        Raises:
            ReaderError: there is none.
        """
        for unit in self.units:
            if unit.is_image and unit.name.upper() in PSFS and unit.data is not None:
                centred = bool(unit.header.get("CENTRED", False))
                return native(unit.data), f"extension {unit.name}", centred
        if self.is_data_center:
            companion = self._companion(DATA_CENTER_PSF)
            return self._first_wavelength(image(companion)), companion.name, False
        for name in PSFS:
            found = self._beside(name)
            if found is not None:
                return self._first_wavelength(image(found)), found.name, False
        raise ReaderError(
            f"{self.path.name} has no off-axis PSF, expected an extension {PSFS[0]} or a file "
            f"{self.path.stem}_psf.fits beside it: without one no planet can be modelled"
        )

    def wavelength(self) -> float | None:
        """In µm, of the Data Center's table, the first; or None."""
        if not self.is_data_center:
            return None
        values = np.ravel(image(self._companion(DATA_CENTER_WAVELENGTHS))).astype(float)
        return float(values[0]) if values.size else None

    def _first_wavelength(self, values: Image) -> Image:
        return values[0] if values.ndim >= 3 and self.cube.ndim == 4 else values

    def _extension(self, names: Sequence[str]) -> tuple[Image, str] | None:
        for unit in self.units:
            if unit.data is None:
                continue
            if unit.is_image:
                if unit.name.upper() in names:
                    return native(unit.data), f"extension {unit.name}"
                continue
            for column in unit.columns.names or ():
                if column.upper() in names:
                    return native(unit.data[column]), f"column {column}"
        return None

    def _companion(self, end: str) -> Path:
        beside = self.path.with_name(self.path.name.replace(DATA_CENTER, end))
        if beside.is_file():
            return self._noted(beside)
        # Steps of the Data Center's pipeline put other words before.
        others = sorted(self.path.parent.glob(f"*{end}.fits"))
        if len(others) == 1:
            return self._noted(others[0])
        raise ReaderError(
            f"there is no {beside.name} beside {self.path.name}"
            + (f", and {len(others)} others that end like it" if others else "")
            + ": put it there, it belongs to the product"
        )

    def _beside(self, name: str) -> Path | None:
        stem = self.path.name.removesuffix(".fits").removesuffix("_cube")
        found = self.path.with_name(f"{stem}_{name.lower()}.fits")
        return self._noted(found) if found.is_file() else None

    def _noted(self, file: Path) -> Path:
        if file not in self.files:
            self.files.append(file)
        return file


def open_cube(path: Path) -> CubeFile:
    """The first unit with a cube, of 3 or 4 axes.

    Raises:
        ReaderError: the file is damaged, or holds no cube.
    """
    units = hdus(path)
    for unit in units:
        named = unit.name.upper() in (*ANGLES, *PSFS)
        if unit.is_image and unit.data is not None and unit.data.ndim in (3, 4) and not named:
            return CubeFile(path, units, unit.header, native(unit.data))
    shapes = [unit.data.shape for unit in units if unit.is_image and unit.data is not None]
    raise ReaderError(
        f"{path.name} holds images of shape {shapes}, expected a cube (frame, y, x), or "
        "(wavelength, frame, y, x): the sky does not turn in a single image; put the frames of the "
        "sequence into one array"
    )
