"""What the bridge costs on top of the external function itself.

Run: ``python tests/benchmarks/bridge_overhead.py``. Asked for: below 50 µs per call plus copies.
The two are timed in turn; the median of the pairwise differences is told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from labrecon.bridge import external
from labrecon.space import Space

CALLS, ROUNDS = 300, 15


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(CALLS):
        function()
    return (time.perf_counter() - begin) / CALLS


def difference(bridged: Callable[[], object], direct: Callable[[], object]) -> tuple[float, float]:
    pairs = [(seconds(bridged), seconds(direct)) for _ in range(ROUNDS)]
    return (
        1e6 * statistics.median(b - d for b, d in pairs),
        1e6 * statistics.median(d for _, d in pairs),
    )


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'size':>6} {'accepts':>8} {'what':>10} {'direct µs':>10} {'overhead µs':>12}")
    for n in (8, 64, 512):
        for accepts in ("numpy", "torch"):
            double = (lambda x: 2 * x) if accepts == "numpy" else (lambda x: x * 2)
            space = Space((n, n))
            a = external(double, double, domain=space, range=space, linear=True, accepts=accepts)
            x = torch.ones(n, n)
            array = x.numpy() if accepts == "numpy" else x
            free = x.clone().requires_grad_()

            def gradient(a=a, free=free, x=x) -> None:
                torch.autograd.grad(a(free), free, x)

            def twice(double=double, array=array) -> None:
                double(double(array))

            rows = {
                "forward": (lambda a=a, x=x: a(x), lambda d=double, y=array: d(y)),
                "gradient": (gradient, twice),
            }
            for what, (bridged, direct) in rows.items():
                over, alone = difference(bridged, direct)
                print(f"{n:>4}²  {accepts:>8} {what:>10} {alone:>10.1f} {over:>12.1f}")


if __name__ == "__main__":
    main()
