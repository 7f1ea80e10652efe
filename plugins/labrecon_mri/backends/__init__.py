"""Libraries that compute non-uniform Fourier sums.

A backend is a module with ``forward(x, omega, accuracy)`` and ``adjoint(y, omega, shape,
accuracy)``: the plain sums ``y_m = Σ_r x_r exp(−iω_m·r)`` and ``x_r = Σ_m y_m exp(+iω_m·r)`` with
``r`` counted from ``N//2``, ``x (batch, *shape)``, ``y (batch, m)`` and ``omega (m, axis)`` in
rad/pixel, axes as in ``x``.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

__all__ = ["ACCURACY", "BACKENDS", "BackendError", "find_backend"]

BACKENDS = ("finufft", "cufinufft", "torchkbnufft", "sigpy", "exact")

#: Relative error that each backend is asked for and keeps, by precision; see docs/benchmarks.md.
ACCURACY: dict[str, dict[torch.dtype, float]] = {
    "finufft": {torch.complex64: 2e-5, torch.complex128: 1e-12},
    "cufinufft": {torch.complex64: 2e-5, torch.complex128: 1e-12},
    "torchkbnufft": {torch.complex64: 2e-5, torch.complex128: 2e-5},
    "sigpy": {torch.complex64: 2e-5, torch.complex128: 2e-5},
    "exact": {torch.complex64: 1e-5, torch.complex128: 1e-12},
}


class BackendError(ImportError):
    """A NUFFT library is not installed, or can not compute on a device."""


def find_backend(name: str, device: torch.device) -> Any:
    """The module of a backend; ``"auto"`` is cufinufft on CUDA where it is there, else finufft.

    Raises:
        BackendError: unknown, not installed, or not for this device.
    """
    return importlib.import_module(f"labrecon_mri.backends.{pick(name, device)}_sums")


def pick(name: str, device: torch.device) -> str:
    """The name of the backend that computes on a device."""
    if name == "auto":
        if device.type != "cuda":
            return "finufft" if _installed("finufft") else "torchkbnufft"
        return "cufinufft" if _installed("cufinufft") else "torchkbnufft"
    if name not in BACKENDS:
        raise BackendError(f"backend is auto or one of {', '.join(BACKENDS)}, got {name!r}")
    if name != "exact" and not _installed(name):
        raise BackendError(f"{name} is not installed: pip install {name}, or take backend='auto'")
    if name == "cufinufft" and device.type != "cuda":
        raise BackendError(f"cufinufft computes on CUDA, the data are on {device}")
    if name in ("finufft", "sigpy") and device.type != "cpu":
        raise BackendError(f"{name} computes on the CPU, the data are on {device}")
    return name


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
