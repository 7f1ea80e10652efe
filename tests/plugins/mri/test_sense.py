"""Coil arrays: SENSE against its definition, sigpy's CG-SENSE, and itself in chunks."""

import math
import pickle

import numpy as np
import pytest
import torch

from labrecon import Space
from labrecon.operators import MaskedFourier
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import CG
from labrecon.testing import check_operator
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.nufft import NUFFT
from labrecon_mri.off_resonance import TimeSegmented, segments_for
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.sense import Sense

C64, C128 = torch.complex64, torch.complex128
FOV = (0.2, 0.2)


def normal(*shape: int, dtype: torch.dtype = C128, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def spokes(count: int, samples: int, n: int) -> torch.Tensor:
    angle = torch.arange(count, dtype=torch.float64) * math.pi / count
    r = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples * n / FOV[0]
    return torch.stack([angle.sin()[:, None] * r, angle.cos()[:, None] * r], -1)


def samplings() -> dict[str, tuple[MaskedFourier | NUFFT | TimeSegmented, dict[str, int]]]:
    n, frames = 12, {"slice": 3}
    lines = (torch.arange(3 * n).reshape(3, n, 1) % 2).double()
    k = torch.stack([spokes(5, 16, n) * scale for scale in (1.0, 0.9, 0.8)])
    field = torch.linspace(-40, 60, n * n).reshape(n, n)
    times = torch.linspace(1e-3, 9e-3, 16, dtype=torch.float64)
    space, framed = Space((n, n), C128, ("y", "x")), Space((3, n, n), C128, ("slice", "y", "x"))
    shared = NUFFT((n, n), FOV, k[0], dtype=C128)
    return {
        "cartesian": (MaskedFourier(space, lines[0]), {}),
        "cartesian, slices": (MaskedFourier(space, lines[0]), frames),
        "cartesian, a mask each": (MaskedFourier(framed, lines, (-2, -1)), frames),
        "radial": (shared, {}),
        "radial, slices": (NUFFT((n, n), FOV, k[0], dtype=C128), frames),
        "radial, a trajectory each": (NUFFT((n, n), FOV, k, frames=("slice",), dtype=C128), frames),
        "off-resonance": (TimeSegmented(NUFFT((n, n), FOV, k[0], dtype=C128), field, times), {}),
    }


@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("chunk", [1, 2, 8])
@pytest.mark.parametrize("name", samplings())
def test_definition(name: str, chunk: int, sets: int) -> None:
    """``y_c = F(Σ_s S_{s,c} x_s)`` coil by coil, frame by frame."""
    sampling, frames = samplings()[name]
    several = tuple(frames.values())
    maps = normal(*several, sets, 4, 12, 12)
    sense = Sense(sampling, maps, frames, chunk=chunk)
    x = normal(2, *sense.domain.shape)
    images = x if sets > 1 else x.unsqueeze(-3)
    expected = []
    for coil in range(4):
        seen = (maps[..., coil, :, :] * images).sum(-3)
        expected.append(sampling(seen))
    axis = -sampling.range.ndim + len(several) - 1 if _framed(sampling, frames) else None
    axis = axis if axis is not None else -sampling.range.ndim - 1
    assert torch.allclose(sense(x), torch.stack(expected, axis), atol=1e-6)
    y = normal(2, *sense.range.shape, seed=2)
    a, b = (y.conj() * sense(x)).sum(), (sense.adjoint(y).conj() * x).sum()
    assert abs(a - b) < 1e-9 * abs(a)
    reference = sense.adjoint(sense(x))
    assert float((sense.normal(x) - reference).norm() / reference.norm()) < 1e-6
    weights = torch.rand(sense.range.shape[-2:], dtype=torch.float64)
    reference = sense.adjoint(weights * sense(x))
    assert float((sense.normal(x, weights) - reference).norm() / reference.norm()) < 1e-6
    each = torch.rand(sense.range.shape, dtype=torch.float64)
    reference = sense.adjoint(each * sense(x))
    assert float((sense.normal(x, each) - reference).norm() / reference.norm()) < 1e-6


@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.parametrize("name", samplings())
def test_weights_of_each_element_of_a_batch(name: str, batch: int) -> None:
    """The coils alike, or each with its own; also where there are as many elements as coils."""
    sampling, frames = samplings()[name]
    sense = Sense(sampling, normal(*frames.values(), 1, 4, 12, 12), frames, chunk=2)
    x = normal(batch, *sense.domain.shape)
    coils = sense.range.axes.index("coil")
    alike = list(sense.range.shape)
    alike[coils] = 1
    generator = torch.Generator().manual_seed(3)
    for shape in ([batch, *alike], [batch, *sense.range.shape], [1, *alike]):
        weights = torch.rand(shape, dtype=torch.float64, generator=generator)
        reference = sense.adjoint(weights * sense(x))
        for result in (sense.normal(x, weights), sense.normal_map(weights)(x)):
            assert float((result - reference).norm() / reference.norm()) < 1e-6


def _framed(sampling: MaskedFourier | NUFFT | TimeSegmented, frames: dict[str, int]) -> bool:
    return bool(frames) and sampling.domain.axes[0] == "slice"


@pytest.mark.parametrize("name", ["cartesian", "radial, a trajectory each", "off-resonance"])
def test_conformance(name: str) -> None:
    def make() -> Sense:
        sampling, frames = samplings()[name]
        return Sense(sampling, normal(*frames.values(), 2, 3, 12, 12), frames)

    check_operator(make, calls=20, skip=("memory",))


@pytest.mark.parametrize(("dtype", "iterations"), [(C64, 15), (C128, 30)])
def test_cg_sense_against_sigpy(dtype: torch.dtype, iterations: int) -> None:
    """8 coils, radial: 1e-3 of sigpy with a grid of 2 and a width of 6.

    In single precision rounding alone takes CG 1e-2 off its way after some 30 iterations.
    """
    import sigpy

    n, coils = 64, 8
    maps = birdcage_maps(coils, (n, n)).to(dtype)
    k = spokes(30, 128, n)
    sense = Sense(NUFFT((n, n), FOV, k, dtype=dtype), maps[None])
    body = MRIGeometry(matrix=(n, n), fov=FOV)
    x = random_objects(body, 1, torch.Generator().manual_seed(0))[0].to(dtype)
    y = sense(x) + 0.002 * normal(*sense.range.shape, dtype=dtype)
    ours = solve(CG(rho=0.01), Problem(sense, y), iterations=iterations).x
    nufft = sigpy.linop.NUFFT((coils, n, n), (k * FOV[0]).numpy(), oversamp=2, width=6)
    model = nufft * sigpy.linop.Multiply((n, n), maps.numpy())
    theirs = sigpy.app.LinearLeastSquares(
        model, y.numpy(), lamda=0.01, max_iter=iterations, show_pbar=False
    ).run()
    assert np.linalg.norm(ours.numpy() - theirs) / np.linalg.norm(theirs) < 1e-3
    # And it is a reconstruction: better than gridding, which is biased by gaps.
    assert float((ours - x).norm() / x.norm()) < 0.12
    assert float((ours - x).norm()) < 0.8 * float((sense.initial(y) - x).norm())


def test_initial_of_complete_data_is_the_image() -> None:
    n = 16
    maps = birdcage_maps(4, (n, n))
    sense = Sense(MaskedFourier(Space((n, n), C64), torch.ones(())), maps[None])
    x = normal(n, n, dtype=C64)
    assert torch.allclose(sense.initial(sense(x)), x, atol=1e-5)


def test_off_resonance_against_the_exact_sum() -> None:
    """Every sample with its own phase, at the tolerance asked for."""
    n, shots, samples = 24, 4, 80
    generator = torch.Generator().manual_seed(0)
    k = (torch.rand(shots, samples, 2, generator=generator, dtype=torch.float64) - 0.5) * n / 0.2
    times = torch.linspace(2e-3, 12e-3, samples, dtype=torch.float64)
    u = torch.linspace(-1, 1, n, dtype=torch.float64)
    field = 120 * torch.exp(-4 * (u[:, None] ** 2 + (u[None] - 0.3) ** 2)) - 30
    x = normal(n, n)
    r = (torch.arange(n, dtype=torch.float64) - n // 2) * 0.2 / n
    place = torch.stack(torch.meshgrid(r, r, indexing="ij"))
    turn = torch.einsum("smd,dyx->smyx", k, place) + times[:, None, None] * field
    exact = (x * torch.exp(-2j * math.pi * turn)).sum((-2, -1)) / n
    errors = {}
    for tolerance in (1e-2, 1e-4):
        nufft = NUFFT((n, n), FOV, k, dtype=C128)
        model = TimeSegmented(nufft, field, times, tolerance=tolerance)
        errors[tolerance] = float((model(x) - exact).norm() / exact.norm())
        assert errors[tolerance] < 1.5 * tolerance
        assert model.segments < 14
    # Without the model the data are far off: the test would see a segment that is wrong.
    plain = NUFFT((n, n), FOV, k, dtype=C128)(x)
    assert float((plain - exact).norm() / exact.norm()) > 0.5


def test_off_resonance_of_a_constant_field_is_one_phase() -> None:
    times = torch.linspace(0, 5e-3, 50, dtype=torch.float64)
    nodes, weights = segments_for(torch.full((4, 4), 100.0), times, 1e-6)
    assert len(nodes) == 1
    phase = weights[0] * torch.exp(-2j * math.pi * 100.0 * nodes[0])
    assert torch.allclose(phase, torch.exp(-2j * math.pi * 100.0 * times), atol=1e-6)
    long = torch.linspace(0, 5e-3, 500, dtype=torch.float64)
    with pytest.raises(ValueError, match="unit of the"):
        segments_for(torch.linspace(0, 1e5, 4096).reshape(64, 64), long, 1e-3)


def test_a_volume_coil_by_coil() -> None:
    n = 10
    k = (torch.rand(6, 20, 3, dtype=torch.float64) - 0.5) * n / 0.2
    maps = normal(1, 5, n, n, n)
    together = Sense(NUFFT((n,) * 3, (0.2,) * 3, k, dtype=C128), maps, chunk=5)
    apart = Sense(NUFFT((n,) * 3, (0.2,) * 3, k, dtype=C128), maps, chunk=2)
    x = normal(n, n, n)
    assert torch.allclose(together(x), apart(x))
    assert torch.allclose(together.adjoint(together(x)), apart.normal(x), atol=1e-6)


def test_refusals_and_pickling() -> None:
    sampling = MaskedFourier(Space((8, 8), C64), torch.ones(()))
    with pytest.raises(ValueError, match="maps are"):
        Sense(sampling, torch.ones(4, 8, 8, dtype=C64))
    with pytest.raises(ValueError, match="complex64"):
        Sense(sampling, torch.ones(1, 4, 8, 8, dtype=C128))
    with pytest.raises(ValueError, match="field map"):
        TimeSegmented(NUFFT((8, 8), FOV, spokes(2, 8, 8)), torch.zeros(4, 4), torch.zeros(8))
    sense = Sense(NUFFT((8, 8), FOV, spokes(2, 8, 8)), torch.ones(1, 2, 8, 8, dtype=C64))
    x = normal(8, 8, dtype=C64)
    sense.normal(x)
    again = pickle.loads(pickle.dumps(sense))
    assert torch.equal(again(x), sense(x))
