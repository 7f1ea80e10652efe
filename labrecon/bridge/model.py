"""The lab's functions as functions of tensors: batches, dtypes, shapes, sessions, locks."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from labrecon.bridge.arrays import Arrays
from labrecon.bridge.columns import Columns
from labrecon.bridge.errors import BridgeError
from labrecon.bridge.locks import lock_of
from labrecon.space import Space

__all__ = ["Function", "Model", "Values"]

log = logging.getLogger("labrecon.bridge")
Values = Mapping[str, Tensor]
Function = Callable[..., Any]


class Model:
    """Calls external functions with what was declared of them, and checks what they return.

    Args:
        name: used in messages.
        functions: "forward", and where there are: "adjoint", "vjp", "jvp".
        domain: space of ``x``.
        range: space of ``y``.
        arrays: the kind of array that the functions take.
        compute: dtype of the real numbers that the functions compute with; None: the spaces'.
        batched: the functions take a leading batch axis; otherwise they are called in a loop.
        threadsafe: they may be called from several threads at once.
        setup: makes what they work with (a handle, a context) once per process and device; it is
            then their first argument.
        columns: how the adjoint is made from `forward`, if it is.
    """

    def __init__(
        self,
        name: str,
        functions: Mapping[str, Function],
        domain: Space,
        range: Space,
        *,
        arrays: Arrays,
        compute: torch.dtype | None,
        batched: bool,
        threadsafe: bool,
        setup: Callable[[torch.device], Any] | None,
        columns: Columns | None,
    ) -> None:
        self.name = name
        self.functions = dict(functions)
        self.domain = domain
        self.range = range
        self.arrays = arrays
        self.compute = compute
        self.batched = batched
        self.threadsafe = threadsafe
        self.setup = setup
        self.columns = columns
        self._forget()

    @property
    def precision(self) -> torch.dtype:
        """The coarser of the precisions that the spaces have and that the code computes in."""
        known = [self.range.real_dtype, self.compute or self.range.real_dtype]
        return max(known, key=lambda dtype: torch.finfo(dtype).eps)

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = lock_of(self.functions["forward"])
        self._opening = threading.Lock()
        self._sessions: dict[torch.device, Any] = {}
        self._matrix: tuple[dict[str, Tensor], Tensor] | None = None

    def _guard(self) -> AbstractContextManager[Any]:
        if self._process != os.getpid():
            # A fork: its locks may be held by threads that are not here, its handles by the parent.
            self._forget()
        return contextlib.nullcontext() if self.threadsafe else self._lock

    def __getstate__(self) -> dict[str, Any]:
        # Locks, handles and contexts belong to one process.
        own = ("_lock", "_opening", "_process", "_sessions", "_matrix")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    # -- the functions -------------------------------------------------------------------------

    def forward(self, x: Tensor, values: Values) -> Tensor:
        """``A(x)`` for ``(*batch, *domain.shape)``."""
        return self._each("forward", (self.domain,), (x,), values, self.range)

    def adjoint(self, y: Tensor, values: Values) -> Tensor:
        """``Aᴴ y`` of a linear model, by its adjoint, its vjp, or its matrix."""
        if "adjoint" in self.functions:
            return self._each("adjoint", (self.range,), (y,), values, self.domain)
        if self.columns is not None:
            rows = _real(y.reshape(-1, self.range.size)) @ self._dense(values, y.device)
            x = rows.to(self.domain.real_dtype)
            if self.domain.dtype.is_complex:
                x = torch.view_as_complex(x.reshape(-1, self.domain.size, 2))
            return x.reshape(*self.range.batch(y), *self.domain.shape)
        zero = self.domain.zeros(*self.range.batch(y), device=y.device)
        return self.vjp(zero, y, values)[0]

    def vjp(self, x: Tensor, v: Tensor, values: Values) -> tuple[Tensor, dict[str, Tensor]]:
        """``J(x)ᴴ v`` and the gradients of ``⟨v, A(x)⟩`` by the parameters, where vjp has them."""
        found: dict[str, Tensor] = {}

        def one(result: Any) -> Any:
            if not isinstance(result, Mapping):
                return result
            unknown = set(result) - {"x", *values}
            if unknown or "x" not in result:
                raise BridgeError(
                    f"{self.name}: vjp returned gradients of {sorted(result)}, expected 'x' and "
                    f"any of {sorted(values)}"
                )
            for key, value in values.items():
                if key in result:
                    taken = self.arrays.take(functools.partial(result.__getitem__, key))
                    self._require(taken, value.shape, value.dtype, f"vjp's gradient of {key!r}")
                    taken = taken.to(value)
                    found[key] = found[key] + taken if key in found else taken
            return result["x"]

        gx = self._each("vjp", (self.domain, self.range), (x, v), values, self.domain, one)
        if not gx.numel():
            found = {key: torch.zeros_like(value) for key, value in values.items()}
        return gx, found

    def jvp(self, x: Tensor, u: Tensor, values: Values) -> Tensor:
        """``J(x) u`` by the lab's own function."""
        return self._each("jvp", (self.domain, self.domain), (x, u), values, self.range)

    def has(self, function: str) -> bool:
        """Whether the lab gave this function."""
        return function in self.functions

    def _dense(self, values: Values, device: torch.device) -> Tensor:
        """The matrix between real and imaginary parts, which may be mapped each in its own way."""
        known = self._matrix
        if (
            known is not None
            and known[1].device == device
            and all(torch.equal(known[0][k].to(v), v) for k, v in values.items())
        ):
            return known[1]
        assert self.columns is not None
        self.columns.require(self.domain, self.range)
        begin = time.perf_counter()
        eye = torch.eye(self.domain.size, dtype=self.domain.dtype, device=device)
        if self.domain.dtype.is_complex:
            eye = torch.stack((eye, 1j * eye), 1).flatten(0, 1)
        rows = []
        for part in eye.split(64):
            y = self.forward(part.reshape(-1, *self.domain.shape), values)
            rows.append(_real(y.flatten(1)))
            if len(rows) == 1:
                seconds = (time.perf_counter() - begin) * len(eye) / len(part)
                cost = self.columns.cost(self.domain, self.range)
                log.info("%s: adjoint by columns: %s, about %.2g s", self.name, cost, seconds)
        matrix = torch.cat(rows).mT.contiguous()
        self._matrix = {k: v.detach().clone() for k, v in values.items()}, matrix
        return matrix

    # -- calls ---------------------------------------------------------------------------------

    def _each(
        self,
        which: str,
        spaces: Sequence[Space],
        inputs: Sequence[Tensor],
        values: Values,
        target: Space,
        one: Callable[[Any], Any] = lambda result: result,
    ) -> Tensor:
        """Call a function for every element of the batch, or once with a batch axis."""
        batch = spaces[0].batch(inputs[0])
        flat = [t.reshape(-1, *s.shape) for t, s in zip(inputs, spaces, strict=True)]
        place = self.arrays.place(inputs[0])
        with self._guard(), torch.no_grad(), self.arrays.stream(place):
            if self.batched:
                shape = (len(flat[0]), *target.shape)
                y = self._call(which, flat, values, shape, target.dtype, place, one)
            else:
                rows = [
                    self._call(which, elements, values, target.shape, target.dtype, place, one)
                    for elements in zip(*flat, strict=True)
                ]
                if not rows:
                    return target.zeros(*batch, device=inputs[0].device)
                y = rows[0] if len(rows) == 1 else torch.stack(rows)
        return y.to(inputs[0].device).reshape(*batch, *target.shape)

    def _call(
        self,
        which: str,
        inputs: Sequence[Tensor],
        values: Values,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        place: torch.device,
        one: Callable[[Any], Any],
    ) -> Tensor:
        function = self.functions[which]
        arguments = [self._give(t, place) for t in inputs]
        given = {k: self._give(v, place) for k, v in values.items()}
        if self.setup is not None:
            arguments = [self._session(place), *arguments]
        watched = [*inputs, *values.values()]
        versions = [t._version for t in watched]
        try:
            y = self.arrays.take(lambda: one(function(*arguments, **given)))
            self.arrays.untouched(watched, versions)
        except (BridgeError, MemoryError):
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            hint = ""
            if "read-only" in str(error) or "not writeable" in str(error):
                hint = (
                    "; its input is read-only, since writing to it would change the caller's "
                    "data: copy it there, or pass writable=True"
                )
            raise BridgeError(f"{self.name}: {which} raised {told}{hint}") from error
        self._require(y, shape, dtype, which)
        return y if y.dtype == dtype else y.to(dtype)

    def _require(self, y: Tensor, shape: tuple[int, ...], dtype: torch.dtype, which: str) -> None:
        if tuple(y.shape) != tuple(shape):
            hint = ""
            if self.batched and tuple(y.shape) == tuple(shape[1:]):
                hint = "; batched=True says that it takes and returns a leading batch axis"
            raise BridgeError(
                f"{self.name}: {which} returned shape {tuple(y.shape)}, expected {tuple(shape)}"
                f"{hint}"
            )
        expected = self._dtype(dtype)
        if y.dtype != expected:
            raise BridgeError(
                f"{self.name}: {which} returned {y.dtype}, expected {expected}: declare the space "
                f"with that dtype, convert it there, or pass compute={y.dtype.to_real()} if the "
                "code computes in that precision"
            )

    def _dtype(self, declared: torch.dtype) -> torch.dtype:
        if self.compute is None:
            return declared
        return self.compute.to_complex() if declared.is_complex else self.compute

    def _give(self, x: Tensor, place: torch.device) -> Any:
        dtype = None if self.compute is None else self._dtype(x.dtype)
        return self.arrays.give(x, place, dtype)

    def _session(self, place: torch.device) -> Any:
        assert self.setup is not None
        with self._opening:
            if place not in self._sessions:
                self._sessions[place] = self.setup(place)
            return self._sessions[place]


def _real(y: Tensor) -> Tensor:
    """Rows of real numbers in double precision: real and imaginary part beside each other."""
    y = y.resolve_conj()
    return (torch.view_as_real(y).flatten(-2) if y.is_complex() else y).double()
