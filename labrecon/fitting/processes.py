"""The processes that train together, over accelerate: where they compute, what they exchange."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed

from labrecon.fitting.config import FitError

__all__ = ["Processes"]

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Processes:
    """One process, or those that ``torchrun`` started.

    Modules are not wrapped: gradients of all parameters, those of operators included, are averaged
    after the backward pass.

    Args:
        device: where this process computes; "cuda" without a number is the GPU of its local rank.
        precision: "float32", "bf16" or "fp16".

    Raises:
        FitError: the device does not have that precision.
    """

    def __init__(self, device: torch.device, precision: str = "float32") -> None:
        if precision == "fp16" and device.type == "cpu":
            raise FitError("precision fp16 needs a GPU: take bf16 or float32 on a CPU")
        with _accelerate_untouched():
            from accelerate import Accelerator

            existed = distributed.is_available() and distributed.is_initialized()
            try:
                accelerator = Accelerator(
                    cpu=device.type == "cpu",
                    mixed_precision=precision if precision in _HALVES else "no",
                )
            except (ValueError, ImportError) as error:
                raise FitError(f"precision {precision} on {device}: {error}") from error
        together = distributed.is_available() and distributed.is_initialized()
        if together and not existed:
            atexit.register(_leave)
        self.rank = distributed.get_rank() if together else 0
        self.size = distributed.get_world_size() if together else 1
        local = int(os.environ.get("LOCAL_RANK", 0)) if together else None
        self.device = (
            torch.device("cuda", local)
            if device.type == "cuda" and device.index is None and local is not None
            else device
        )
        self._half = _HALVES.get(precision)
        self.scaler: Any = accelerator.scaler

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision, where it is on."""
        if self._half is None:
            return nullcontext()
        return torch.autocast(self.device.type, self._half)

    def put(self, batch: Any) -> Any:
        """A batch on the device of this process."""
        from accelerate.utils import send_to_device

        return send_to_device(batch, self.device)

    def share(self, indices: Sequence[int]) -> list[int]:
        """This process's contiguous share; the first processes have one more where it is uneven."""
        each, more = divmod(len(indices), self.size)
        start = self.rank * each + min(self.rank, more)
        return list(indices[start : start + each + (self.rank < more)])

    def agree(self, value: Any) -> Any:
        """The first process's value."""
        if self.size == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told, src=0)
        return told[0]

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the first one's values, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            values = _real(tensor.detach()).contiguous()
            distributed.broadcast(values, src=0)
            _real(tensor.detach()).copy_(values)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum the gradients of all processes, one exchange per dtype."""
        if self.size == 1:
            return
        present = torch.tensor([p.grad is not None for p in parameters], device=self.device).int()
        distributed.all_reduce(present, distributed.ReduceOp.MAX)
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for parameter, there in zip(parameters, present.tolist(), strict=True):
            if there:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                kinds.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in kinds.values():
            flat = torch.cat([_real(g).reshape(-1) for g in gradients])
            distributed.all_reduce(flat)
            pieces = torch.split(flat, [_real(g).numel() for g in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                _real(gradient).copy_(piece.view_as(_real(gradient)))

    def mean(self, told: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
        """The mean over all processes of numbers by name, each with its weight."""
        if self.size > 1:
            gathered: list[Any] = [None] * self.size
            distributed.all_gather_object(gathered, told)
            told = [entry for entries in gathered for entry in entries]
        if len(told) == 1:
            return told[0][1]
        names = dict.fromkeys(name for _, numbers in told for name in numbers)
        return {name: _mean([(w, n[name]) for w, n in told if name in n]) for name in names}


def _mean(weighted: list[tuple[float, float]]) -> float:
    return sum(w * value for w, value in weighted) / sum(w for w, _ in weighted)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def _accelerate_untouched() -> Iterator[None]:
    """Accelerate starts anew within the block, and is as it was after it.

    Its singletons and the environment are put back, so that whoever else uses accelerate in this
    process notices nothing.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kinds: tuple[Any, ...] = (AcceleratorState, GradientState, PartialState)
    states = [kind._shared_state for kind in kinds]
    environment = dict(os.environ)
    # Accelerate would choose the number of threads otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    for kind in kinds:
        kind._shared_state = {}
    try:
        yield
    finally:
        for kind, state in zip(kinds, states, strict=True):
            kind._shared_state = state
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
