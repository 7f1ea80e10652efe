"""cuFINUFFT (Shih et al. 2021): the GPU's default."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon_mri.backends.prepared import Prepared

__all__ = ["adjoint", "forward"]


def _plan(
    omega: Tensor,
    kind: int,
    shape: tuple[int, ...],
    count: int,
    dtype: torch.dtype,
    accuracy: float,
    stream: int,
) -> Any:
    import cufinufft

    plan = cufinufft.Plan(
        kind,
        shape,
        n_trans=count,
        eps=accuracy,
        isign=-1 if kind == 2 else 1,
        dtype="complex128" if dtype == torch.complex128 else "complex64",
        gpu_stream=stream,
        gpu_device_id=omega.device.index,
    )
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    # Folded in double precision: single precision loses digits of a phase that is large.
    folded = torch.remainder(omega.double() + torch.pi, 2 * torch.pi) - torch.pi
    points = [axis.contiguous() for axis in folded.to(real).mT]
    plan.setpts(*points)
    return plan, points  # the plan holds the points' addresses only


_plans: Prepared[Any] = Prepared(_plan)


def _run(
    kind: int, values: Tensor, omega: Tensor, shape: tuple[int, ...], accuracy: float
) -> Tensor:
    values = values.resolve_conj().contiguous()
    stream = torch.cuda.current_stream(values.device).cuda_stream
    # One plan computes one thing at a time.
    with _plans.lock:
        plan, _ = _plans(omega, kind, shape, len(values), values.dtype, accuracy, stream)
        result: Tensor = plan.execute(values if len(values) > 1 else values[0])
    return result


def forward(x: Tensor, omega: Tensor, accuracy: float) -> Tensor:
    """``Σ_r x_r exp(−iω·r)``."""
    return _run(2, x, omega, tuple(x.shape[1:]), accuracy).reshape(len(x), -1)


def adjoint(y: Tensor, omega: Tensor, shape: tuple[int, ...], accuracy: float) -> Tensor:
    """``Σ_m y_m exp(+iω·r)``."""
    return _run(1, y, omega, shape, accuracy).reshape(-1, *shape)
