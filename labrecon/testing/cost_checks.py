"""What the operator costs: tells, and never fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from labrecon.operator import GradientError
from labrecon.testing.allocation import resident
from labrecon.testing.bench import Bench, check
from labrecon.testing.finding import Finding


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
            held = resident()
            call()
            status = Path("/proc/self/status").read_text()
        except OSError:
            return None
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return max(0.0, float(peak.split()[1]) * 1024 - held)
    return None
