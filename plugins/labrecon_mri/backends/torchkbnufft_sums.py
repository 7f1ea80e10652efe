"""torchkbnufft (Muckley et al. 2020) by its sparse matrices: portable, pure torch.

Its interpolation tables have an error of 7e-4 whatever the kernel, and run in forked TorchScript
threads that can abort the process when it exits; the matrices have neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon_mri.backends.prepared import Prepared

__all__ = ["adjoint", "forward"]


def _matrices(omega: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    import torchkbnufft

    plan = torchkbnufft.KbNufft(im_size=shape, dtype=dtype, device=omega.device)
    back = torchkbnufft.KbNufftAdjoint(im_size=shape, dtype=dtype, device=omega.device)
    points = omega.mT.contiguous().to(dtype.to_real())
    # Said, since torch warns where it is left unsaid.
    with torch.sparse.check_sparse_tensor_invariants(False):
        matrices = torchkbnufft.calc_tensor_spmatrix(points, im_size=shape)
    matrices = tuple(m.to(omega.device) for m in matrices)
    return plan, back, points, matrices


#: Building the matrices takes as long as many products with them.
_prepared: Prepared[Any] = Prepared(_matrices)


def forward(x: Tensor, omega: Tensor, accuracy: float) -> Tensor:
    """``Σ_r x_r exp(−iω·r)``."""
    plan, _, points, matrices = _prepared(omega, tuple(x.shape[1:]), x.dtype)
    y: Tensor = plan(x.unsqueeze(1).contiguous(), points, interp_mats=matrices)
    return y.squeeze(1)


def adjoint(y: Tensor, omega: Tensor, shape: tuple[int, ...], accuracy: float) -> Tensor:
    """``Σ_m y_m exp(+iω·r)``."""
    _, back, points, matrices = _prepared(omega, shape, y.dtype)
    x: Tensor = back(y.unsqueeze(1).contiguous(), points, interp_mats=matrices)
    return x.reshape(-1, *shape)
