"""ASTRA's own projection matrix as a torch sparse tensor, for many slices at once."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import numpy as np
import scipy.sparse
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
#: Memory while the matrix is made over what it takes in the end.
BUILD_FACTOR = 1.7
#: Rays of one piece of the matrix: ASTRA and SciPy hold several copies of a piece.
PIECE = 2**14


def matrix_bytes(geometry: CTGeometry, kernel: str) -> float:
    """Memory of the matrix and its transpose, estimated before anything is allocated."""
    widths = {"line": 1.0, "linear": 1.6, "strip": 2.6}
    return 2 * ENTRY * ray_crossings(geometry) * widths.get(kernel, 1.0)


class MatrixBackend:
    """Sparse matrix products: exact adjoint, all slices of a batch in one product."""

    def __init__(self, geometry: CTGeometry, poses: NDArray[np.float64], kernel: str) -> None:
        self.image = geometry.volume_shape
        self.data = geometry.data_shape
        key = f"ct-{geometry.fingerprint()}-{kernel}-v2"
        tensors = cache.load(key)
        if tensors is None:
            begin = time.perf_counter()
            tensors = _build(geometry, poses, kernel)
            log.info("projection matrix made in %.1f s", time.perf_counter() - begin)
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
    views = max(1, PIECE // geometry.columns)
    pieces = []
    for start in range(0, len(poses), views):
        chosen = range(start, min(start + views, len(poses)))
        pieces.append(_piece(geometry.select(chosen), poses[start : start + views], kernel))
    sparse = scipy.sparse.vstack(pieces, format="csr")
    del pieces
    # torch wants row starts and columns of one type; 2³¹ entries need the wide one.
    integer = np.int32 if sparse.nnz < 2**31 else np.int64
    tensors = {}
    for prefix, m in (("", sparse), ("t_", sparse.T.tocsr())):
        m.sort_indices()
        tensors[f"{prefix}start"] = torch.from_numpy(m.indptr.astype(integer, copy=False))
        tensors[f"{prefix}index"] = torch.from_numpy(m.indices.astype(integer, copy=False))
        tensors[f"{prefix}value"] = torch.from_numpy(m.data)
    return tensors


def _piece(geometry: CTGeometry, poses: NDArray[np.float64], kernel: str) -> Any:
    """The rows of some views, in single precision."""
    astra = load_astra()
    projection, volume = geometries(geometry, poses, kernel)
    projector = astra.create_projector(projector_type(geometry, kernel), projection, volume)
    try:
        identifier = astra.projector.matrix(projector)
        try:
            return astra.matrix.get(identifier).tocsr().astype(np.float32)
        finally:
            astra.matrix.delete(identifier)
    finally:
        astra.projector.delete(projector)


def _csr(tensors: dict[str, Tensor], prefix: str, size: tuple[int, int]) -> Tensor:
    start, index = tensors[f"{prefix}start"], tensors[f"{prefix}index"]
    with warnings.catch_warnings():
        # torch says once per process that CSR is in beta; the product used here is stable.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            start, index, tensors[f"{prefix}value"], size, check_invariants=True
        )
