"""Where the image lies in the patient, from the vectors of MRD acquisitions (LPS, mm)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decimal", "orientation"]

Values = NDArray[Any]
#: Tolerances: of unit vectors, and of positions in mm.
VECTOR, MILLIMETRE = 1e-3, 1e-2


def decimal(value: Any) -> float:
    """A float32 as the decimal number it was written as: 4.2, not 4.199999809265137."""
    return float(str(np.float32(value)))


def orientation(heads: Values, slices: Values, ignored: dict[str, str]) -> dict[str, Any]:
    """``position``, ``directions`` and ``spacing`` of a geometry, as far as the file has them.

    Args:
        heads: acquisition headers with ``position``, ``read_dir``, ``phase_dir``, ``slice_dir``.
        slices: index of the slice of each.
        ignored: is told what makes no sense.

    Returns:
        The position of the middle of the stack of slices; z runs with the slice index.
    """
    vectors = np.stack([heads[name] for name in ("read_dir", "phase_dir", "slice_dir")], 1)
    if not vectors.any():
        return {}
    axes = vectors[0].astype(float)
    if np.abs(vectors - vectors[0]).max() > VECTOR:
        ignored["orientation"] = "the directions change from line to line"
        return {}
    if np.abs(axes @ axes.T - np.eye(3)).max() > VECTOR:
        ignored["orientation"] = "the directions are not unit vectors at right angles"
        return {}
    directions = [[decimal(value) for value in vector] for vector in vectors[0]]
    own = []
    for index in range(int(slices.max()) + 1):
        places = heads["position"][slices == index]
        if np.abs(places - places[0]).max() > MILLIMETRE:
            ignored["position"] = "it changes from line to line of a slice"
            return {"directions": directions}
        own.append([decimal(value) for value in places[0]])
    places = np.array(own)
    if len(places) == 1:
        return {"directions": directions, "position": own[0]}
    step = (places[-1] - places[0]) / (len(places) - 1)
    along = float(step @ axes[2])
    even = places[0] + np.arange(len(places))[:, None] * step
    if np.abs(places - even).max() > MILLIMETRE or abs(abs(along) - np.linalg.norm(step)) > 1e-3:
        ignored["position"] = "the slices are not evenly spaced along their normal"
        return {"directions": directions}
    if along == 0:
        ignored["position"] = "all slices are at the same place"
        return {"directions": directions}
    if along < 0:
        directions[2] = [-value for value in directions[2]]
    return {
        "directions": directions,
        "position": places.mean(0).tolist(),
        "spacing": round(abs(along) / 1000, 9),
    }
