"""Tensors as the arrays that external code takes, and back, without a copy where that is safe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

__all__ = ["Accepts", "Arrays"]

Accepts = Literal["numpy", "torch", "dlpack", "cupy"]


@dataclass(frozen=True)
class Arrays:
    """One kind of array, and how a tensor becomes one.

    Args:
        accepts: "numpy" arrays on the CPU; "torch" tensors without a graph; "dlpack" objects with
            ``__dlpack__``, which the function imports itself; "cupy" arrays on the current stream
            of torch.
        device: where the external code computes; by default the CPU for numpy, the first GPU for
            cupy, and the device of the data for the others.
        writable: hand over copies that the function may write to.

    Raises:
        ValueError: an unknown kind, or numpy on another device than the CPU.
    """

    accepts: Accepts = "numpy"
    device: torch.device | None = None
    writable: bool = False

    def __post_init__(self) -> None:
        if self.accepts not in get_args(Accepts):
            raise ValueError(f"accepts is one of {get_args(Accepts)}, got {self.accepts!r}")
        if self.accepts == "numpy" and self.device not in (None, torch.device("cpu")):
            raise ValueError("NumPy arrays live on the CPU; leave device out")

    def place(self, x: Tensor) -> torch.device:
        """The device on which the external code computes for data on that of ``x``."""
        if self.accepts == "numpy":
            return torch.device("cpu")
        if self.device is not None:
            return _numbered(self.device)
        return (
            _numbered(torch.device("cuda"))
            if self.accepts == "cupy" and not x.is_cuda
            else x.device
        )

    def give(self, x: Tensor, place: torch.device, dtype: torch.dtype | None) -> Any:
        """The array for a tensor: contiguous, read-only where the kind knows that, no graph."""
        t = x.detach().to(device=place, dtype=dtype).resolve_conj().resolve_neg().contiguous()
        if self.writable and t.data_ptr() == x.data_ptr():
            t = t.clone()
        if self.accepts == "numpy":
            array = t.numpy()
            if not self.writable:
                # A function that writes into its input would change the caller's data.
                array.flags.writeable = False
            return array
        if self.accepts == "cupy":
            return _cupy().from_dlpack(t)
        return t

    def untouched(self, given: Sequence[Tensor], versions: Sequence[int]) -> None:
        """Raise `ValueError` if a function changed the tensors that it was given."""
        changed = any(t._version != v for t, v in zip(given, versions, strict=True))
        if changed and not self.writable:
            raise ValueError("it changed its input in place: the input is read-only")

    def take(self, call: Callable[[], Any]) -> Tensor:
        """The tensor for what ``call`` returns: a copy, unless nobody else is seen to hold it.

        A library that fills one buffer again and again, or returns its input, would otherwise
        change results that were handed out before.

        Raises:
            TypeError: it is not an array of the declared kind.
        """
        array = call()
        if self.accepts == "numpy":
            if not isinstance(array, np.ndarray | np.generic):
                raise TypeError(f"expected a NumPy array, got {_kind(array)}")
            if isinstance(array, np.ndarray) and type(array) not in (np.ndarray, np.memmap):
                raise TypeError(
                    f"expected a plain NumPy array, got {_kind(array)}, whose mask, unit or other "
                    "meaning would be lost: convert it there"
                )
            # References: the local name, and the argument of getrefcount.
            alone = sys.getrefcount(array) <= 2
            if not (isinstance(array, np.ndarray) and alone and _own(array)):
                array = np.array(array)
            elif not array.flags.writeable or any(n < 0 for n in array.strides):
                array = array.copy()
            try:
                return torch.from_numpy(array)
            except TypeError as error:
                raise TypeError(f"torch has no dtype for NumPy's {array.dtype}") from error
        if self.accepts == "torch":
            if not isinstance(array, Tensor):
                raise TypeError(f"expected a torch tensor, got {_kind(array)}")
            # Whose memory a tensor shares can not be seen from it.
            return array.detach().clone()
        if not hasattr(array, "__dlpack__"):
            raise TypeError(f"expected an array with __dlpack__, got {_kind(array)}")
        return torch.from_dlpack(array).clone()

    @contextmanager
    def stream(self, place: torch.device) -> Iterator[None]:
        """External code queued on torch's current stream of the device, in order with torch."""
        if place.type != "cuda":
            yield
            return
        with torch.cuda.device(place):
            if self.accepts != "cupy":
                yield
                return
            cupy = _cupy()
            current = torch.cuda.current_stream(place).cuda_stream
            with cupy.cuda.Device(place.index or 0), cupy.cuda.ExternalStream(current):
                yield


def _numbered(device: torch.device) -> torch.device:
    """``cuda`` as ``cuda:0``, or whichever is current: one device has one name."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _own(array: np.ndarray[Any, Any]) -> bool:
    """Whether the memory of an array is NumPy's own and no other array refers to it."""
    if array.base is None:
        return bool(array.flags.owndata)
    base = array.base
    # The name, the attribute of the view, and the argument of getrefcount.
    return isinstance(base, np.ndarray) and sys.getrefcount(base) <= 3 and _own(base)


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "accepts='cupy' needs CuPy: pip install cupy-cuda12x, for your version of CUDA"
        ) from error
    return cupy
