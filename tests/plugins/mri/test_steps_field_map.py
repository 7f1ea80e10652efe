"""Field maps from echoes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon import Array, Scan
from labrecon.instrument import StepError
from labrecon_mri.b0_map import b0_from_echoes
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.nufft import NUFFT
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.steps.field_map import field_map

N = 64


def bowl(peak: float) -> Tensor:
    r = (torch.arange(N, dtype=torch.float64) - N // 2) / 20
    return peak * torch.exp(-(r[:, None] - 0.5).square() - r.square())


def body() -> Tensor:
    geometry = MRIGeometry(matrix=(N, N), fov=(0.2, 0.2))
    return random_objects(geometry, 1, torch.Generator().manual_seed(0))[0]


def echoes(field: Tensor, times: list[float], noise: float = 0.0) -> Tensor:
    images = birdcage_maps(3, (N, N)) * body()
    made = torch.stack([images * torch.exp(-2j * math.pi * field * t) for t in times])
    generator = torch.Generator().manual_seed(1)
    return made + noise * torch.randn(made.shape, dtype=made.dtype, generator=generator)


def test_two_echoes_give_the_field() -> None:
    found = b0_from_echoes(echoes(bowl(120.0), [0.002, 0.004]), [0.002, 0.004], smoothing=0)
    inside = body().abs() > 0.1
    assert float((found - bowl(120.0))[inside].abs().max()) < 0.01


def test_later_echoes_are_unwrapped_and_refine() -> None:
    times = [0.002, 0.004, 0.012, 0.03]
    # 120 Hz over 28 ms are more than three turns.
    images = echoes(bowl(120.0), times, noise=0.02)
    inside = body().abs() > 0.2

    def error(count: int) -> float:
        found = b0_from_echoes(images[:count], times[:count], smoothing=0)
        return float((found - bowl(120.0))[inside].square().mean().sqrt())

    assert error(4) < 0.15 * error(2)


def test_measured_brain(lab_data: Path) -> None:
    """Within 3 Hz of the fit that its authors made on twice the grid, of up to 128 Hz."""
    from scipy.io import loadmat

    folder = lab_data / "mri" / "fieldmap_2001_fessler"
    m1 = torch.from_numpy(loadmat(folder / "phfit.mat")["m1"])
    # m1 has the phase that grew in 2 ms, of the opposite sign to the forward model's.
    images = torch.stack([m1.abs().to(m1.dtype), m1.conj()])[:, None]
    found = b0_from_echoes(images, [0.0, 0.002], smoothing=0.5).T
    bright = m1.T.abs() > 0.3 * m1.abs().max()
    raw = (folder / "fieldmap128.fld").read_bytes()
    fit = np.frombuffer(raw[raw.index(b"\x0c\x0c") + 2 :], ">f4").reshape(128, 128)
    theirs = torch.from_numpy(fit.astype(np.float64)).reshape(64, 2, 64, 2).mean((1, 3))
    assert float((found - theirs)[bright].square().mean().sqrt()) < 3
    assert float(theirs[bright].max()) > 100


def test_smoothing_counts_by_magnitude() -> None:
    field = torch.full((N, N), 50.0, dtype=torch.float64)
    images = echoes(field, [0.0, 0.002], noise=0.05)
    rough = b0_from_echoes(images, [0.0, 0.002], smoothing=0)
    smooth = b0_from_echoes(images, [0.0, 0.002], smoothing=2)
    inside = body().abs() > 0.1
    assert float((smooth - field)[inside].std()) < 0.3 * float((rough - field)[inside].std())
    assert abs(float((smooth - field)[inside].mean())) < 1


def test_echoes_that_make_no_sense() -> None:
    images = echoes(bowl(10.0), [0.002, 0.004])
    with pytest.raises(ValueError, match="not ms"):
        b0_from_echoes(images, [2.0, 4.0])
    with pytest.raises(ValueError, match="increase"):
        b0_from_echoes(images, [0.004, 0.002])
    with pytest.raises(ValueError, match="2 echo images and 3"):
        b0_from_echoes(images, [0.002, 0.004, 0.006])
    with pytest.raises(ValueError, match="complex"):
        b0_from_echoes(images.abs(), [0.002, 0.004])


def spokes() -> Tensor:
    angle = torch.arange(100, dtype=torch.float64) * torch.pi / 100
    r = (torch.arange(128, dtype=torch.float64) - 64) / 128 * N / 0.2
    return torch.stack([angle.sin()[:, None] * r, angle.cos()[:, None] * r], -1)


def scan(times: list[float]) -> Scan:
    images = echoes(bowl(60.0), times).to(torch.complex64)
    geometry = MRIGeometry(
        matrix=(N, N),
        fov=(0.2, 0.2),
        coils=3,
        frames={"contrast": len(times)},
        trajectory=Array(spokes()),
        times=Array(np.linspace(0, 1e-3, 128)),
    )
    return Scan(NUFFT((N, N), (0.2, 0.2), spokes())(images), geometry)


def test_step_takes_the_scans_contrasts() -> None:
    done = field_map(scan([0.001, 0.003]), echo_times=[1.0, 3.0], smoothing=1)
    assert done.geometry.field_map is not None
    found = done.geometry.field_map.tensor()
    inside = body().abs() > 0.3
    assert float((found - bowl(60.0))[inside].abs().quantile(0.99)) < 2
    assert done.steps[-1]["highest_hz"] == pytest.approx(60, abs=5)
    other = field_map(scan([0.001, 0.003]), echo_times=[1.0, 3.0], smoothing=1, sign=-1)
    assert torch.equal(other.geometry.field_map.tensor(), -found)


def test_step_takes_a_file(tmp_path: Path) -> None:
    before = scan([0.001, 0.003])
    np.save(tmp_path / "hz.npy", bowl(60.0).numpy())
    done = field_map(before, file=str(tmp_path / "hz.npy"))
    assert torch.equal(done.geometry.field_map.tensor(), bowl(60.0).float())
    np.save(tmp_path / "hz.npy", bowl(60.0).numpy()[1:])
    with pytest.raises(StepError, match=r"matrix \(64, 64\)"):
        field_map(before, file=str(tmp_path / "hz.npy"))
    assert "neither" in field_map(before).steps[-1]["result"]
    bare = before.replace(geometry=before.geometry.changed(times=None))
    with pytest.raises(StepError, match="times of its samples"):
        field_map(bare, echo_times=[1.0, 3.0])
    alone = before.replace(geometry=before.geometry.changed(frames={"repetition": 2}))
    with pytest.raises(StepError, match="named contrast"):
        field_map(alone, echo_times=[1.0, 3.0])
    slices = alone.replace(geometry=before.geometry.changed(frames={"slice": 2, "contrast": 1}))
    with pytest.raises(StepError, match="several places"):
        field_map(
            slices.replace(data=slices.data[:, None]),
            echo_times=[1.0, 3.0],
        )
    with pytest.raises(StepError, match="not ms"):
        field_map(before, echo_times=[1000.0, 3000.0])
