"""Warp, decimation and burst: transposes, derivatives, answers of scipy and scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from operator_cases import dense, random
from scipy import ndimage
from skimage.measure import block_reduce
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from labrecon.operator import LinearityError, Operator, SpaceError
from labrecon.operators import Burst, Convolution, Decimation, Matrix, Warp
from labrecon.operators.motion import motion_model
from labrecon.space import Space

F64 = torch.float64
KINDS = pytest.mark.parametrize("kernel", ["linear", "cubic"])
MOTIONS = pytest.mark.parametrize("motion", ["translation", "affine"])


def psf(*shape: int) -> Tensor:
    return random(*shape, dtype=F64, seed=5).abs()


def operators(dtype: torch.dtype = F64) -> list[Operator]:
    made: list[Operator] = [
        Warp(Space(shape, dtype), 3, motion=motion, kernel=kernel)  # type: ignore[arg-type]
        for shape in ((5, 4), (2, 4, 3))
        for motion in ("translation", "affine")
        for kernel in ("linear", "cubic")
    ]
    colour = Space((3, 8, 8), dtype)
    made += [Burst(Decimation(Space((4, 6), dtype), 2), 3)]
    made += [Burst(Decimation(colour, 2, psf=psf(3, 2), mosaic="grbg"), 2, motion="affine")]
    made += [
        Burst(Matrix(random(6, 4, dtype=dtype), Space((2, 2), dtype), Space((2, 3), dtype)), 2)
    ]
    return made


def motions(operator: Any, *batch: int, seed: int = 3) -> Tensor:
    return random(*batch, *operator.motion.shape, dtype=F64, seed=seed)


EVERY = pytest.mark.parametrize("number", range(len(operators())))
DTYPES = pytest.mark.parametrize("dtype", [F64, torch.complex128])


@EVERY
@DTYPES
def test_the_adjoint_is_exact_for_motions_per_batch_element(
    number: int, dtype: torch.dtype
) -> None:
    operator = operators(dtype)[number]
    moved = operator.at(motion=motions(operator, 2, 1))
    x = random(2, 3, *operator.domain.shape, dtype=dtype, seed=1)
    y = random(2, 3, *operator.range.shape, dtype=dtype, seed=2)
    left, right = (moved(x).conj() * y).sum(), (x.conj() * moved.adjoint(y)).sum()
    assert float((left - right).abs()) <= 1e-12 * float(moved(x).norm() * y.norm())
    torch.testing.assert_close(moved.adjoint(y[:, :1]), Operator.adjoint(moved, y[:, :1]))


@EVERY
def test_a_batch_is_a_loop(number: int) -> None:
    operator = operators()[number]
    p = motions(operator, 2)
    x = random(2, *operator.domain.shape, dtype=F64, seed=1)
    rows = [operator(x[i], motion=p[i]) for i in range(2)]
    torch.testing.assert_close(operator(x, motion=p), torch.stack(rows), rtol=1e-12, atol=1e-12)


@EVERY
def test_derivatives_of_first_and_second_order(number: int) -> None:
    operator = operators()[number]
    x = random(*operator.domain.shape, dtype=F64, seed=1)
    y = random(*operator.range.shape, dtype=F64, seed=2)
    p = motions(operator)

    def adjoint(y: Tensor, p: Tensor) -> Tensor:
        return operator.at(motion=p).adjoint(y)

    for function, value in ((lambda x, p: operator(x, motion=p), x), (adjoint, y)):
        inputs = [value.clone().requires_grad_(), p.clone().requires_grad_()]
        assert gradcheck(function, inputs, fast_mode=True)
        assert gradgradcheck(function, inputs, fast_mode=True)


@DTYPES
@pytest.mark.parametrize("number", [8, 9])
def test_the_jacobian_is_that_of_finite_differences(number: int, dtype: torch.dtype) -> None:
    operator: Any = operators(dtype)[number]
    x = random(2, *operator.domain.shape, dtype=dtype, seed=1)
    p, step = motions(operator, 2), 1e-6
    found = operator.jacobian(x, p)
    for n in range(p.shape[-1]):
        change = torch.zeros_like(p)
        change[..., n] = step
        difference = operator(x, motion=p + change) - operator(x, motion=p - change)
        torch.testing.assert_close(found[:, :, n], difference / (2 * step), rtol=0, atol=1e-7)


@KINDS
@MOTIONS
def test_whole_pixels_are_exact_and_fractions_move_along(motion: Any, kernel: Any) -> None:
    warp = Warp(Space((9, 8), F64), 1, motion=motion, kernel=kernel)
    x = random(9, 8, dtype=F64)
    p = torch.zeros_like(warp.motion)
    p[0, :2] = torch.tensor([2.0, -3.0])
    torch.testing.assert_close(warp(x, motion=p)[0, :7, 3:], x[2:, :5], rtol=0, atol=0)
    # An image that was moved by whole pixels is seen as the first with so much more motion.
    moved, fraction = torch.roll(x, (-2, 3), (0, 1)), torch.zeros_like(p)
    fraction[0, :2] = torch.tensor([0.3, -0.6])
    expected = warp(x, motion=p + fraction)[0, 2:4, 5:7]
    torch.testing.assert_close(warp(moved, motion=fraction)[0, 2:4, 5:7], expected)


def test_linear_interpolation_is_that_of_scipy() -> None:
    x, matrix, shift = random(9, 8, dtype=F64), np.array([[1.1, 0.2], [-0.15, 0.9]]), (0.4, -0.7)
    centre = np.array([4.0, 3.5])
    p = torch.zeros(1, 6, dtype=F64)
    p[0, :2] = torch.tensor(shift, dtype=F64)
    p[0, 2:] = torch.from_numpy((matrix - np.eye(2)) * centre).flatten()
    found = Warp(Space((9, 8), F64), 1, motion="affine", kernel="linear")(x, motion=p)[0]
    offset = centre + shift - matrix @ centre
    expected = ndimage.affine_transform(x.numpy(), matrix, offset, order=1, mode="nearest")
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@MOTIONS
def test_the_cubic_kernel_is_exact_for_parabolas(motion: Any) -> None:
    warp = Warp(Space((12, 12), F64), 2, motion=motion)
    p = 0.3 * motions(warp)
    rows, columns = torch.meshgrid(*[torch.arange(12, dtype=F64)] * 2, indexing="ij")

    def scene(v: Tensor, u: Tensor) -> Tensor:
        return v * v - 0.5 * u * v + 0.25 * u * u - 3 * v + 1

    model = motion_model(motion, (12, 12), "cubic")
    moved = [rows.expand(2, 12, 12), columns.expand(2, 12, 12)]
    for n, (axis, shape) in enumerate(zip(model.axis, model.basis(rows), strict=True)):
        moved[axis] = moved[axis] + p[:, n, None, None] * shape
    seen = warp.inside(p)
    found, expected = warp(scene(rows, columns), motion=p), scene(*moved)
    assert seen.double().mean() > 0.4
    torch.testing.assert_close(found[seen], expected[seen], rtol=0, atol=1e-11)


@KINDS
@MOTIONS
@pytest.mark.parametrize("kernel_size", [None, (3, 3)])
def test_inside_tells_what_the_border_changes(motion: Any, kernel: Any, kernel_size: Any) -> None:
    """Frames of a scene that goes on, and of its part in the field of view."""
    blur = None if kernel_size is None else psf(*kernel_size)

    def burst(size: int) -> Burst:
        camera = Decimation(Space((size, size), F64), 2, psf=blur)
        return Burst(camera, 6, motion=motion, kernel=kernel)

    scene, part = random(32, 32, dtype=F64), burst(16)
    p = motions(part)
    p[0] = 0
    if motion == "affine":
        p[:, 2:] = 0  # the numbers of the edge are those of another edge in the wide scene
    wide = burst(32)(scene, motion=p)[:, 4:-4, 4:-4]
    narrow, seen = part(scene[8:-8, 8:-8], motion=p), part.inside(p) > 0
    torch.testing.assert_close(narrow[seen], wide[seen], rtol=0, atol=1e-11)
    assert bool(seen[0].all()) == (kernel_size is None)
    assert 0.3 < float(seen.double().mean()) < 0.95
    assert not torch.allclose(narrow[~seen], wide[~seen], atol=1e-3)


def test_pixels_are_means_and_the_blur_is_that_of_scipy() -> None:
    x = random(2, 6, 9, dtype=F64)
    found = Decimation(Space((6, 9), F64), 3)(x)
    np.testing.assert_allclose(found, block_reduce(x.numpy(), (1, 3, 3), np.mean), atol=1e-14)
    kernel = psf(3, 5)
    blurred = np.stack([ndimage.convolve(one, kernel.numpy(), mode="nearest") for one in x.numpy()])
    found = Decimation(Space((6, 9), F64), 3, psf=kernel)(x)
    np.testing.assert_allclose(found, block_reduce(blurred, (1, 3, 3), np.mean), atol=1e-12)
    # An even kernel has its centre where that of a convolution is.
    still = Decimation(Space((6, 9), F64), 1, psf=torch.tensor([[0.0, 0.0], [0.0, 1.0]]).double())
    torch.testing.assert_close(still(x), x)


def test_each_pixel_of_a_mosaic_sees_its_colour() -> None:
    x = torch.stack([torch.full((8, 8), value, dtype=F64) for value in (1.0, 2.0, 3.0)])
    camera = Decimation(Space((3, 8, 8), F64), 2, mosaic="grbg")
    expected = torch.tensor([[2.0, 1.0], [3.0, 2.0]], dtype=F64).repeat(2, 2)
    torch.testing.assert_close(camera(x), expected)
    assert camera.cell == 2
    assert camera.range.shape == (4, 4)


def test_a_burst_is_the_sum_of_its_parts() -> None:
    camera, warp = Decimation(Space((6, 6), F64), 3), Warp(Space((6, 6), F64), 2)
    p = motions(warp)
    x = random(6, 6, dtype=F64)
    burst = Burst(camera, 2)
    torch.testing.assert_close(burst(x, motion=p), camera(warp(x, motion=3 * p)))
    matrix = dense(burst.at(motion=p))  # type: ignore[arg-type]
    largest = float(torch.linalg.matrix_norm(matrix, 2))
    burst.place({"motion": p})
    assert burst.norm(tolerance=1e-6) == pytest.approx(largest, rel=1e-3)
    assert list(burst.nuisances) == ["motion"]


def test_wrong_descriptions_are_refused() -> None:
    space = Space((8, 8))
    with pytest.raises(SpaceError, match="multiples of 3"):
        Decimation(space, 3)
    with pytest.raises(SpaceError, match=r"domain \(3, y, x\)"):
        Decimation(space, 2, mosaic="rggb")
    with pytest.raises(SpaceError, match="mosaic is one of"):
        Decimation(Space((3, 8, 8)), 2, mosaic="rgb")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="not larger than the image"):
        Decimation(space, 2, psf=torch.ones(9, 9))
    with pytest.raises(SpaceError, match="translation, affine"):
        Warp(space, 2, motion="rigid")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="linear, cubic"):
        Warp(space, 2, kernel="spline")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="two axes"):
        Warp(Space((8,)), 2)
    with pytest.raises(SpaceError, match="frames"):
        Burst(Decimation(space, 2), 0)
    with pytest.raises(SpaceError, match="not images to images"):
        Burst(Convolution(Space((8,)), torch.ones(3)), 2)

    class Square(Operator):
        linear = False

    with pytest.raises(LinearityError, match="linear camera"):
        Burst(Square(space, space), 2)


def test_motions_of_another_kind_or_number_are_refused() -> None:
    """Six numbers of an affine motion are no translation, and one frame's are not those of all."""
    space = Space((8, 8), F64)
    x = torch.ones(8, 8, dtype=F64)
    for operator in (Warp(space, 3), Burst(Decimation(space, 2), 3)):
        y = torch.ones(operator.range.shape, dtype=F64)
        for shape in ((3, 6), (3, 1), (1, 2), (4, 2), (2,)):
            motion = torch.zeros(shape, dtype=F64)
            with pytest.raises(SpaceError, match=r"3 frames, 2 numbers\), got shape"):
                operator(x, motion=motion)
            with pytest.raises(SpaceError, match=r"3 frames, 2 numbers\), got shape"):
                operator.at(motion=motion).adjoint(y)
        with pytest.raises(SpaceError, match="2 numbers"):
            operator.inside(torch.zeros(3, 1, dtype=F64))
    turned = Warp(space, 3, motion="affine")
    with pytest.raises(SpaceError, match="6 numbers"):
        turned(x, motion=torch.zeros(3, 8, dtype=F64))
