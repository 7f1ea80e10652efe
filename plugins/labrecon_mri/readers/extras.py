"""The geometry as named arrays: what file formats have no place for, kept beside their data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon import Array
from labrecon.instrument import ReaderError
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.readers.border import checked_geometry

__all__ = ["OWN_GROUP", "arranged", "check_same", "from_arrays", "to_arrays"]

#: HDF5 group with what MRD has no place for: the geometry's other fields, and the object.
OWN_GROUP = "labrecon"
#: Fields that are numbers or tuples of them.
PLAIN = (
    "matrix",
    "fov",
    "coils",
    "dwell",
    "sigma",
    "position",
    "directions",
    "spacing",
)


def to_arrays(geometry: MRIGeometry) -> dict[str, NDArray[Any]]:
    """Every field that is set, by name: numbers and arrays in SI units, ``frames`` as JSON text."""
    arrays: dict[str, NDArray[Any]] = {"frames": np.array(json.dumps(geometry.frames))}
    for name in type(geometry).model_fields:
        value = getattr(geometry, name)
        if name != "frames" and value is not None:
            arrays[name] = value.values if isinstance(value, Array) else np.asarray(value)
    return arrays


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> MRIGeometry:
    """The geometry of `to_arrays`.

    Raises:
        ReaderError: a field is missing, unknown or impossible.
    """
    fields: dict[str, Any] = {}
    for name, value in arrays.items():
        if name not in MRIGeometry.model_fields:
            raise ReaderError(f"{name!r} is no field of a geometry; was the file edited?")
        if name == "frames":
            fields[name] = _frames(value)
        elif name in PLAIN:
            fields[name] = value.tolist()
        else:
            fields[name] = value
    return checked_geometry(**fields)


def _frames(value: NDArray[Any]) -> dict[str, int]:
    try:
        frames = json.loads(str(value))
        return {str(name): int(n) for name, n in frames.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ReaderError(f"frames are {value!r}, expected JSON such as {{'slice': 20}}") from error


def check_same(kept: MRIGeometry, told: MRIGeometry, where: str) -> None:
    """Raise `ReaderError` where labrecon's own record and the file's header disagree."""
    reasons = [
        f"{name} {a} and {b}"
        for name, a, b in (
            ("matrix", kept.matrix, told.matrix),
            ("coils", kept.coils, told.coils),
            ("frames", _several(kept), _several(told)),
        )
        if a != b
    ]
    if not reasons and not np.allclose(kept.fov, told.fov, rtol=1e-5):
        reasons.append(f"fov {kept.fov} and {told.fov} m")
    if (kept.trajectory is None) != (told.trajectory is None):
        reasons.append("one has a trajectory, the other has none")
    if reasons:
        raise ReaderError(
            f"labrecon's record in {where} and the rest of the file disagree: {'; '.join(reasons)}"
            f". Was the file edited? Remove {where}, or write the file again"
        )


def _several(geometry: MRIGeometry) -> dict[str, int]:
    return {name: n for name, n in sorted(geometry.frames.items()) if n > 1}


def arranged(
    data: NDArray[Any], frames: Mapping[str, int], wanted: Mapping[str, int]
) -> NDArray[Any]:
    """Data with the frame axes ``frames`` in front in the order of ``wanted``.

    Args:
        data: (*frames, …); axes of size 1 may come or go.
        frames: names and sizes of its axes.
        wanted: names and sizes asked for.

    Raises:
        ReaderError: an axis of several entries is in one of them only.
    """
    several = {name: n for name, n in frames.items() if n > 1}
    order = [name for name, n in wanted.items() if n > 1]
    if several != {name: wanted[name] for name in order}:
        raise ReaderError(f"frames {dict(frames)} can not be arranged as {dict(wanted)}")
    rest = data.shape[len(frames) :]
    kept = data.reshape(*several.values(), *rest)
    places = [list(several).index(name) for name in order]
    moved = kept.transpose(*places, *range(len(places), kept.ndim))
    return np.ascontiguousarray(moved).reshape(*wanted.values(), *rest)
