"""Off-axis holograms as the qpretrieve project publishes them: ``.npz`` files."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from labrecon.instrument import ReaderError, Scan
from labrecon_phase.holography import HologramGeometry, find_carrier
from labrecon_phase.readers.border import check_finite, grey, in_words

__all__ = ["HologramNpzReader"]

ZIP = b"PK\x03\x04"
DATA, BACKGROUND = "data", "bg_data"
Values = NDArray[Any]


class HologramNpzReader:
    """``data`` (y, x), a hologram, and ``bg_data`` (y, x), one without object, where it was taken.

    The sideband is found in the latter, or else in the former; of the two sidebands that with a
    negative row is taken. `labrecon_phase.holography_instrument.carrier` takes the other one.
    Nothing in a file is run: arrays of objects are refused.
    """

    def matches(self, path: Path) -> bool:
        """Whether it is a ``.npz`` with an array ``data``, or one too damaged to tell."""
        try:
            if path.suffix.lower() != ".npz" or not path.is_file():
                return False
            with path.open("rb") as file:
                if file.read(len(ZIP)) != ZIP:
                    return False
            with zipfile.ZipFile(path) as archive:
                return f"{DATA}.npy" in archive.namelist()
        except OSError:
            return False
        except Exception:  # damaged archives raise whatever their bytes make them
            return True

    def read(self, path: Path) -> Scan:
        """The hologram in the file, with the empty one as ``calibration["background"]``.

        Raises:
            ReaderError: truncated, not grey images of one size, NaN, or without a sideband.
        """
        arrays = _load(path)
        if DATA not in arrays:
            raise ReaderError(
                f"{path.name} holds {', '.join(arrays) or 'no arrays'}, expected {DATA} and "
                f"{BACKGROUND}: save the hologram under the name {DATA}"
            )
        data = _image(arrays[DATA], DATA)
        empty = _image(arrays[BACKGROUND], BACKGROUND) if BACKGROUND in arrays else None
        if empty is not None and empty.shape != data.shape:
            raise ReaderError(
                f"{BACKGROUND} is {tuple(empty.shape)} pixels, {DATA} {tuple(data.shape)}: both "
                "must come from the same camera region"
            )
        where = DATA if empty is None else BACKGROUND
        geometry = _geometry(data if empty is None else empty, where)
        row, column = geometry.carrier
        rows, columns = geometry.shape
        assumed = {
            "side": "the sideband with a negative row; where thicker comes out as a smaller phase, "
            "take the other one by the step carrier with side = -1",
        }
        if empty is None:
            assumed["reference"] = (
                f"an even plane wave: there is no {BACKGROUND}, so that the phase of the optics "
                "stays in the object's"
            )
        return Scan(
            data,
            geometry,
            calibration={} if empty is None else {"background": empty},
            found={
                "hologram": f"{rows} × {columns} pixels, {arrays[DATA].dtype}",
                "background": "none" if empty is None else "a hologram without object",
                "carrier": f"({row:g}, {column:g}) samples of the spectrum, found in {where}: "
                f"fringes of {1 / math.hypot(row / rows, column / columns):.3g} pixels",
                "band": f"radius {geometry.band:.4g} samples",
            },
            assumed=assumed,
            ignored={name: "not needed" for name in arrays if name not in (DATA, BACKGROUND)},
            provenance={
                "source": str(path),
                "format": "off-axis hologram (npz)",
                "reader": "labrecon_phase.readers.hologram_npz:HologramNpzReader",
            },
        )


def _load(path: Path) -> dict[str, Values]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy raise whatever damaged bytes lead to
        if "Object arrays" in str(error):
            why = "holds Python objects, which could run code and are not read: store plain arrays"
        else:
            why = f"({path.stat().st_size} bytes) is truncated or damaged ({error}); copy it again"
        raise ReaderError(f"{path.name} {why}") from error


def _image(values: Values, name: str) -> Tensor:
    image = torch.from_numpy(grey(values, name))
    check_finite(image, name)
    return image


def _geometry(hologram: Tensor, name: str) -> HologramGeometry:
    try:
        return HologramGeometry.model_validate(
            {"shape": tuple(hologram.shape), "carrier": find_carrier(hologram)}
        )
    except ValidationError as error:
        raise ReaderError(f"impossible geometry: {in_words(error)}") from error
    except ValueError as error:
        raise ReaderError(f"{name}: {error}") from error
