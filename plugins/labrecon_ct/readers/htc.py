"""MATLAB files of the Helsinki Tomography Challenge 2022: measured fan-beam sinograms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from labrecon.instrument import ReaderError, Scan
from labrecon_ct.readers.border import check_samples, check_views, real_dtype
from labrecon_ct.readers.frames import count_scan

__all__ = ["HTCReader"]

NAMES = ("CtDataFull", "CtDataLimited")
HEADS = (b"MATLAB 5.0", b"MATLAB 7.3")


class HTCReader:
    """``CtDataFull`` or ``CtDataLimited`` with a sinogram of line integrals and its parameters.

    The data are flat-field corrected and centred already (Meaney, Silva de Moura and Siltanen
    2023). A last view that repeats the first (360° = 0°) is dropped, since it would count twice.
    """

    def matches(self, path: Path) -> bool:
        """Whether the file is a MATLAB file that names one of the two structures."""
        try:
            with path.open("rb") as file:
                if not file.read(10).startswith(HEADS):
                    return False
            return path.suffix.lower() == ".mat" and bool(set(_names(path)) & set(NAMES))
        except (OSError, ValueError, NotImplementedError, TypeError):
            return path.suffix.lower() == ".mat"

    def read(self, path: Path) -> Scan:
        """The scan in the file.

        Raises:
            ReaderError: damaged, MATLAB 7.3, or with parameters that do not describe a fan.
        """
        ct = _load(path)
        sinogram = np.asarray(ct.sinogram)
        real_dtype(sinogram.dtype, "sinogram")
        if sinogram.ndim != 2:
            raise ReaderError(f"sinogram has shape {sinogram.shape}, expected (angle, detector)")
        settings = ct.parameters
        degrees = np.asarray(_value(settings, "angles"), dtype=np.float64).ravel()
        check_views(degrees, len(sinogram), "parameters.angles")
        ignored = {}
        if len(degrees) > 1 and abs(degrees[-1] - degrees[0] - 360) < 1e-6:
            degrees, sinogram = degrees[:-1], sinogram[:-1]
            ignored["last view"] = "at 360° it repeats the view at 0°"
        samples = torch.from_numpy(sinogram.astype(np.float32))
        check_samples(samples, "sinogram", counts=False)
        source_origin = _length(settings, "distanceSourceOrigin")
        source_detector = _length(settings, "distanceSourceDetector")
        pitch = _length(settings, "pixelSizePost")
        unit = str(getattr(settings, "distanceUnit", "mm"))
        if unit != "mm":
            raise ReaderError(f"parameters.distanceUnit is {unit!r}, expected 'mm'")
        return count_scan(
            samples[:, None],
            None,
            None,
            np.deg2rad(degrees),
            {
                "beam": "cone",
                "column_pitch": pitch,
                "source_origin": source_origin,
                "origin_detector": source_detector - source_origin,
                # The challenge's own reconstructions are 512 × 512 voxels of the magnified pitch.
                "volume_shape": (512, 512),
            },
            path=path,
            form="HTC2022",
            found={
                "beam": "fan (the central row of a cone)",
                "source to axis": f"{source_origin:g} mm",
                "source to detector": f"{source_detector:g} mm",
                "pixel size": f"{pitch:g} mm",
                "tube voltage": f"{getattr(settings, 'voltage', '?')} kV",
            },
            assumed={"volume": "512 × 512 voxels, as the reconstructions of the challenge"},
            ignored=ignored,
            counts=False,
        )


def _names(path: Path) -> list[str]:
    from scipy.io import whosmat

    return [name for name, *_ in whosmat(str(path))]


def _load(path: Path) -> Any:
    """The structure with the sinogram."""
    from scipy.io import loadmat

    try:
        content = loadmat(str(path), struct_as_record=False, squeeze_me=True)
    except NotImplementedError as error:
        raise ReaderError(
            "the file is MATLAB 7.3, expected version 5 to 7: save it again with save(…, '-v7')"
        ) from error
    except Exception as error:
        # scipy raises many kinds on damaged files, zlib.error among them.
        raise ReaderError(
            f"the file is truncated or damaged ({type(error).__name__}: {error}); copy it again"
        ) from error
    for name in NAMES:
        if hasattr(content.get(name), "sinogram") and hasattr(content[name], "parameters"):
            return content[name]
    known = ", ".join(name for name in content if not name.startswith("__"))
    raise ReaderError(
        f"expected {' or '.join(NAMES)} with sinogram and parameters; the file holds {known}"
    )


def _value(settings: Any, name: str) -> Any:
    if not hasattr(settings, name):
        raise ReaderError(f"parameters.{name} is missing")
    return getattr(settings, name)


def _length(settings: Any, name: str) -> float:
    value = float(_value(settings, name))
    if not (np.isfinite(value) and value > 0):
        raise ReaderError(f"parameters.{name} is {value}, expected a length in mm")
    return value
