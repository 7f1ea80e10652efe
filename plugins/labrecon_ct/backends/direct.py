"""ASTRA's projectors without a matrix: CPU in 2D, CUDA in 2D and 3D, on torch's own memory."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon_ct.backends.astra_geometry import (
    cuda_available,
    geometries,
    load_astra,
    projector_type,
)
from labrecon_ct.geometry import CTGeometry

__all__ = ["AstraBackend"]


class AstraBackend:
    """One ASTRA projector; 2D batches are a loop over slices.

    Args:
        geometry: 2D, or 3D with ``cuda``.
        poses: of each view.
        kernel: CPU kernel.
        cuda: use the GPU kernels.
        debug: fill outputs with NaN before, and look for what is left after: ASTRA 2.5 does not
            raise when the GPU's memory runs out.
    """

    def __init__(
        self,
        geometry: CTGeometry,
        poses: NDArray[np.float64],
        kernel: str,
        *,
        cuda: bool = False,
        debug: bool = False,
    ) -> None:
        if (cuda or geometry.ndim == 3) and not cuda_available():
            # Without a GPU ASTRA's 3D code kills Python and its 2D CUDA code returns zeros.
            raise RuntimeError(
                "ASTRA finds no CUDA device; its CUDA projectors must not be called. Take "
                'backend="rays" for 3D, or "matrix" for 2D'
            )
        astra = load_astra()
        self.cuda = cuda
        self.debug = debug
        self.volumetric = geometry.ndim == 3
        self.data = geometry.data_shape
        self.image = geometry.volume_shape
        projection, volume = geometries(geometry, poses, kernel)
        name = (
            projector_type(geometry, kernel)
            if not cuda
            else ("cuda3d" if self.volumetric else "cuda")
        )
        self.room = astra.projector3d if self.volumetric else astra.projector
        self.identifier = astra.create_projector(name, projection, volume)
        weakref.finalize(self, self.room.delete, self.identifier)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, *image)`` to ``(batch, *data)``."""
        return self._run(self.room.direct_FP, x, self.data)

    def backward(self, y: Tensor) -> Tensor:
        """``(batch, *data)`` to ``(batch, *image)``."""
        return self._run(self.room.direct_BP, y, self.image)

    def _run(self, function: object, source: Tensor, shape: tuple[int, ...]) -> Tensor:
        source = source.detach().contiguous()
        target = torch.empty(len(source), *shape, dtype=source.dtype, device=source.device)
        if self.debug:
            target.fill_(torch.nan)
        with self._on_device(source):
            for i in range(len(source)):
                function(self.identifier, source[i], out=target[i])  # type: ignore[operator]
        if self.debug and not bool(torch.isfinite(target).all()):
            raise RuntimeError("ASTRA left part of its output unwritten (out of GPU memory?)")
        return target

    @contextlib.contextmanager
    def _on_device(self, tensor: Tensor) -> Iterator[None]:
        if not tensor.is_cuda:
            yield
            return
        # ASTRA works on a stream of its own and asks for no synchronisation with torch's.
        with torch.cuda.device(tensor.device):
            load_astra().set_gpu_index(tensor.device.index or 0)
            torch.cuda.current_stream().synchronize()
            yield
