"""ASTRA's own projection matrix as a torch sparse tensor, for many slices at once."""

from __future__ import annotations

import logging
import time
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon_ct.backends import cache
from labrecon_ct.backends.astra_geometry import (
    geometries,
    load_astra,
    projector_type,
    ray_crossings,
)
from labrecon_ct.geometry import CTGeometry

__all__ = ["MatrixBackend", "matrix_bytes"]

log = logging.getLogger("labrecon_ct")
#: index and value of one entry
ENTRY = 4 + 4
#: ASTRA and SciPy hold copies in double precision while the matrix is made.
BUILD_FACTOR = 3.5


def matrix_bytes(geometry: CTGeometry, kernel: str) -> float:
    """Memory of the matrix and its transpose, estimated before anything is allocated."""
    widths = {"line": 1.0, "linear": 1.6, "strip": 2.6}
    return 2 * ENTRY * ray_crossings(geometry) * widths.get(kernel, 1.0)


class MatrixBackend:
    """Sparse matrix products: exact adjoint, all slices of a batch in one product."""

    def __init__(
        self, geometry: CTGeometry, poses: NDArray[np.float64], kernel: str, *, keep: bool
    ) -> None:
        self.image = geometry.volume_shape
        self.data = geometry.data_shape
        key = f"ct-{geometry.fingerprint()}-{kernel}-v1"
        tensors = cache.load(key) if keep else None
        if tensors is None:
            begin = time.perf_counter()
            tensors = _build(geometry, poses, kernel)
            log.info("projection matrix made in %.1f s", time.perf_counter() - begin)
            if keep:
                cache.store(key, tensors)
        rows, columns = np.prod(self.data), np.prod(self.image)
        self.matrix = _csr(tensors, "", (int(rows), int(columns)))
        self.transpose = _csr(tensors, "t_", (int(columns), int(rows)))
        self.bytes = cache.bytes_of(*tensors.values())

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, ny, nx)`` to ``(batch, angle, detector)``."""
        return _product(self.matrix, x).reshape(-1, *self.data)

    def backward(self, y: Tensor) -> Tensor:
        """``(batch, angle, detector)`` to ``(batch, ny, nx)``."""
        return _product(self.transpose, y).reshape(-1, *self.image)


def _product(matrix: Tensor, batch: Tensor) -> Tensor:
    # Samples of one entry for all slices lie side by side: each entry is read once.
    columns = batch.reshape(len(batch), -1).T.contiguous()
    return (matrix @ columns).T.contiguous()


def _build(geometry: CTGeometry, poses: NDArray[np.float64], kernel: str) -> dict[str, Tensor]:
    astra = load_astra()
    projection, volume = geometries(geometry, poses, kernel)
    projector = astra.create_projector(projector_type(geometry, kernel), projection, volume)
    try:
        identifier = astra.projector.matrix(projector)
        try:
            sparse = astra.matrix.get(identifier)
        finally:
            astra.matrix.delete(identifier)
    finally:
        astra.projector.delete(projector)
    tensors = {}
    for prefix, m in (("", sparse), ("t_", sparse.T.tocsr())):
        m.sort_indices()
        tensors[f"{prefix}start"] = torch.from_numpy(m.indptr.astype(np.int32))
        tensors[f"{prefix}index"] = torch.from_numpy(m.indices.astype(np.int32))
        tensors[f"{prefix}value"] = torch.from_numpy(m.data.astype(np.float32))
    return tensors


def _csr(tensors: dict[str, Tensor], prefix: str, size: tuple[int, int]) -> Tensor:
    start, index = tensors[f"{prefix}start"], tensors[f"{prefix}index"]
    with warnings.catch_warnings():
        # torch says once per process that CSR is in beta; the product used here is stable.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            start, index, tensors[f"{prefix}value"], size, check_invariants=True
        )
