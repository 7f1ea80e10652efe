"""Speed and accuracy of the NUFFT beside its peers: ``python tests/benchmarks/mri_nufft.py``.

256² pixels, 8 coils, 96 spokes of 512 samples. ``--cuda`` does it on a GPU (cufinufft against
torchkbnufft), ``--volume`` measures 128³ by 8 coils. Peers are timed in the same run; each figure
is the median of several.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import CG
from labrecon_mri.nufft import NUFFT
from labrecon_mri.phantoms import birdcage_maps
from labrecon_mri.sense import Sense
from labrecon_mri.sums import type2

N, COILS, SPOKES, SAMPLES, FOV = 256, 8, 96, 512, 0.2
ROUNDS = 15


def spokes(count: int, samples: int) -> torch.Tensor:
    angle = torch.arange(count, dtype=torch.float64) * math.pi / count
    r = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples * N / FOV
    return torch.stack([angle.sin()[:, None] * r, angle.cos()[:, None] * r], -1)


def clock(function: Callable[[], object], cuda: bool = False, rounds: int = ROUNDS) -> float:
    """Median in ms, after two calls to warm up."""
    function()
    function()
    times = []
    for _ in range(rounds):
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def accuracy(device: str) -> None:
    print("\nrelative error against the exact sums, complex64 / complex128")
    names = (
        ("finufft", "torchkbnufft", "sigpy") if device == "cpu" else ("cufinufft", "torchkbnufft")
    )
    generator = torch.Generator().manual_seed(0)
    for n in (64, 256):
        omega = (torch.rand(4000, 2, generator=generator, dtype=torch.float64) - 0.5) * 2 * math.pi
        x = torch.randn(2, n, n, dtype=torch.complex128, generator=generator)
        exact = type2(x, omega, "exact").to(device)
        for name in names:
            told = []
            for dtype in (torch.complex64, torch.complex128):
                y = type2(x.to(device, dtype), omega.to(device), name)
                told.append(f"{float((y - exact).norm() / exact.norm()):.1e}")
            print(f"  {n}²  {name:14}", " / ".join(told))


def torchkbnufft_pair(omega: torch.Tensor, x: torch.Tensor) -> tuple[Callable, Callable]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchkbnufft

        plan = torchkbnufft.KbNufft((N, N)).to(x.device)
        back = torchkbnufft.KbNufftAdjoint((N, N)).to(x.device)
    points = omega.mT.float().contiguous()
    y = plan(x[None], points)
    return lambda: plan(x[None], points), lambda: back(y, points)


def transforms(device: str) -> None:
    cuda = device == "cuda"
    k, maps = spokes(SPOKES, SAMPLES), birdcage_maps(COILS, (N, N)).to(device)
    nufft = NUFFT((N, N), (FOV, FOV), k).to(device)
    x = torch.randn(COILS, N, N, dtype=torch.complex64, device=device)
    y = nufft(x)
    omega = nufft.omega().detach()
    forward, adjoint = clock(lambda: nufft(x), cuda), clock(lambda: nufft.adjoint(y), cuda)
    other, back = torchkbnufft_pair(omega, x)
    peer, peer_back = clock(other, cuda), clock(back, cuda)
    print(f"\n{'':34}{'forward ms':>12}{'adjoint ms':>12}")
    print(f"  labrecon{'':24}{forward:12.2f}{adjoint:12.2f}")
    print(f"  torchkbnufft (its tables){'':7}{peer:12.2f}{peer_back:12.2f}")
    print(f"  ratio{'':27}{peer / forward:12.1f}{peer_back / adjoint:12.1f}")
    if not cuda:
        theirs(k, x, y)
    sense = Sense(nufft, maps[None])
    image = torch.randn(N, N, dtype=torch.complex64, device=device)
    once = sense.normal_map()
    normal = clock(lambda: once(image), cuda)
    padded = torch.randn(COILS, 2 * N, 2 * N, dtype=torch.complex64, device=device)
    batched = clock(lambda: torch.fft.ifft2(torch.fft.fft2(padded)), cuda)
    single = clock(lambda: [torch.fft.ifft2(torch.fft.fft2(each)) for each in padded], cuda)
    made = clock(lambda: sense.normal_map(torch.ones(SPOKES, SAMPLES, device=device)), cuda, 5)
    print(
        f"\n  normal operator, 8 coils {normal:8.2f} ms (its kernel, once a solve: {made:.1f} ms)"
    )
    print(f"  torchkbnufft forward + adjoint: {(peer + peer_back) / normal:.1f} times as long")
    print(f"  bare FFT pairs of 512²: {batched:.2f} ms together, {single:.2f} ms one by one; ")
    print(f"  normal / bare: {normal / batched:.2f}, {normal / single:.2f}")


def theirs(k: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
    import sigpy

    points = (k * FOV).numpy()
    values = x.numpy()
    for label, options in (("sigpy (default)", {}), ("sigpy (2, 6)", {"oversamp": 2, "width": 6})):
        one = clock(lambda o=options: sigpy.nufft(values, points, **o), rounds=3)
        two = clock(
            lambda o=options: sigpy.nufft_adjoint(y.numpy(), points, x.shape, **o), rounds=3
        )
        print(f"  {label:32}{one:12.2f}{two:12.2f}")


def cg_sense() -> None:
    """Thirty iterations, from data to image, the preparation of each included."""
    import sigpy

    k, maps = spokes(SPOKES, SAMPLES), birdcage_maps(COILS, (N, N))
    u = torch.linspace(-1, 1, N)
    x = torch.exp(-4 * (u[:, None] ** 2 + u[None] ** 2)).to(torch.complex64)
    y = Sense(NUFFT((N, N), (FOV, FOV), k), maps[None])(x)

    def ours() -> torch.Tensor:
        sense = Sense(NUFFT((N, N), (FOV, FOV), k), maps[None])
        return solve(CG(rho=0.01), Problem(sense, y), iterations=30, objective=False).x

    def sigpys(**options: float) -> np.ndarray:
        nufft = sigpy.linop.NUFFT((COILS, N, N), (k * FOV).numpy(), **options)
        model = nufft * sigpy.linop.Multiply((N, N), maps.numpy())
        return sigpy.app.LinearLeastSquares(
            model, y.numpy(), lamda=0.01, max_iter=30, show_pbar=False
        ).run()

    def mri_nuffts() -> np.ndarray:
        from mrinufft import get_operator
        from mrinufft.extras.optim import cg

        points = (k * FOV / N).reshape(-1, 2).numpy().astype(np.float32)
        operator = get_operator("finufft")(
            points, (N, N), n_coils=COILS, smaps=maps.numpy(), squeeze_dims=True
        )
        return cg(operator, y.reshape(COILS, -1).numpy(), damp=0.01, max_iter=30, tol=0,
                  progressbar=False)  # fmt: skip

    print("\n30 CG-SENSE iterations, 8 coils, s")
    for label, run in (
        ("labrecon", ours),
        ("sigpy (default NUFFT)", sigpys),
        ("sigpy (2, 6)", lambda: sigpys(oversamp=2, width=6)),
        ("mri-nufft (finufft)", mri_nuffts),
    ):
        try:
            print(f"  {label:28}{clock(run, rounds=3) / 1e3:8.2f}")
        except Exception as error:
            print(f"  {label:28} not run: {type(error).__name__}: {error}")


def volume(device: str) -> None:
    n, coils, shots, samples = 128, 8, 2000, 256
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(shots, 1, 3, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    r = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples * n / FOV
    nufft = NUFFT((n,) * 3, (FOV,) * 3, direction * r[:, None]).to(device)
    maps = torch.randn(1, coils, n, n, n, dtype=torch.complex64, generator=generator).to(device)
    sense = Sense(nufft, maps, chunk=1)
    x = torch.randn(n, n, n, dtype=torch.complex64, device=device)
    cuda = device == "cuda"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    y = sense(x)
    forward = clock(lambda: sense(x), cuda, 3)
    adjoint = clock(lambda: sense.adjoint(y), cuda, 3)
    once = sense.normal_map()
    normal = clock(lambda: once(x), cuda, 3)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    told = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of the GPU" if cuda else (
        f"{after:.2f} GiB at most, {before:.2f} before (maps {maps.numel() * 8 / 2**30:.2f})"
    )  # fmt: skip
    print(
        f"\n128³, 8 coils one by one, {shots} × {samples} samples: forward {forward / 1e3:.2f} s, "
        f"adjoint {adjoint / 1e3:.2f} s, normal {normal / 1e3:.2f} s; {told}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--volume", action="store_true")
    asked = parser.parse_args()
    device = "cuda" if asked.cuda else "cpu"
    where = torch.cuda.get_device_name() if asked.cuda else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__} on {where}")
    if asked.volume:
        return volume(device)
    accuracy(device)
    transforms(device)
    if not asked.cuda:
        cg_sense()
    return None


if __name__ == "__main__":
    main()
