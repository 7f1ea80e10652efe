"""Volumes as NIfTI, placed in the patient where the scan says where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import labrecon
from labrecon.io.plain import dumps

__all__ = ["affine_of", "write_nifti"]

Values = NDArray[Any]
Part = Literal["magnitude", "complex", "phase"]
SPATIAL = ("x", "y", "z")
#: From (left, posterior, superior) to NIfTI's (right, anterior, superior).
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SCANNER, UNKNOWN = 1, 0
#: Size in mm along an axis of which it is not known.
NO_SIZE = 1.0


def write_nifti(
    path: Path, volume: Tensor, info: Mapping[str, Any], *, part: Part = "magnitude"
) -> Path:
    """Write ``path.nii.gz`` (NIfTI-1) with axes x, y, z or slice, then the other frames.

    With position and directions in the geometry, the affine says where voxels lie in the scanner
    (``sform`` and ``qform`` code 1). Without them it has the voxel size, directions of the patient
    axes and the middle ``N//2`` at 0, and the codes say unknown (0).

    Args:
        path: name without suffix.
        volume: the reconstruction; its axes are named by ``info["axes"]``.
        info: ``axes``, ``geometry``, ``voxel_size`` (mm per axis or None), ``provenance``.
        part: of complex volumes: magnitude, phase in rad, or complex numbers, which few viewers
            show.

    Raises:
        ValueError: an unknown part, no two image axes, or more than the 7 axes of NIfTI.
    """
    import nibabel

    if part not in ("magnitude", "complex", "phase"):
        raise ValueError(f"part is 'magnitude', 'complex' or 'phase', got {part!r}")
    array = _part(volume.detach().cpu().resolve_conj().resolve_neg().numpy(), part)
    axes = _axes(info, array.ndim)
    order = _order(axes)
    ordered = array.transpose([axes.index(name) for name in order])
    if not {"z", "slice"} & set(order[:3]):
        ordered, order = np.expand_dims(ordered, 2), [*order[:2], "z", *order[2:]]
    if ordered.ndim > 7:
        raise ValueError(f"NIfTI has at most 7 axes, this volume has {order}; use format 'hdf5'")
    affine, code = affine_of(info, order, ordered.shape)
    image = nibabel.Nifti1Image(ordered, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"labrecon {labrecon.__version__} {part}".encode()[:79]
    told = dumps({"axes": order, "part": part, "provenance": info.get("provenance", {})})
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", told.encode()))
    target = path.with_name(path.name + ".nii.gz")
    nibabel.save(image, target)
    return target


def _part(values: Values, part: Part) -> Values:
    """Complex64, or float32 of the part that is asked for; NIfTI knows no float16."""
    if np.iscomplexobj(values):
        if part == "complex":
            return values.astype(np.complex64, copy=False)
        chosen = np.abs(values) if part == "magnitude" else np.angle(values)
        return chosen.astype(np.float32)
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)


def _axes(info: Mapping[str, Any], ndim: int) -> list[str]:
    axes = [str(name) for name in info.get("axes", ())]
    if len(axes) != ndim or not {"x", "y"} <= set(axes):
        raise ValueError(
            f"NIfTI needs images with the axes y and x (and z), got {axes} for {ndim} axes; set "
            "output.format to 'hdf5' or 'zarr'"
        )
    if len(set(axes)) != len(axes):
        raise ValueError(f"axes have one name each, got {axes}; set output.format to 'hdf5'")
    return axes


def _order(axes: Sequence[str]) -> list[str]:
    """Axes in NIfTI's order: x, y, z; slices of 2D scans are its z."""
    spatial = [name for name in SPATIAL if name in axes]
    if "z" not in axes and "slice" in axes:
        spatial.append("slice")
    return [*spatial, *(name for name in axes if name not in spatial)]


def affine_of(
    info: Mapping[str, Any], order: Sequence[str], shape: Sequence[int]
) -> tuple[Values, int]:
    """The affine from voxel indices to mm (right, anterior, superior), and its NIfTI code.

    ``r_LPS = position + Σ_a d_a · s_a · (i_a − c_a)`` with ``c = N//2`` for x, y, z, where k-space
    puts the origin, and ``c = (N − 1)/2`` for slices, of which the position is the middle.

    Args:
        info: with ``geometry`` and ``voxel_size``.
        order: names of the volume's axes, the first three spatial.
        shape: their sizes.
    """
    geometry = info.get("geometry")
    position = getattr(geometry, "position", None)
    directions = getattr(geometry, "directions", None)
    sizes = _sizes(info, order)
    # Without a distance of slices they lie somewhere.
    known = position is not None and directions is not None
    known = known and (order[2] != "slice" or shape[2] == 1 or sizes[2] is not None)
    middle = np.array([(n - 1) / 2 if name == "slice" else n // 2
                       for name, n in zip(order[:3], shape[:3], strict=True)])  # fmt: skip
    turn = np.array(directions).T if known else np.eye(3)
    scaled = turn * [NO_SIZE if size is None else size for size in sizes]
    affine = np.eye(4)
    affine[:3, :3] = scaled
    affine[:3, 3] = (np.array(position) if known else 0.0) - scaled @ middle
    return LPS_TO_RAS @ affine, SCANNER if known else UNKNOWN


def _sizes(info: Mapping[str, Any], order: Sequence[str]) -> list[float | None]:
    """Of a voxel along the first three axes in mm."""
    geometry, axes = info.get("geometry"), list(info["axes"])
    given = dict(zip(axes, info.get("voxel_size") or [None] * len(axes), strict=True))
    pixel, names = getattr(geometry, "pixel", None), getattr(geometry, "axes", ())
    own = dict(zip(names, pixel, strict=True)) if pixel is not None else {}
    spacing = getattr(geometry, "spacing", None)
    own |= {} if spacing is None else {"slice": spacing} | ({} if "z" in own else {"z": spacing})
    sizes = [given.get(name) or (1e3 * own[name] if name in own else None) for name in order[:3]]
    return [None if size is None else float(size) for size in sizes]
