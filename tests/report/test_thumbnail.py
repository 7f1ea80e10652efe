from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from labrecon.report import pictures
from labrecon.report.png import png
from labrecon.report.thumbnail import thumbnail


def seen(content: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB")).astype(int)


def test_middle_slice_in_a_robust_window():
    volume = torch.zeros(9, 40, 60)
    volume[4] = torch.linspace(0, 1, 60)
    volume[4, 0, 0], volume[4, 0, 1] = 1e9, -1e9
    grey = seen(thumbnail(volume, ("z", "y", "x"), None))
    assert grey.shape == (40, 60, 3)
    assert (np.diff(grey[5, :, 0]) >= 0).all()
    assert grey[5, 0, 0] <= 3
    assert grey[5, -1, 0] >= 252
    assert grey[0, 0, 0] == 255
    assert grey[0, 1, 0] == 0


@pytest.mark.parametrize(
    ("shape", "voxel", "size"),
    [
        ((40, 60), None, (40, 60)),
        ((40, 60), (1.0, 0.5), (60, 45)),
        ((40, 60), (2.0, None), (40, 60)),
        ((1000, 500), None, (256, 128)),
        ((12, 400, 400), (9.0, 1.0, 1.0), (256, 256)),
        ((2000, 4), None, (256, 1)),
        ((5, 3, 3), None, (3, 3)),
        ((2, 3, 12, 14, 16), None, (14, 16)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.int16, torch.float64])
def test_size(shape, voxel, size, dtype):
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    content = thumbnail(volume, tuple(f"axis {i}" for i in range(len(shape))), voxel)
    assert seen(content).shape[:2] == size


def test_axes_that_grow_upwards():
    volume = torch.zeros(20, 20)
    volume[:10] = 1.0
    assert seen(thumbnail(volume, ("y", "x"), None))[0].min() == 255
    assert seen(thumbnail(volume, ("y", "x"), None, ("y",)))[0].max() == 0
    assert seen(thumbnail(volume, ("y", "x"), None, ("x",)))[0].min() == 255


def test_each_plane_is_turned_by_the_axis_of_its_own_rows():
    volume = np.random.default_rng(0).normal(size=(10, 12, 14))
    turned = pictures.slices(volume, ("z", "y", "x"), None, ("y",))
    plain = pictures.slices(volume, ("z", "y", "x"), None)
    flipped = [not np.array_equal(a[1], b[1]) for a, b in zip(turned, plain, strict=True)]
    assert flipped == [True, False, False]
    np.testing.assert_array_equal(turned[0][1], plain[0][1][::-1])


def test_complex_objects_by_their_modulus():
    volume = torch.polar(torch.linspace(0, 1, 900).reshape(30, 30), torch.randn(30, 30))
    expected = seen(thumbnail(volume.abs(), ("y", "x"), None))
    np.testing.assert_array_equal(seen(thumbnail(volume, ("y", "x"), None)), expected)
    # A lazy conjugate, as autograd hands it out.
    np.testing.assert_array_equal(seen(thumbnail(volume.conj(), ("y", "x"), None)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_one_dimension_as_a_line(dtype):
    values = torch.linspace(0, 1, 50).to(dtype)
    grey = seen(thumbnail(values, ("x",), None))[..., 0]
    assert grey.shape == (96, 256)
    rows = [np.flatnonzero(grey[:, column]).mean() for column in range(4, 250, 20)]
    assert (np.diff(rows) < 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(20,), (20, 20), (600, 600)])
def test_values_that_are_not_finite(shape, bad):
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    volume.view(-1)[:5] = bad
    assert len(np.unique(seen(thumbnail(volume, ("y", "x")[: len(shape)], None)))) > 1
    seen(thumbnail(torch.full(shape, bad), ("y", "x")[: len(shape)], None))


def test_shrinking_does_not_lose_thin_lines():
    volume = torch.zeros(1024, 1024)
    volume[:, 513] = 1.0
    volume[:20] = 1.0
    grey = seen(thumbnail(volume, ("y", "x"), None))[200, :, 0]
    assert grey.max() > 40


@pytest.mark.parametrize("colours", ["gray", "RdBu_r", "twilight", "magma"])
def test_colours_are_those_of_matplotlib(colours):
    level = np.linspace(0, 1, 256).reshape(16, 16)
    expected = matplotlib.colormaps[colours](level, bytes=True)[..., :3].astype(int)
    assert np.abs(seen(png(level, colours)) - expected).max() <= 2


def test_levels_outside_have_the_colour_at_their_end():
    grey = seen(png(np.array([[-1.0, 2.0, np.nan, np.inf, -np.inf, 0.5]])))[0, :, 0]
    assert grey.tolist() == [0, 255, 0, 255, 0, 128]


def test_window_of_many_values_is_that_of_all():
    image = np.random.default_rng(0).normal(size=(2048, 2048))
    image[:, ::2] += 10  # a pattern with the period of an even step
    expected = np.percentile(image, (0.5, 99.5))
    np.testing.assert_allclose(pictures.window_of([image]), expected, atol=0.03)
