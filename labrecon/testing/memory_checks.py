"""The check that nothing piles up."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labrecon.operator import GradientError
from labrecon.testing.allocation import UNSEEN, native
from labrecon.testing.bench import Bench, check
from labrecon.testing.finding import Finding

#: Bytes per call that are growth, and bytes in all that Python and its libraries keep for later.
_LEAK, _KEPT = 16, 8000


@check("memory")
def memory(bench: Bench) -> Iterator[Finding]:
    """Nothing piles up over 200 calls."""
    operator = bench.fresh()
    x = bench.point()

    def call() -> None:
        free = x.clone().requires_grad_()
        try:
            y = operator(free)
        except GradientError:
            operator(x)
            return
        if y.requires_grad:
            torch.autograd.grad(y, free, torch.ones_like(y), allow_unused=True)

    call()
    begin = time.perf_counter()
    call()
    each = time.perf_counter() - begin
    quarter = max(5, min(bench.calls // 4, int(10 / max(each, 1e-6))))
    rounds = [_round(call, quarter, 10 if each < 1 else 2)]
    calls = 4 * quarter
    # Memory that Python recycles is traced only once it is used again: growth that is real goes on.
    while len(rounds) < 7 and each * quarter < 3:
        suspected = _growth(rounds) >= _LEAK or _unseen(rounds[-1]) >= UNSEEN
        certain = len(rounds) == 4 and _growth(rounds) >= 4 * _LEAK
        if not suspected or certain or _unseen(rounds[-1]) >= 16 * 2**20:
            break
        quarter *= 2
        calls += 4 * quarter
        rounds.append(_round(call, quarter, 0))
    # What Python and its libraries keep for later is a few thousand bytes, however few the calls.
    tolerance = max(_LEAK, _KEPT / quarter)
    told = f"over {calls} calls"
    traced, tensors = (_growth(rounds, kind) for kind in (0, 1))
    resident = _unseen(rounds[-1])
    unseen = resident / quarter if resident >= UNSEEN else 0.0
    per_call = max(traced, tensors, unseen)
    if per_call >= tolerance:
        what = "tensors" if tensors >= traced else "Python objects or arrays"
        # What Python sees is held by compiled code in the end, with some bytes around it.
        hidden = unseen > 2 * max(traced, tensors)
        what = "memory that Python does not see" if hidden else what
        yield Finding(
            "failed",
            f"{per_call:.0f} bytes of {what} pile up per call, {told}",
            per_call,
            tolerance,
            "look for lists and dictionaries that are appended to, for graphs kept by "
            "tensors that were stored without detach(), and for memory of C that nobody frees",
        )
    else:
        told = f"nothing piles up {told} (bytes per call)"
        yield Finding("passed", told, max(per_call, 0.0), tolerance)


#: Columns: traced bytes of Python and bytes of tensors, per call, and bytes of C. Allocated
#: before they are filled, so that looking does not count as growth.
Marks = np.ndarray[Any, np.dtype[np.float64]]


def _round(call: Callable[[], None], quarter: int, before: int) -> Marks:
    """What is held now, and after each of four times ``quarter`` calls."""
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        marks = np.zeros((5, 3))
        for _ in range(before):
            call()
        _hold(marks[0])
        for i in range(4):
            for _ in range(quarter):
                call()
            _hold(marks[i + 1])
    finally:
        if not tracing:
            tracemalloc.stop()
    marks[:, :2] /= quarter
    return marks


def _growth(rounds: list[Marks], kind: int | None = None) -> float:
    """The least growth from one mark to the next."""
    kinds = (0, 1) if kind is None else (kind,)
    return max(float(min(np.diff(m[:, k]).min() for m in rounds)) for k in kinds)


def _unseen(marks: Marks) -> float:
    """Growth of what the process holds per quarter, in three of four: one may fill old holes."""
    return float(np.sort(np.diff(marks[:, 2]))[1])


def _hold(row: Marks) -> None:
    gc.collect()
    held = 0
    for known in gc.get_objects():
        if type(known) is Tensor and known.layout == torch.strided:
            held += known.nbytes
    row[:] = tracemalloc.get_traced_memory()[0], held, native()
