"""Memory of a training step of an unrolled network by mode and depth, predicted and measured.

Run: ``python tests/benchmarks/network_memory.py [--device cuda]``. Asked for are "invert" at depth
100 at most 1.5 times depth 5, and predictions within 25 %. The layers are ISTA steps with a small
residual network as prior; the figures are the resident set of a process on the processor, what is
allocated on CUDA.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from labrecon.networks import Unrolled
from labrecon.networks.memory import measure_memory, plan_memory
from labrecon.operators import Convolution
from labrecon.prior import Prior, residual_inverse
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solvers import ISTA
from labrecon.space import Space


class Residual(Prior):
    """``x − f(x)`` with a small network that contracts."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.network = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1)
            )

    def residual(self, x: Tensor) -> Tensor:
        return 0.02 * self.network(x.unsqueeze(-3)).squeeze(-3)

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        return x - self.residual(x)

    def inverse(self, u: Tensor, step: Tensor | float) -> Tensor:
        return residual_inverse(lambda x: -self.residual(x), u, 2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--step", type=float, default=0.05)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size, device = options.size, options.device
    operator = Convolution(Space((size, size)), torch.full((5, 5), 1 / 25)).to(device)
    data = torch.rand(2, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    problem = Problem(operator, data)
    solver = ISTA(prior=Residual(), step_size=options.step)
    measured: dict[tuple[str, int], int] = {}
    for mode in ("store", "checkpoint", "invert"):
        for depth in (5, 20, 100):
            network = Unrolled(solver, depth, learn=["step_size"], tied=True, memory=mode)
            network = network.to(device)
            (plan,) = plan_memory(network, problem, modes=[mode])
            begin = time.perf_counter()
            found = measure_memory(network, problem).bytes
            seconds = time.perf_counter() - begin
            measured[mode, depth] = found
            print(
                f"{mode:10} depth {depth:3}   predicted {plan.bytes / 2**20:8.1f} MiB   measured "
                f"{found / 2**20:8.1f} MiB   ratio {plan.bytes / found:.2f}   {seconds:6.1f} s",
                flush=True,
            )
    ratio = measured["invert", 100] / measured["invert", 5]
    print(f"invert, depth 100 / depth 5: {ratio:.2f}")


if __name__ == "__main__":
    main()
