"""Volumes as BART arrays, for comparison with its reconstructions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from labrecon_mri.readers.bart import FRAME_DIMS
from labrecon_mri.readers.cfl import DIMS, write_cfl

__all__ = ["write_bart"]

#: Dimensions of BART that hold the axes of a volume; sets of sensitivities are its maps.
PLACES = {"x": 0, "y": 1, "z": 2, "set": 4, **FRAME_DIMS}


def write_bart(path: Path, volume: Tensor, info: Mapping[str, Any]) -> Path:
    """Write ``path.cfl`` and ``path.hdr``: (x, y, z, 1, set, contrast, …), complex64.

    BART stores no lengths: voxel size and orientation are in ``provenance.json`` beside it.

    Args:
        path: name without suffix.
        volume: the reconstruction; its axes are named by ``info["axes"]``.
        info: ``axes``.

    Raises:
        ValueError: an axis for which BART has no dimension.
    """
    values = volume.detach().cpu().resolve_conj().resolve_neg().numpy()
    axes = [str(name) for name in info.get("axes", ())]
    unknown = [name for name in axes if name not in PLACES]
    if unknown or len(axes) != values.ndim or len(set(axes)) != len(axes):
        raise ValueError(
            f"a volume with the axes {axes} {values.shape} has no place in a BART array (known: "
            f"{', '.join(PLACES)}); set output.format to 'hdf5' or 'zarr'"
        )
    order = sorted(range(len(axes)), key=lambda i: PLACES[axes[i]])
    shape = [1] * len(DIMS)
    for name, n in zip(axes, values.shape, strict=True):
        shape[PLACES[name]] = n
    return write_cfl(path.with_name(path.name + ".cfl"), values.transpose(order).reshape(shape))
