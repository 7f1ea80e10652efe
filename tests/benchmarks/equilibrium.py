"""What a training step of an equilibrium costs: time and memory by way of differentiation.

Run: ``python tests/benchmarks/equilibrium.py [--device cuda]``. DE-Prox with five convolutions of
16 channels on blurred images. The first table times training steps (forward, backward) whose fixed
point is met to the same tolerance; asked for is that "jfb" is at least five times faster than
"implicit". The second counts the bytes alive at the peak of a step against iterations; asked for is
that an equilibrium's do not depend on them. On the processor it is the time of one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch

from labrecon.networks import Equilibrium, Unrolled
from labrecon.networks.fixed_point import ConvergenceWarning
from labrecon.networks.meter import Meter
from labrecon.operators import Convolution
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.priors.spectral import spectral_normalised
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.schedule import Schedule
from labrecon.seeds import seeded
from labrecon.solver import Solver
from labrecon.solvers import ISTA
from labrecon.space import Space

SIZE, BATCH, REPEATS = 64, 4, 5


def example(device: str) -> tuple[Problem, torch.Tensor]:
    """Smooth random images, blurred."""
    generator = torch.Generator().manual_seed(0)
    ticks = torch.arange(-6, 7).float()
    line = torch.exp(-0.5 * (ticks / 1.6) ** 2)
    kernel = line[:, None] * line
    blur = Convolution(Space((SIZE, SIZE)), kernel / kernel.sum())
    x = blur(torch.randn(BATCH, SIZE, SIZE, generator=generator)).sign()
    data = blur(x) + 0.01 * torch.randn(x.shape, generator=generator)
    return Problem(blur.to(device), data.to(device)), x.to(device)


def step_of(contraction: float, device: str) -> Solver:
    """A DE-Prox step whose denoiser, ``x − r(x)`` with ``‖r‖ < 1``, is set to shrink a little."""
    with seeded(0):
        network = DnCNN(1, features=16, depth=5, batch_norm=False)
    denoiser = Denoiser(spectral_normalised(network, bound=contraction))
    return ISTA(prior=denoiser, step_size=Schedule(1.0, learn=True)).to(device)


def seconds(net: Reconstructor, problem: Problem, truth: torch.Tensor) -> float:
    """The median time of a training step."""
    clock = time.perf_counter if problem.data.is_cuda else time.process_time
    times = []
    for _ in range(REPEATS):
        net.zero_grad(set_to_none=True)
        begin = clock()
        (net(problem) - truth).square().mean().backward()
        if problem.data.is_cuda:
            torch.cuda.synchronize()
        times.append(clock() - begin)
    return statistics.median(times)


def counted(net: Reconstructor, problem: Problem, truth: torch.Tensor) -> float:
    """The peak of a training step in bytes."""
    net.zero_grad(set_to_none=True)
    with Meter() as meter:
        (net(problem) - truth).square().mean().backward()
    return float(meter.peak)


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser()
    options.add_argument("--device", default="cpu")
    device = options.parse_args().device
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    problem, truth = example(device)
    solver = step_of(1.0, device)
    modes: dict[str, Callable[[], Reconstructor]] = {
        f"{backward:9} {find}": lambda b=backward, f=find: Equilibrium(
            solver, find=f, backward=b, iterations=100, tolerance=1e-4, start="adjoint"
        )
        for find in ("anderson", "broyden", "picard")
        for backward in ("implicit", "phantom", "jfb")
    }
    modes["unrolled, 40 layers"] = lambda: Unrolled(solver, 40, start="adjoint")
    print(f"{'a training step':22} iterations      ms")
    for name, make in modes.items():
        net = make()
        told = net.reconstruct(problem).told
        spent = seconds(net, problem, truth)
        print(f"{name:22} {told['iterations']:10.0f} {1e3 * spent:7.1f}")
    print(f"\n{'peak of a step, MiB':22} " + " ".join(f"{n:>7}" for n in (20, 50, 200)))
    for backward in ("implicit", "jfb", "unrolled"):
        peaks = []
        for n in (20, 50, 200):
            net = (
                Unrolled(solver, n, start="adjoint")
                if backward == "unrolled"
                else Equilibrium(
                    solver, backward=backward, iterations=n, tolerance=1e-30, start="adjoint"
                )
            )
            peaks.append(counted(net, problem, truth) / 2**20)
        print(f"{backward:22} " + " ".join(f"{peak:7.1f}" for peak in peaks))


if __name__ == "__main__":
    main()
