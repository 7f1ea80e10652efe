"""Learned primal-dual trained at full size: published on Shepp-Logan, 128² and 30 views, 38.28 dB.

Run with ``PYTHONPATH=.:tests``. Where ASTRA is installed, ``--prepare`` writes the projection
matrix. Then ``--device cuda --seconds 420 --graph``, also on a machine that has torch and NumPy
only, with the matrix at its place.

The published training: Adam (β₂ 0.99, rate 10⁻³ falling to 0 as a cosine), gradients clipped at 1,
five new ellipse phantoms every ten steps, 100 000 steps. Here the cosine spans the time given.
``--graph`` replays each step as one CUDA graph, which saves the launches of its many small kernels.
TV, to compare with, has the best weight of a list, chosen on the truth.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from ellipses import LPD, shepp_logan
from sparse_view import best_total_variation, mean_psnr, measured, of_norm_one, projector
from torch import Tensor, nn

from labrecon.networks.learned_primal_dual import make_lpd
from labrecon.operator import Operator
from labrecon.operators import SparseMatrix
from labrecon.problem import Problem
from labrecon.space import Space

BATCH, REUSED, POOL, RATE = 5, 10, 500, 1e-3
WEIGHTS = [1e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 3.5e-4, 5e-4, 1e-3]
FOLDER = Path(__file__).parents[2] / "dist"


def prepare(path: Path, size: int) -> None:
    """Write the plugin's projection matrix in compressed rows."""
    operator = projector(size)
    operator(operator.domain.zeros())
    matrix = operator._built.matrix
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        path,
        start=matrix.crow_indices().numpy(),
        index=matrix.col_indices().numpy(),
        value=matrix.values().numpy(),
        shape=operator.range.shape,
    )
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def load(path: Path, size: int, device: torch.device) -> Operator:
    """The projector of norm 1 on a device."""
    with np.load(path) as stored:
        parts = [torch.from_numpy(stored[key]) for key in ("start", "index", "value")]
        shape = tuple(int(n) for n in stored["shape"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(*parts, (math.prod(shape), size**2), check_invariants=True)
    operator = SparseMatrix(matrix, Space((size, size)), Space(shape))
    return of_norm_one(operator).to(device)


def batches(operator: Operator, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """New phantoms and their data, without end; phantoms are drawn in large pools."""
    generator = torch.Generator(device).manual_seed(0)
    while True:
        pool = LPD.draw(POOL, operator.domain.shape[0], generator)
        for truth in pool.split(BATCH):
            yield truth, measured(operator, truth, generator)


class Training:
    """The network, its optimiser, and one step on tensors that keep their place in memory."""

    def __init__(self, operator: Operator, device: torch.device) -> None:
        self.operator = operator
        self.truth = operator.domain.zeros(BATCH, device=device)
        self.data = operator.range.zeros(BATCH, device=device)
        self.network = make_lpd(Problem(operator, self.data)).to(device)
        # A tensor, so that a recorded step follows it.
        rate = torch.tensor(RATE, device=device) if device.type == "cuda" else RATE
        self.optimiser = torch.optim.Adam(
            self.network.parameters(),
            lr=rate,
            betas=(0.9, 0.99),
            capturable=device.type == "cuda",
        )
        self.loss = torch.zeros((), device=device)

    def take(self, truth: Tensor, data: Tensor) -> None:
        """The batch of the steps to come."""
        self.truth.copy_(truth)
        self.data.copy_(data)

    def step(self) -> None:
        """One step of the optimiser."""
        self.optimiser.zero_grad(set_to_none=True)
        x = self.network(Problem(self.operator, self.data))
        loss = nn.functional.mse_loss(x, self.truth)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.loss.copy_(loss.detach())

    def set_rate(self, rate: float) -> None:
        """The rate of the steps to come."""
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def graphed(self) -> Callable[[], None]:
        """`step` as one CUDA graph, or as it is where that can not be recorded."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.step()
        except RuntimeError as error:
            print(f"no CUDA graph, steps are launched one by one: {error}")
            return self.step
        return graph.replay

    def score(self, data: Tensor, truth: Tensor) -> float:
        """PSNR on images that it was not trained on."""
        with torch.no_grad():
            return mean_psnr(self.network(Problem(self.operator, data)), truth)


def main() -> None:
    """Train for some time and print what it reaches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="write the matrix, and end")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between lines")
    parser.add_argument("--graph", action="store_true", help="replay steps as a CUDA graph")
    parser.add_argument("--save", type=Path, help="write the weights (a state dict)")
    given = parser.parse_args()
    path = FOLDER / f"projector_{given.size}.npz"
    if given.prepare:
        prepare(path, given.size)
        return
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__} on {name}, {given.size}²", flush=True)
    operator = load(path, given.size, device)
    generator = torch.Generator(device).manual_seed(100)
    truths = {
        "Shepp-Logan": shepp_logan(given.size).to(device).expand(5, -1, -1),
        "ellipses": LPD.draw(16, given.size, generator),
    }
    data = {key: measured(operator, truth, generator) for key, truth in truths.items()}
    for key, truth in truths.items():
        tv = best_total_variation(operator, data[key], truth, WEIGHTS)
        print(f"{key}, {len(truth)} images: TV {tv:.2f} dB", flush=True)

    training = Training(operator, device)
    source = batches(operator, device)
    training.take(*next(source))
    step = training.graphed() if given.graph and device.type == "cuda" else training.step

    def tell(seconds: float) -> None:
        scores = [training.score(data[key], truths[key]) for key in truths]
        told = " ".join(f"{score:12.2f}" for score in scores)
        print(f"{seconds:8.0f} {steps:7d} {float(training.loss):10.2e} {told}", flush=True)

    print(f"{'seconds':>8} {'steps':>7} {'loss':>10} " + " ".join(f"{k:>12}" for k in truths))
    begin = shown = time.perf_counter()
    steps = 0
    while (elapsed := time.perf_counter() - begin) < given.seconds:
        training.take(*next(source))
        training.set_rate(RATE * 0.5 * (1 + math.cos(math.pi * elapsed / given.seconds)))
        for _ in range(REUSED):
            step()
        steps += REUSED
        # Waits for the device, so that the clock is its own.
        float(training.loss)
        if time.perf_counter() - shown >= given.every:
            shown = time.perf_counter()
            tell(shown - begin)
    tell(elapsed)
    print(f"{1e3 * elapsed / steps:.1f} ms per step")
    if given.save is not None:
        torch.save(training.network.state_dict(), given.save)


if __name__ == "__main__":
    main()
