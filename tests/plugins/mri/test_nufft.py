"""The NUFFT: every backend against the sums as they are defined, and its derivatives."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import CG
from labrecon_mri.backends import ACCURACY, BackendError, find_backend
from labrecon_mri.density import pipe_menon
from labrecon_mri.nufft import NUFFT
from labrecon_mri.sums import type1, type2

C64, C128 = torch.complex64, torch.complex128
CPU = torch.device("cpu")
BACKENDS = ("finufft", "torchkbnufft", "sigpy")
# physics.md 2.2, by backend and precision; ours are asked to be as good or better.
BOUND = {
    ("finufft", C64): 3e-5,
    ("finufft", C128): 3e-12,
    ("torchkbnufft", C64): 1e-5,
    ("torchkbnufft", C128): 1e-5,
    ("sigpy", C64): 1e-5,
    ("sigpy", C128): 1e-5,
}


def points(m: int, ndim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(m, ndim, generator=generator, dtype=torch.float64) - 0.5) * 2 * math.pi


def normal(*shape: int, dtype: torch.dtype = C64, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def exact(x: torch.Tensor, omega: torch.Tensor) -> np.ndarray:
    """The definition in NumPy: axes in the order of x, r counted from N//2."""
    values, phase = x.numpy(), 0.0
    for axis, n in enumerate(values.shape):
        r = np.arange(n) - n // 2
        shape = [len(omega), *[1] * values.ndim]
        shape[axis + 1] = n
        phase = phase + (omega[:, axis].numpy()[:, None] * r).reshape(shape)
    return (values * np.exp(-1j * phase)).reshape(len(omega), -1).sum(1)


@pytest.mark.parametrize("shape", [(33, 40), (12, 13, 14)])
@pytest.mark.parametrize("dtype", [C64, C128])
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_against_the_sums(backend: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    omega, x = points(300, len(shape)), normal(2, *shape, dtype=dtype)
    expected = np.stack([exact(each.to(C128), omega) for each in x])
    y = type2(x, omega, backend)
    assert y.dtype == dtype
    bound = BOUND[backend, dtype]
    assert np.linalg.norm(y.numpy() - expected) / np.linalg.norm(expected) < bound
    # The adjoint is the transpose of the backend's own forward, to rounding.
    v = normal(2, 300, dtype=dtype, seed=2)
    a, b = (v.conj() * y).sum(), (type1(v, omega, shape, backend).conj() * x).sum()
    assert abs(a - b) / abs(a) < (3e-5 if dtype == C64 else 1e-11)
    reference = type1(v.to(C128), omega, shape, "exact")
    back = type1(v, omega, shape, backend)
    assert float((back - reference).norm() / reference.norm()) < bound


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["exact", "finufft"])
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 2)])
def test_first_and_second_derivatives(backend: str, shape: tuple[int, ...]) -> None:
    omega = points(4, len(shape)).requires_grad_()
    x = normal(2, *shape, dtype=C128).requires_grad_()
    y = normal(2, 4, dtype=C128).requires_grad_()

    def forward(x: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
        return type2(x, omega, backend)

    def back(y: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
        return type1(y, omega, shape, backend)

    for function, value in ((forward, x), (back, y)):
        assert torch.autograd.gradcheck(function, (value, omega))
        assert torch.autograd.gradgradcheck(function, (value, omega))


def test_several_trajectories_at_once() -> None:
    k = torch.stack([points(12, 2, seed) for seed in range(3)]).reshape(3, 2, 6, 2) * 5
    together = NUFFT((8, 9), (0.2, 0.25), k, frames=("frame",), dtype=C128)
    x = normal(2, 3, 8, 9, dtype=C128)
    y = together(x)
    assert together.range.axes == ("frame", "shot", "sample")
    for i in range(3):
        alone = NUFFT((8, 9), (0.2, 0.25), k[i], dtype=C128)
        assert torch.allclose(y[:, i], alone(x[:, i]))
        assert torch.allclose(together.adjoint(y)[:, i], alone.adjoint(y[:, i]))
        assert torch.allclose(together.normal(x)[:, i], alone.normal(x[:, i]))


def test_convention() -> None:
    """A point off the centre turns the phase of k-space by exp(−i2π k·r), orthonormally."""
    matrix, fov = (16, 20), (0.16, 0.25)
    k = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, -7.0]]], dtype=torch.float64)
    x = torch.zeros(matrix, dtype=C128)
    x[3, 14] = 1.0
    r = torch.tensor([(3 - 8) * 0.16 / 16, (14 - 10) * 0.25 / 20], dtype=torch.float64)
    expected = torch.exp(-2j * math.pi * (k @ r)) / 320**0.5
    assert torch.allclose(NUFFT(matrix, fov, k, dtype=C128)(x), expected)


def test_on_grid_points_it_is_the_fft() -> None:
    n = 12
    steps = (torch.arange(n) - n // 2) / 0.24
    k = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)
    nufft = NUFFT((n, n), (0.24, 0.24), k, dtype=C128)
    x = normal(n, n, dtype=C128)
    shifted = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x), norm="ortho"))
    assert torch.allclose(nufft(x), shifted)
    assert torch.allclose(nufft.normal(x), x)
    assert torch.allclose(nufft.initial(shifted), x, atol=0.02 * float(x.abs().max()))


def radial(spokes: int, samples: int, matrix: int, fov: float) -> torch.Tensor:
    angle = torch.arange(spokes, dtype=torch.float64) * math.pi / spokes
    r = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples * matrix / fov
    return torch.stack([angle.sin()[:, None] * r, angle.cos()[:, None] * r], -1)


@pytest.mark.parametrize("shape", [(24, 30), (10, 12, 8)])
def test_toeplitz_is_the_normal_operator(shape: tuple[int, ...]) -> None:
    omega = points(90, len(shape)).reshape(9, 10, len(shape))
    fov = [0.2] * len(shape)
    k = omega / (2 * math.pi) * torch.tensor(shape) / 0.2
    nufft = NUFFT(shape, fov, k, dtype=C128)
    x = normal(2, *shape, dtype=C128)
    weights = torch.rand(9, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = nufft.adjoint(weights * nufft(x))
    found = nufft.normal(x, weights)
    assert float((found - expected).norm() / expected.norm()) < 1e-8
    # A weight per coil is a kernel per coil.
    per_coil = torch.stack([weights, 1 - weights])
    expected = nufft.adjoint(per_coil * nufft(x))
    assert float((nufft.normal(x, per_coil) - expected).norm() / expected.norm()) < 1e-8
    w = weights.clone().requires_grad_()
    (by_kernel,) = torch.autograd.grad(nufft.normal(x, w).abs().square().sum(), w)
    (by_two,) = torch.autograd.grad(nufft.adjoint(w * nufft(x)).abs().square().sum(), w)
    assert torch.allclose(by_kernel, by_two, rtol=1e-6)


def test_the_kernel_follows_the_trajectory() -> None:
    nufft = NUFFT((16, 16), (0.2, 0.2), radial(5, 16, 16, 0.2), dtype=C128)
    x = normal(16, 16, dtype=C128)
    before = nufft.normal(x)
    with torch.no_grad():
        nufft.trajectory.mul_(0.7)
    expected = nufft.adjoint(nufft(x))
    assert float((before - expected).norm() / expected.norm()) > 0.1
    assert float((nufft.normal(x) - expected).norm() / expected.norm()) < 1e-8


def test_gradient_of_a_solve_by_the_trajectory() -> None:
    """Through CG, against central differences."""
    start = radial(6, 12, 8, 0.2)
    x = normal(8, 8, dtype=C128)
    y = NUFFT((8, 8), (0.2, 0.2), start, dtype=C128)(x)
    nufft = NUFFT((8, 8), (0.2, 0.2), start, dtype=C128)
    (k,) = nufft.learn("trajectory")
    direction = torch.randn(k.shape, generator=torch.Generator().manual_seed(5), dtype=k.dtype)

    def loss() -> torch.Tensor:
        solver, problem = CG(rho=0.1), Problem(nufft, y)
        state = solver.init(problem)
        for _ in range(4):
            state, _ = solver.step(problem, state)
        return (solver.estimate(state) - x).abs().square().sum()

    (gradient,) = torch.autograd.grad(loss(), k)
    slope, h = float((gradient * direction).sum()), 1e-4
    with torch.no_grad():
        k.add_(h * direction)
        ahead = float(loss())
        k.sub_(2 * h * direction)
        behind = float(loss())
    assert slope == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


def test_density_against_sigpy() -> None:
    import sigpy.mri

    k = radial(201, 64, 64, 0.2)
    ours = pipe_menon((64, 64), (0.2, 0.2), k)
    theirs = sigpy.mri.pipe_menon_dcf(k.numpy() * 0.2, img_shape=(64, 64), show_pbar=False)
    size = k.square().sum(-1).sqrt() * 0.2
    # The outermost samples stand for more or less of what is not covered, as kernels differ.
    ring = (size > 2) & (size < 28)
    a, b = ours[ring], torch.from_numpy(np.asarray(theirs)).float()[ring]
    b = b * (a * b).sum() / b.square().sum()
    assert float((a - b).norm() / a.norm()) < 0.02
    assert bool((ours > 0).all())


def test_density_of_a_radial_ramp() -> None:
    """Beyond the sampled disc's centre, spokes stand for areas that grow with |k|."""
    k = radial(201, 64, 64, 0.2)
    density = pipe_menon((64, 64), (0.2, 0.2), k)
    size = k.square().sum(-1).sqrt() * 0.2
    ring = (size > 4) & (size < 26)
    ratio = density[ring] / size[ring].float()
    assert float(ratio.std() / ratio.mean()) < 0.01


def test_gridding_of_a_fully_sampled_radial_scan() -> None:
    from labrecon_mri.geometry import MRIGeometry
    from labrecon_mri.phantoms import random_objects

    geometry = MRIGeometry(matrix=(64, 64), fov=(0.2, 0.2))
    x = random_objects(geometry, 1, torch.Generator().manual_seed(0))[0]
    nufft = NUFFT((64, 64), (0.2, 0.2), radial(120, 128, 64, 0.2))
    y = nufft(x)
    gridded = nufft.initial(y)
    assert float((gridded - x).norm() / x.norm()) < 0.08
    least_squares = solve(CG(), Problem(nufft, y), iterations=20).x
    assert float((least_squares - x).norm() / x.norm()) < 0.04


@pytest.mark.slow
def test_torchkbnufft_neither_aborts_nor_warns() -> None:
    """Its tables' threads can abort a process that exits at once: ours do not use them."""
    code = (
        "import torch; from labrecon_mri.sums import type2;"
        "y = type2(torch.ones(1, 32, 32, dtype=torch.complex64),"
        "torch.zeros(2000, 2, dtype=torch.float64), 'torchkbnufft'); print(float(y[0, 0].real))"
    )
    for _ in range(3):
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        assert float(told.stdout) == pytest.approx(1024, rel=1e-4)
        assert told.stderr == ""


def test_refusals() -> None:
    with pytest.raises(BackendError, match=r"not installed|computes on CUDA"):
        find_backend("cufinufft", CPU)
    with pytest.raises(BackendError, match="one of finufft"):
        find_backend("fftw", CPU)
    with pytest.raises(ValueError, match="2 components"):
        NUFFT((8, 8), (0.2, 0.2), torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="NaN"):
        NUFFT((8, 8), (0.2, 0.2), torch.full((1, 4, 2), math.nan))
    assert set(ACCURACY) >= set(BACKENDS)


def _has(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


@pytest.mark.cuda
@pytest.mark.parametrize("backend", ["cufinufft", "torchkbnufft"])
@pytest.mark.parametrize("shape", [(33, 40), (12, 13, 14)])
def test_cuda_against_the_cpu(backend: str, shape: tuple[int, ...]) -> None:
    if not _has(backend):
        pytest.skip(f"{backend} is not installed")
    omega, x = points(300, len(shape)), normal(2, *shape)
    v = normal(2, 300, seed=2)
    expected = type2(x.to(C128), omega, "exact"), type1(v.to(C128), omega, shape, "exact")
    on_device = omega.cuda()
    found = type2(x.cuda(), on_device, backend), type1(v.cuda(), on_device, shape, backend)
    for a, b in zip(found, expected, strict=True):
        assert float((a.cpu() - b).norm() / b.norm()) < 2e-4
    k = (omega / (2 * math.pi) * torch.tensor(shape) / 0.2).reshape(3, 100, -1)
    fov = [0.2] * len(shape)
    cpu = NUFFT(shape, fov, k)
    gpu = NUFFT(shape, fov, k, backend=backend).cuda()
    reference = cpu.normal(x)
    assert float((gpu.normal(x.cuda()).cpu() - reference).norm() / reference.norm()) < 2e-4
    (k_gpu,) = gpu.learn("trajectory")
    (k_cpu,) = cpu.learn("trajectory")
    (on_gpu,) = torch.autograd.grad(gpu(x.cuda()).abs().square().sum(), k_gpu)
    (on_cpu,) = torch.autograd.grad(cpu(x).abs().square().sum(), k_cpu)
    assert float((on_gpu.cpu() - on_cpu).norm() / on_cpu.norm()) < 2e-3
