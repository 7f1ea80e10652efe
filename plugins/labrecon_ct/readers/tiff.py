"""TIFF stacks with a text file of angles: what laboratory scanners and scripts write."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from labrecon.instrument import ReaderError, Scan
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.parts import OWN_FIELDS, halo, part, rows_within
from labrecon_ct.readers.border import angles_in_rad, check_views
from labrecon_ct.readers.frames import count_scan, read_frames
from labrecon_ct.readers.tiff_pages import ENDINGS, TiffPages, images_in, open_stack

__all__ = ["TiffReader", "TiffSettings"]


class TiffSettings(BaseModel):
    """``scan.toml`` beside the images: what a TIFF can not say, lengths in mm."""

    model_config = ConfigDict(extra="forbid")

    quantity: Literal["counts", "line integrals"] = "counts"
    pixel_size: float | None = Field(None, gt=0, description="distance of columns and rows in mm")
    source_origin: float | None = Field(None, gt=0, description="source to axis in mm (a cone)")
    origin_detector: float | None = Field(None, ge=0, description="axis to detector in mm")
    energy_kev: float | None = Field(None, gt=0, description="photon energy")
    distance_mm: float | None = Field(None, ge=0, description="sample to detector, for Paganin")


class TiffReader:
    """A folder or a multipage file.

    A folder holds the projections as images (sorted by the numbers in their names) or in a
    folder ``projections``, the angles in ``angles.txt``, and optionally folders ``flats`` and
    ``darks`` and ``scan.toml`` (`TiffSettings`). Beside a multipage ``name.tif`` lie
    ``name_angles.txt`` (or ``angles.txt``), ``name_flats.tif``, ``name_darks.tif`` and
    ``name.toml``. Angles are numbers separated by blanks, commas or lines, in degrees unless a
    line ``# unit: rad`` says otherwise.
    """

    own_fields = OWN_FIELDS

    def matches(self, path: Path) -> bool:
        """Whether the path is a TIFF file, or a folder with TIFF projections."""
        try:
            if path.is_dir():
                return bool(images_in(path) or images_in(path / "projections"))
            return path.suffix.lower() in ENDINGS and path.is_file()
        except OSError:
            return False

    def read(self, path: Path) -> Scan:
        """The scan in the folder or file.

        Raises:
            ReaderError: no angles, as many angles as there are not frames, or damaged images.
        """
        return _Stack.open(path).scan()

    def parts(self, path: Path) -> int | None:
        """The number of slices of the default grid, as many as detector rows; None for one.

        Raises:
            ReaderError: see `read`.
        """
        rows = _Stack.open(path).pages.shape[1]
        return rows if rows > 1 else None

    def halo(self, path: Path, start: int, stop: int) -> tuple[int, int] | None:
        """Slices before and after which rays of a cone cross, too; None for parallel rays.

        Raises:
            ReaderError: see `read`.
        """
        geometry = _Stack.open(path).whole()
        return None if geometry.slicewise else halo(geometry, start, stop)

    def read_part(self, path: Path, start: int, stop: int) -> Scan:
        """The slices ``start`` to ``stop − 1``, and of each image the rows that see nothing else.

        Raises:
            ReaderError: see `read`; or there are no such rows.
        """
        return _Stack.open(path).scan((start, stop))


@dataclass(frozen=True)
class _Stack:
    """What lies on the disk, but for the images themselves."""

    path: Path
    settings: TiffSettings
    pages: TiffPages
    angles: NDArray[np.float64]
    fields: Mapping[str, Any]
    assumed: Mapping[str, str]
    files: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path) -> Self:
        folder = path.is_dir()
        beside = path if folder else path.parent
        stem = "" if folder else f"{path.stem}_"
        told = beside / ("scan.toml" if folder else f"{path.stem}.toml")
        settings = _settings(told)
        assumed = {"rotation centre": "the detector's middle"}
        inside = path / "projections"
        pages = open_stack(inside if folder and inside.is_dir() else path)
        if len(pages.shape) != 3:
            raise ReaderError(f"{pages.name} has images {pages.shape[1:]}, expected (row, column)")
        names = [beside / f"{stem}angles.txt", beside / "angles.txt"]
        file = next((name for name in names if name.is_file()), None)
        if file is None:
            raise ReaderError(
                f"there is no {names[0].name} beside the images, expected one angle in degrees "
                f"per projection ({pages.shape[0]} of them)"
            )
        values, unit = _angles(file)
        check_views(values, pages.shape[0], file.name)
        angles = angles_in_rad(values, unit, assumed)
        fields: dict[str, Any] = {"column_pitch": settings.pixel_size or 1.0}
        if settings.pixel_size is None:
            assumed["pixel size"] = "1 px = 1 mm (not recorded): lengths are in pixels"
        if settings.source_origin is not None:
            fields |= {
                "beam": "cone",
                "source_origin": settings.source_origin,
                "origin_detector": settings.origin_detector,
            }
        else:
            assumed["beam"] = "parallel (no source_origin in the settings file)"
        # Of a folder, everything in it belongs to the scan.
        files = (path,) if folder else (path, file, *([told] if told.is_file() else []))
        return cls(path, settings, pages, angles, fields, assumed, files)

    def whole(self) -> CTGeometry:
        """The geometry of all rows."""
        _, rows, columns = self.pages.shape
        try:
            return CTGeometry(
                angles=tuple(self.angles.tolist()), columns=columns, rows=rows, **self.fields
            )
        except ValueError as error:
            raise ReaderError(f"impossible geometry: {error}") from error

    def scan(self, slices: tuple[int, int] | None = None) -> Scan:
        """All of it, or some slices with the rows within them."""
        rows, fields = None, dict(self.fields)
        if slices is not None:
            whole = self.whole()
            rows = rows_within(whole, *slices)
            piece = part(whole, *slices)
            grid = ("voxel_size", "slice_thickness")
            fields |= {name: getattr(piece, name) for name in (*OWN_FIELDS[1:], *grid)}
        counts = self.settings.quantity == "counts"
        projections = read_frames(self.pages, None, self.pages.name, counts=counts, rows=rows)
        extra: dict[str, Tensor | None] = {"flats": None, "darks": None}
        files = list(self.files)
        for kind in extra:
            place = self._beside(kind)
            if counts and place.exists():
                extra[kind] = read_frames(open_stack(place), None, place.name, rows=rows)
                files += [] if self.path.is_dir() else [place]
        given = self.settings.model_dump(exclude_none=True, exclude={"quantity"})
        physics = {key: given[key] for key in ("energy_kev", "distance_mm") if key in given}
        return count_scan(
            projections,
            extra["flats"],
            extra["darks"],
            self.angles,
            fields,
            path=self.path,
            form="TIFF stack",
            found={key.replace("_", " "): f"{value:g}" for key, value in given.items()},
            assumed=self.assumed,
            ignored={},
            counts=counts,
            solid=rows is not None,
            files=[str(file) for file in files],
            **physics,
        )

    def _beside(self, kind: str) -> Path:
        if self.path.is_dir():
            return self.path / kind
        return self.path.with_name(f"{self.path.stem}_{kind}.tif")


def _angles(file: Path) -> tuple[NDArray[np.float64], str | None]:
    """Numbers of a text file, and the unit it names."""
    text = file.read_text(encoding="utf-8", errors="replace")
    unit = re.search(r"#\s*unit\s*:\s*(\S+)", text)
    words = re.sub(r"#.*", "", text).replace(",", " ").split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise ReaderError(f"{file.name} holds something that is not a number: {error}") from error
    return values, unit.group(1) if unit else None


def _settings(file: Path) -> TiffSettings:
    if not file.is_file():
        return TiffSettings.model_validate({})
    try:
        return TiffSettings.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise ReaderError(f"{file.name}: {error}") from error
