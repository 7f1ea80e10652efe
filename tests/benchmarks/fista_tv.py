"""FISTA-TV of 16 slices against what it must do: ``python tests/benchmarks/fista_tv.py``.

512² image, 180 views × 768 bins, float32, 2 threads. The clock runs inside the solve: projections
and prox are timed where they happen, and the rest of the wall time is what labrecon adds. Asked:
the whole within 1.15 times of projections and prox.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from labrecon import Problem, solve
from labrecon.priors import TV
from labrecon.solvers import FISTA
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.phantoms import random_objects
from labrecon_ct.projector import CTProjector

SIZE, VIEWS, BINS, SLICES, THREADS, ITERATIONS = 512, 180, 768, 16, 2, 20


class Clock:
    """Adds up the time spent in the functions it wraps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
            return result

        return timed


def main() -> None:
    """Print the table."""
    torch.set_num_threads(THREADS)
    angles = tuple(math.pi * i / VIEWS for i in range(VIEWS))
    geometry = CTGeometry(angles=angles, columns=BINS, volume_shape=(SIZE, SIZE))
    operator = CTProjector(geometry, backend="matrix")
    truth = random_objects(geometry, SLICES, torch.Generator().manual_seed(0))
    data = operator(truth)
    data = data + 0.01 * data.max() * torch.randn(data.shape)
    norm = operator.norm()
    prior = TV(0.05 * norm, nonneg=True)
    clock = Clock()
    operator.forward = clock.wrap("forward", operator.forward)  # type: ignore[method-assign]
    operator.adjoint = clock.wrap("adjoint", operator.adjoint)  # type: ignore[method-assign]
    prior.prox = clock.wrap("prox", prior.prox)  # type: ignore[method-assign]
    with torch.no_grad():
        solve(FISTA(prior=prior), Problem(operator, data), iterations=2)
        clock.seconds.clear()
        begin = time.perf_counter()
        solution = solve(FISTA(prior=prior), Problem(operator, data), iterations=ITERATIONS)
        whole = time.perf_counter() - begin
    error = float((solution.x - truth).norm() / truth.norm())
    parts = sum(clock.seconds.values())
    print(
        f"{SIZE}², {VIEWS} views × {BINS} bins, {SLICES} slices, {ITERATIONS} FISTA-TV iterations"
    )
    for name, seconds in clock.seconds.items():
        print(f"{name:22}{seconds:8.2f} s{1e3 * seconds / ITERATIONS / SLICES:10.2f} ms per slice")
    print(f"{'whole solve':22}{whole:8.2f} s     ratio to its parts {whole / parts:.3f}")
    print(f"relative error of the image {error:.3f}")


if __name__ == "__main__":
    main()
