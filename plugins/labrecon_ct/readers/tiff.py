"""TIFF stacks with a text file of angles: what laboratory scanners and scripts write."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from labrecon.instrument import ReaderError, Scan
from labrecon_ct.readers.border import angles_in_rad, check_views
from labrecon_ct.readers.frames import count_scan, read_frames

__all__ = ["TiffReader", "TiffSettings"]

ENDINGS = (".tif", ".tiff")


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

    def matches(self, path: Path) -> bool:
        """Whether the path is a TIFF file, or a folder with TIFF projections."""
        try:
            if path.is_dir():
                return bool(_images(path) or _images(path / "projections"))
            return path.suffix.lower() in ENDINGS and path.is_file()
        except OSError:
            return False

    def read(self, path: Path) -> Scan:
        """The scan in the folder or file.

        Raises:
            ReaderError: no angles, as many angles as there are not frames, or damaged images.
        """
        folder = path.is_dir()
        beside = path if folder else path.parent
        stem = "" if folder else f"{path.stem}_"
        settings = _settings(beside / ("scan.toml" if folder else f"{path.stem}.toml"))
        assumed = {"rotation centre": "the detector's middle"}
        inside = path / "projections"
        source = inside if folder and inside.is_dir() else path
        counts = settings.quantity == "counts"
        projections = _stack(source, counts=counts)
        names = [beside / f"{stem}angles.txt", beside / "angles.txt"]
        file = next((name for name in names if name.is_file()), None)
        if file is None:
            raise ReaderError(
                f"there is no {names[0].name} beside the images, expected one angle in degrees "
                f"per projection ({len(projections)} of them)"
            )
        values, unit = _angles(file)
        check_views(values, len(projections), file.name)
        angles = angles_in_rad(values, unit, assumed)
        extra = {}
        for kind in ("flats", "darks"):
            place = beside / (kind if folder else f"{stem}{kind}.tif")
            extra[kind] = _stack(place, counts=True) if place.exists() and counts else None
        geometry: dict[str, Any] = {"column_pitch": settings.pixel_size or 1.0}
        if settings.pixel_size is None:
            assumed["pixel size"] = "1 px = 1 mm (not recorded): lengths are in pixels"
        if settings.source_origin is not None:
            geometry |= {
                "beam": "cone",
                "source_origin": settings.source_origin,
                "origin_detector": settings.origin_detector,
            }
        else:
            assumed["beam"] = "parallel (no source_origin in the settings file)"
        given = settings.model_dump(exclude_none=True, exclude={"quantity"})
        physics = {key: given[key] for key in ("energy_kev", "distance_mm") if key in given}
        return count_scan(
            projections,
            extra["flats"],
            extra["darks"],
            angles,
            geometry,
            path=path,
            form="TIFF stack",
            found={key.replace("_", " "): f"{value:g}" for key, value in given.items()},
            assumed=assumed,
            ignored={},
            counts=counts,
            **physics,
        )


def _images(folder: Path) -> list[Path]:
    """TIFF files in the order of the numbers in their names."""
    if not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS]
    return sorted(files, key=lambda f: [int(n) for n in re.findall(r"\d+", f.stem)] or [0])


class _Pages:
    """Images of a stack, read when they are asked for; one file is open at a time."""

    def __init__(self, files: list[Path]) -> None:
        import tifffile

        with tifffile.TiffFile(files[0]) as tiff:
            first, self.pages = tiff.pages[0].aspage(), len(tiff.pages)
            self.places = [(file, page) for file in files for page in range(self.pages)]
        self.shape = (len(self.places), *first.shape)
        self.dtype = np.dtype(first.dtype)

    def __getitem__(self, index: slice) -> NDArray[Any]:
        import tifffile

        images = []
        for file, places in itertools.groupby(self.places[index], key=lambda place: place[0]):
            with tifffile.TiffFile(file) as tiff:
                if len(tiff.pages) != self.pages:
                    raise ReaderError(
                        f"{file.name} holds {len(tiff.pages)} images, the first file {self.pages}"
                    )
                images += [tiff.pages[page].asarray() for _, page in places]
        if any(image.shape != self.shape[1:] for image in images):
            raise ReaderError(f"the images differ in size, expected {self.shape[1:]} in all")
        return np.stack(images)


def _stack(path: Path, *, counts: bool) -> Tensor:
    import tifffile

    files = _images(path) if path.is_dir() else [path]
    if not files:
        raise ReaderError(f"the folder {path.name} holds no TIFF images")
    try:
        return read_frames(_Pages(files), None, path.name, counts=counts)
    except (tifffile.TiffFileError, IndexError, ValueError, OSError) as error:
        if isinstance(error, ReaderError):
            raise
        raise ReaderError(
            f"{path.name} is truncated or not a TIFF stack ({error}); copy it again"
        ) from error


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
