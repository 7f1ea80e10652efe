"""Checks of behaviour: repeatability, side effects, memory, threads, files, cost."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from labrecon.operator import GradientError, Operator
from labrecon.testing.bench import Bench, check, relative
from labrecon.testing.finding import Finding
from labrecon.testing.process_state import differs, process_state

_LEAK = 16
_KEPT = 8000


@check("repeatability")
def repeatability(bench: Bench) -> Iterator[Finding]:
    """The same input gives the same output, whatever was computed before."""
    operator = bench.fresh()
    # Sums made by several threads, or on a GPU, have an order of their own.
    tolerance = 30 * bench.epsilon
    rounding = 0.0
    x, z = bench.point(stream=3), bench.point(stream=9)
    maps: list[tuple[str, Callable[[Tensor], Tensor], Tensor, Tensor]] = [
        ("forward", operator, x, z)
    ]
    if operator.linear:
        maps.append(("adjoint", operator.adjoint, bench.random_y(), bench.random_y(stream=8)))
    with torch.no_grad():
        for name, function, one, other in maps:
            first = function(one).clone()
            result = function(one)
            error = relative(result, first)
            rounding = max(rounding, error)
            if error > tolerance:
                yield Finding(
                    "failed",
                    f"{name} called twice gives two answers",
                    error,
                    tolerance,
                    "draw random numbers in noise.sample only; take torch.Generator arguments; "
                    "return memory that later calls do not overwrite",
                )
                return
            kept = result.clone()
            function(other)
            if not _equal(result, kept):
                yield Finding(
                    "failed",
                    f"a result of {name} was overwritten by the next call",
                    advice="return memory of its own: buffer.clone(), array.copy()",
                )
                return
            bench.operator(bench.point())
            error = relative(function(one), first)
            if error > tolerance:
                yield Finding(
                    "failed",
                    f"{name} depends on what it was called with before",
                    error,
                    tolerance,
                    "keep no state between calls: no caches without a key, no running averages",
                )
                return
        error = relative(bench.fresh()(x), bench.fresh()(x))
        if error > max(tolerance, bench.exact):
            yield Finding(
                "failed",
                "two operators of one geometry differ",
                error,
                tolerance,
                "build from the geometry alone; seed what is random from it",
            )
            return
    if rounding > 0:
        yield Finding(
            "warned",
            "the same up to rounding, call after call",
            rounding,
            tolerance,
            "sums in an order that changes (threads, atomics): results can not be repeated "
            "to the bit",
        )
        return
    yield Finding("passed", "the same, call after call", 0.0, tolerance)


@check("purity")
def purity(bench: Bench) -> Iterator[Finding]:
    """Inputs, parameters and the state of the process are left as they were."""
    operator = bench.fresh()
    x, y = bench.point(2), bench.random_y(2)
    kept = [x.clone(), y.clone()]
    parameters = {k: v.clone() for k, v in operator.state_dict().items()}
    before = process_state()
    with torch.no_grad():
        operator(x)
        if operator.linear:
            operator.adjoint(y)
        operator.initial(y)
    after = process_state()
    changed = [what for what in before if differs(before[what], after[what])]
    if not torch.equal(x, kept[0]) or not torch.equal(y, kept[1]):
        yield Finding(
            "failed",
            "the input was changed in place",
            advice="work on a copy (x.clone(), array.copy()) or avoid in-place operations",
        )
        return
    moved = [k for k, v in operator.state_dict().items() if not _equal(v, parameters[k])]
    if moved:
        yield Finding("failed", f"parameters were changed: {', '.join(moved)}",
                      advice="forward must not assign to parameters or buffers")  # fmt: skip
    elif changed:
        yield Finding(
            "failed",
            f"the state of the process was changed: {', '.join(changed)}",
            advice="take a torch.Generator, pass dtype= and device= instead of defaults, and "
            "restore what a library insists on",
        )
    else:
        yield Finding("passed", "nothing was changed")


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


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
        suspected = _growth(rounds) >= _LEAK or _unseen(rounds[-1]) >= _UNSEEN
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
    unseen = resident / quarter if resident >= _UNSEEN else 0.0
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
    row[:] = tracemalloc.get_traced_memory()[0], held, _native()


class _MallInfo(ctypes.Structure):
    """What glibc's allocator tells; see mallinfo2(3)."""

    _fields_ = (
        *[(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks")],
        *[(name, ctypes.c_size_t) for name in ("hblkhd", "usmblks", "fsmblks")],
        *[(name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")],
    )


def _allocator() -> Callable[[], _MallInfo] | None:
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    ask.restype = _MallInfo
    return cast(Callable[[], _MallInfo], ask)


_MALLINFO = _allocator()
#: Growth in a quarter that counts: the allocator knows to the byte, the process to its pages.
_UNSEEN = 64 * 2**10 if _MALLINFO else 512 * 2**10


def _native() -> float:
    """Bytes that compiled code holds: by the allocator's own count, or else by pages."""
    if _MALLINFO is None:
        return _resident()
    told = _MALLINFO()
    return float(told.uordblks + told.hblkhd)


def _resident() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


@check("threads")
def threads(bench: Bench) -> Iterator[Finding]:
    """Calls from several threads do not disturb each other, if that is claimed."""
    operator = bench.operator
    if not operator.threadsafe:
        yield Finding("skipped", "not claimed: operator.threadsafe is False")
        return
    inputs = [bench.point(stream=50 + i) for i in range(8)]
    answers = [bench.random_y(stream=60 + i) for i in range(8)]

    def everything(i: int) -> list[Tensor]:
        """Forward, adjoint and, where there is one, the gradient."""
        with torch.no_grad():
            found = [operator(inputs[i])]
            if operator.linear:
                found.append(operator.adjoint(answers[i]))
        free = inputs[i].clone().requires_grad_()
        with contextlib.suppress(GradientError):
            y = operator(free)
            if y.requires_grad:
                found += torch.autograd.grad(y, free, answers[i])
        return found

    expected = [everything(i) for i in range(8)]
    worst = [0.0] * len(inputs)
    raised: list[BaseException] = []
    together = threading.Barrier(len(inputs))

    def work(i: int) -> None:
        try:
            for _ in range(10):
                together.wait(timeout=30)
                for found, known in zip(everything(i), expected[i], strict=True):
                    worst[i] = max(worst[i], relative(found, known))
        except Exception as error:
            raised.append(error)
            together.abort()

    workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    advice = "say threadsafe = False: calls then wait for one another"
    if raised:
        first = next(
            (e for e in raised if not isinstance(e, threading.BrokenBarrierError)), raised[0]
        )
        yield Finding("failed", f"in 8 threads: {type(first).__name__}: {first}", advice=advice)
    elif max(worst) > bench.exact:
        yield Finding(
            "failed", "8 threads get other answers than one", max(worst), bench.exact, advice
        )
    else:
        yield Finding("passed", "8 threads get the answers of one", max(worst), bench.exact)


@check("serialisation")
def serialisation(bench: Bench) -> Iterator[Finding]:
    """The operator survives pickling (workers) and its state survives a file (checkpoints)."""
    operator = bench.operator
    x = bench.point()
    with torch.no_grad():
        expected = operator(x)
    try:
        again: Operator = pickle.loads(pickle.dumps(operator))
        with torch.no_grad():
            error = relative(again(x), expected)
    except Exception as raised:
        yield Finding(
            "failed",
            f"can not be pickled: {type(raised).__name__}: {raised}",
            about="pickle",
            advice="define functions at the top level of a module; drop handles in __getstate__ "
            "and make them again when they are needed (setup= of labrecon.bridge.external)",
        )
    else:
        if bench.spawn and (told := _elsewhere(operator, x, expected, bench.exact)):
            yield Finding(
                "failed",
                f"a pickled copy does not work in another process: {told}",
                about="pickle",
                advice="handles and pointers mean nothing there: make them again when they are "
                "needed (setup= of labrecon.bridge.external)",
            )
            return
        same = error <= bench.exact
        yield Finding(
            "passed" if same else "failed",
            "a pickled copy gives the same" if same else "a pickled copy gives another answer",
            error,
            bench.exact,
            "" if same else "everything that forward uses must travel with it",
            "pickle",
        )
    # A fresh operator may share memory with constants of its module.
    other = copy.deepcopy(bench.fresh())
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.zero_()
        with contextlib.suppress(Exception):
            # What it computes now from zeros must not outlive the state.
            other(x)
    other.load_state_dict(_through_a_file(operator.state_dict()))
    with torch.no_grad():
        error = relative(other(x), expected)
    if error > bench.exact:
        yield Finding(
            "failed",
            "an operator with the loaded state gives another answer",
            error,
            bench.exact,
            "keep nothing that was computed from parameters, or compute it anew when they change",
            "state",
        )
    else:
        yield Finding("passed", "the state carries the parameters", error, bench.exact, "", "state")


_CHILD = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
operator, x = pickle.load(sys.stdin.buffer)
import torch
with torch.no_grad():
    y = operator(x)
pickle.dump(y.cpu(), open(sys.argv[1], "wb"))
"""


def _elsewhere(operator: Operator, x: Tensor, expected: Tensor, tolerance: float) -> str:
    """What is wrong with a pickled copy in a fresh process; nothing if it works."""
    with tempfile.TemporaryDirectory(prefix="labrecon-") as folder:
        result = Path(folder) / "result"
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(result)],
            input=pickle.dumps([*sys.path, os.getcwd()]) + pickle.dumps((operator, x)),
            capture_output=True,
            check=False,
        )
        if done.returncode != 0 or not result.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            return said[-1] if said else f"it ended with {done.returncode}"
        # Written by the process above, of what is pickled here.
        error = relative(pickle.loads(result.read_bytes()), expected)
    return f"its answer differs by {error:.3g}" if error > tolerance else ""


def _through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors keeps them, which knows no complex numbers and no sharing."""
    kept = {k: torch.view_as_real(v) if v.is_complex() else v for k, v in state.items()}
    kept = {k: v.clone(memory_format=torch.contiguous_format) for k, v in kept.items()}
    read = safetensors.torch.load(safetensors.torch.save(kept))
    return {k: torch.view_as_complex(v) if state[k].is_complex() else v for k, v in read.items()}


@check("cost")
def cost(bench: Bench) -> Iterator[Finding]:
    """Time of forward, adjoint and gradient, and the peak memory of a gradient."""
    operator = bench.operator
    x, y = bench.point(), bench.random_y()

    def gradient() -> None:
        free = x.clone().requires_grad_()
        out = operator(free)
        if out.requires_grad:
            torch.autograd.grad(out, free, torch.ones_like(out), allow_unused=True)

    def adjoint() -> None:
        with torch.no_grad():
            operator.adjoint(y)

    def forward() -> None:
        with torch.no_grad():
            operator(x)

    told = []
    for name, call in (("forward", forward), ("adjoint", adjoint), ("gradient", gradient)):
        if name == "adjoint" and not operator.linear:
            continue
        try:
            told.append(f"{name} {_milliseconds(call, bench.device):.3g} ms")
        except GradientError:
            told.append(f"{name} refused")
    peak = _peak(gradient, bench.device)
    if peak is not None:
        told.append(f"gradient peak {peak / 2**20:.3g} MiB" if peak > 0 else "peak below a page")
    yield Finding("passed", ", ".join(told))


def _milliseconds(call: Callable[[], None], device: torch.device) -> float:
    call()
    best, spent = float("inf"), 0.0
    for _ in range(20):
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - begin
        best, spent = min(best, seconds), spent + seconds
        if spent > 2.0:
            break
    return 1e3 * best


def _peak(call: Callable[[], None], device: torch.device) -> float | None:
    """Bytes on top of what is held before, or None where nobody tells."""
    with contextlib.suppress(GradientError):
        if device.type == "cuda":
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            call()
            return float(torch.cuda.max_memory_allocated(device) - before)
        try:
            # Writing 5 sets the high-water mark of Linux back to the present.
            Path("/proc/self/clear_refs").write_text("5")
            held = _resident()
            call()
            status = Path("/proc/self/status").read_text()
        except OSError:
            return None
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return max(0.0, float(peak.split()[1]) * 1024 - held)
    return None
