"""Which backend computes a geometry, and whether it fits into memory."""

from __future__ import annotations

import math
from typing import Literal

import torch

from labrecon import Space
from labrecon_ct.backends import cache
from labrecon_ct.geometry import CTGeometry

__all__ = ["MATRIX_PAYS", "BackendName", "CTMemoryError", "choose", "require_memory"]

GIB = 2.0**30
#: A matrix takes as long to make as some sixty slices take to project.
MATRIX_PAYS = 60
BackendName = Literal["auto", "matrix", "astra", "rays"]


class CTMemoryError(MemoryError):
    """The geometry needs more memory than there is."""


def choose(
    geometry: CTGeometry,
    wanted: str,
    kernel: str,
    budget: float,
    projections: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[str, str]:
    """The backend's name and why.

    Args:
        geometry: of a slice, or of a volume that is projected as one.
        wanted: "auto", or a backend.
        kernel: of the CPU backends.
        budget: GiB that a matrix may take.
        projections: about how many slices will be projected.
        dtype: of the data.
        device: likewise.

    Raises:
        ValueError: the backend can not do this geometry.
        CTMemoryError: the matrix that was asked for does not fit.
    """
    from labrecon_ct.backends.astra_geometry import cuda_available
    from labrecon_ct.backends.matrix import BUILD_FACTOR, matrix_bytes

    if wanted not in ("auto", "matrix", "astra", "rays"):
        raise ValueError(f"backend is auto, matrix, astra or rays, got {wanted!r}")
    cuda = device.type == "cuda"
    if dtype != torch.float32:
        if wanted not in ("auto", "rays"):
            raise ValueError(f"ASTRA computes in float32; {dtype} needs backend='rays'")
        return "rays", f"{dtype} (ASTRA has float32 only)"
    if wanted == "rays":
        return "rays", "asked for"
    if geometry.ndim == 3 and not (cuda and cuda_available()):
        if wanted == "auto":
            return "rays", f"{geometry.kind} needs ASTRA with CUDA, which is not here"
        raise ValueError(
            f"the {wanted} backend can not do {geometry.kind} without CUDA (ASTRA has no 3D CPU "
            "projector); take backend='rays'"
        )
    if wanted == "auto" and cuda and not cuda_available():
        return "rays", "the data are on CUDA, and this ASTRA was built without it"
    if wanted == "astra" or (cuda and wanted == "auto"):
        return "astra", "asked for" if wanted == "astra" else "the data are on CUDA"
    if geometry.ndim == 3 or cuda:
        raise ValueError("the matrix backend computes 2D geometries on the CPU")
    if wanted == "auto" and projections < MATRIX_PAYS:
        return "astra", f"a matrix does not pay for {projections} projections"
    need = matrix_bytes(geometry, kernel) / GIB
    free = cache.available_memory() / GIB
    fits = need <= budget and need * BUILD_FACTOR <= free
    about = f"the matrix takes about {need:.2f} GiB (budget {budget:g}, free memory {free:.1f})"
    if wanted == "matrix" and not fits:
        raise CTMemoryError(f"{about}: raise memory_budget or take backend='astra'")
    return ("matrix", about) if fits else ("astra", f"{about}, too much")


def require_memory(domain: Space, data: Space) -> None:
    """Raise `CTMemoryError` where a volume and its data do not fit into free memory."""
    size = domain.dtype.itemsize
    need = (domain.size + data.size) * size / GIB
    free = cache.available_memory() / GIB
    if need > free or math.isinf(need):
        raise CTMemoryError(
            f"a volume {domain.shape} and data {data.shape} take {need:.1f} GiB, and "
            f"{free:.1f} GiB are free: bin or crop the data, or set a smaller volume_shape"
        )
