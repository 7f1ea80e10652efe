"""What the framework costs in training: a step of an unrolled network against one written by hand.

Run: ``python tests/benchmarks/unrolled_training.py [--device cuda]``. It prints the ratio of the
times of a training step (forward, backward, Adam) of ten unrolled ISTA layers with learned steps
and thresholds, or a learned convolutional denoiser; asked for is at most 1.05. The two are timed in
turn in one process, each from the same weights; told is the median of the pairwise ratios. On the
processor it is the time of one thread, which the machine's other work disturbs least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from labrecon.networks import Unrolled
from labrecon.operators import Convolution, Matrix
from labrecon.prior import Prior
from labrecon.priors import L1
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solvers import ISTA
from labrecon.space import Space

LAYERS, REPEATS = 10, 31
Gradient = Callable[[Tensor], Tensor]


class Denoiser(Prior):
    """``x − cnn(x)``, the same network in all layers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        return x - self.network(x.unsqueeze(-3)).squeeze(-3)


def cnn() -> nn.Module:
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)
        )


class ByHand(nn.Module):
    """The same layers in plain torch."""

    def __init__(self, step: float, threshold: float | None, network: nn.Module | None) -> None:
        super().__init__()
        self.log_steps = nn.ParameterList(
            [nn.Parameter(torch.tensor(step).log()) for _ in range(LAYERS)]
        )
        if threshold is not None:
            self.log_thresholds = nn.ParameterList(
                [nn.Parameter(torch.tensor(threshold).log()) for _ in range(LAYERS)]
            )
        self.network = network

    def forward(self, x: Tensor, gradient: Gradient) -> Tensor:
        for k in range(LAYERS):
            step = self.log_steps[k].exp()
            x = x - step * gradient(x)
            if self.network is not None:
                x = x - self.network(x.unsqueeze(-3)).squeeze(-3)
            else:
                threshold = step * self.log_thresholds[k].exp()
                x = x.sign() * (x.abs() - threshold).clamp_min(0)
        return x


def blur(
    size: int, batch: int, device: str
) -> tuple[Problem, Tensor, Callable[[Tensor], Gradient]]:
    with seeded(1):
        truth = torch.rand(batch, size, size, device=device)
    kernel = torch.ones(5, 5, device=device) / 25
    operator = Convolution(Space((size, size)), kernel)
    padded = torch.zeros(size, size, device=device)
    padded[:5, :5] = kernel
    transfer = torch.fft.rfft2(torch.roll(padded, (-2, -2), (0, 1)))

    def make(data: Tensor) -> Gradient:
        power = transfer.abs().square()
        back = torch.fft.irfft2(transfer.conj() * torch.fft.rfft2(data), s=(size, size))
        return lambda x: torch.fft.irfft2(power * torch.fft.rfft2(x), s=(size, size)) - back

    return Problem(operator, operator(truth)), truth, make


def matrix(
    size: int, batch: int, device: str
) -> tuple[Problem, Tensor, Callable[[Tensor], Gradient]]:
    with seeded(1):
        truth = torch.rand(batch, size * size, device=device)
        a = torch.randn(size * size // 4, size * size, device=device) / size
    operator = Matrix(a, domain=Space((size, size)))

    def make(data: Tensor) -> Gradient:
        def gradient(x: Tensor) -> Tensor:
            residual = x.flatten(1) @ a.mT - data
            return (residual @ a).reshape(x.shape)

        return gradient

    truth = truth.reshape(batch, size, size)
    return Problem(operator, operator(truth)), truth, make


def compared(make: Callable, size: int, batch: int, denoise: bool, device: str) -> None:
    problem, truth, gradient = make(size, batch, device)
    prior = Denoiser(cnn()) if denoise else L1(0.01)
    learn = ["step_size"] if denoise else ["step_size", "prior.weight"]
    network = Unrolled(ISTA(prior=prior, step_size=0.3), LAYERS, learn=learn, tied=False)
    if denoise:
        # One for all layers, as by hand.
        network.solver.prior = prior
    network.to(device)
    plain = ByHand(0.3, None if denoise else 0.01, cnn() if denoise else None).to(device)
    zero = torch.zeros_like(truth)

    def ours() -> Tensor:
        return network(Problem(problem.operator, problem.data))

    def theirs() -> Tensor:
        return plain(zero, gradient(problem.data))

    with torch.no_grad():
        difference = float((ours() - theirs()).norm() / theirs().norm())
    assert difference <= 1e-4, f"not the same network: {difference:.1e}"
    steps = [trainer(ours, network, truth), trainer(theirs, plain, truth)]
    pairs = [[timed(step, device) for step in steps] for _ in range(REPEATS + 3)][3:]
    mine, plain_time = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    ratio = statistics.median(a / b for a, b in pairs)
    kind = "denoiser" if denoise else "L1"
    print(
        f"{make.__name__:6} {kind:8} {batch} x {size}²   labrecon {mine * 1e3:8.1f} ms   by hand "
        f"{plain_time * 1e3:8.1f} ms   ratio {ratio:.3f}"
    )


def trainer(run: Callable[[], Tensor], module: nn.Module, truth: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 1e-5)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        (run() - truth).square().mean().backward()
        optimiser.step()

    return step


def timed(step: Callable[[], None], device: str) -> float:
    if device == "cpu":
        begin = time.process_time()
        step()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    sizes = [(matrix, 64, 8), (blur, 128, 4), (blur, 256, 4)]
    if device != "cpu":
        sizes += [(blur, 512, 16)]
    for make, size, batch in sizes:
        for denoise in (False, True):
            compared(make, size, batch, denoise, device)


if __name__ == "__main__":
    main()
