"""The step that puts coil sensitivities into the geometry."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon import Array, Gaussian, Scan
from labrecon.instrument import StepError
from labrecon.operators.fourier import centred_fft
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.nufft import NUFFT
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.steps.sensitivities import sensitivities

AXES = (-2, -1)
N, COILS, FOV = 64, 6, (0.2, 0.2)


def objects(count: int) -> Tensor:
    geometry = MRIGeometry(matrix=(N, N), fov=FOV)
    return random_objects(geometry, count, torch.Generator().manual_seed(1))


def unit(turn: int = 0) -> Tensor:
    maps = birdcage_maps(COILS, (N, N)).roll(turn, 0)
    return maps / maps.abs().square().sum(0).sqrt()


def lines(every: int, centre: int) -> Tensor:
    mask = torch.zeros(N, 1)
    mask[::every] = 1
    mask[(N - centre) // 2 : (N + centre) // 2] = 1
    return mask


def scan(images: Tensor, mask: Tensor | None = None, **frames: int) -> Scan:
    data = Gaussian(1e-3).sample(centred_fft(images, AXES), torch.Generator().manual_seed(0))
    geometry = MRIGeometry(
        matrix=(N, N),
        fov=FOV,
        coils=images.shape[-3],
        frames=frames,
        mask=None if mask is None else Array(mask),
    )
    return Scan(data if mask is None else data * mask.unsqueeze(-3), geometry)


def wrong(maps: Tensor, truth: Tensor, x: Tensor) -> float:
    """``1 − |⟨m, S⟩|`` over the object, at its 99 % quantile."""
    alike = (maps.conj() * truth).sum(-3).abs()
    return float((1 - alike)[x.abs() > 0.1 * x.abs().max()].quantile(0.99))


def maps_of(done: Scan) -> Tensor:
    assert isinstance(done.geometry, MRIGeometry)
    assert done.geometry.maps is not None
    return done.geometry.maps.tensor()


def test_maps_of_undersampled_data() -> None:
    x = objects(1)[0]
    done = sensitivities(scan(unit() * x, lines(4, 20)))
    assert maps_of(done).shape == (1, COILS, N, N)
    assert wrong(maps_of(done)[0], unit(), x) < 5e-3
    told = done.steps[-1]
    # Line 42 below the centre would be the next one, and is not there.
    assert told["source"] == "middle of the data, 20 × 24"
    assert told["largest_eigenvalue"] == pytest.approx(1, abs=0.01)
    again = sensitivities(done)
    assert again.geometry is done.geometry
    assert "are kept" in again.steps[-1]["result"]


def test_calibration_lines_come_first() -> None:
    x = objects(1)[0]
    bare = scan(unit() * x, lines(3, 0) * 1.0)
    full = scan(unit() * x).data * lines(N, 24)
    done = sensitivities(bare.replace(calibration={"calibration": full}))
    assert done.steps[-1]["source"] == "calibration lines 24 × 24"
    assert wrong(maps_of(done)[0], unit(), x) < 5e-3


def test_slices_have_their_own_maps_and_repetitions_share_them() -> None:
    x = objects(2)
    truth = torch.stack([unit(), unit(3)])
    images = (truth * x[:, None])[:, None].expand(2, 3, COILS, N, N)
    # Each repetition has a third of the middle: together they have all of it.
    masks = torch.zeros(3, N, 1)
    for i in range(3):
        masks[i, i::3] = 1
    done = sensitivities(scan(images, masks, slice=2, repetition=3))
    maps = maps_of(done)
    assert maps.shape == (2, 1, 1, COILS, N, N)
    for i in range(2):
        assert wrong(maps[i, 0, 0], truth[i], x[i]) < 5e-3
        assert wrong(maps[i, 0, 0], truth[1 - i], x[i]) > 0.05


def test_contrasts_of_opposite_phase_do_not_cancel() -> None:
    x = objects(1)[0]
    images = torch.stack([unit() * x, -unit() * x])
    done = sensitivities(scan(images, contrast=2))
    assert wrong(maps_of(done)[0], unit(), x) < 5e-3


@pytest.mark.parametrize("shared", [False, True])
def test_maps_along_a_trajectory(shared: bool) -> None:
    x = objects(1)[0]
    angle = torch.arange(60, dtype=torch.float64) * 0.618034 * torch.pi
    r = (torch.arange(128, dtype=torch.float64) - 64) / 128 * N / FOV[0]
    spokes = torch.stack([angle.sin()[:, None] * r, angle.cos()[:, None] * r], -1)
    data = NUFFT((N, N), FOV, spokes)(unit() * x)
    frames: dict[str, int] = {}
    if shared:
        # Twelve spokes in each of five frames: too few in one, enough in all.
        data = data.reshape(COILS, 5, 12, 128).transpose(0, 1)
        spokes, frames = spokes.reshape(5, 12, 128, 2), {"phase": 5}
    geometry = MRIGeometry(
        matrix=(N, N), fov=FOV, coils=COILS, frames=frames, trajectory=Array(spokes)
    )
    done = sensitivities(Scan(data, geometry))
    assert "gridded middle of the data, 24 × 24" in done.steps[-1]["source"]
    assert wrong(maps_of(done)[0], unit(), x) < 5e-3


def test_too_few_spokes_are_refused() -> None:
    angle = torch.arange(10, dtype=torch.float64) * torch.pi / 10
    r = (torch.arange(128, dtype=torch.float64) - 64) / 128 * N / FOV[0]
    spokes = torch.stack([angle.sin()[:, None] * r, angle.cos()[:, None] * r], -1)
    geometry = MRIGeometry(matrix=(N, N), fov=FOV, coils=2, trajectory=Array(spokes))
    with pytest.raises(StepError, match="at the Nyquist rate"):
        sensitivities(Scan(torch.ones(2, 10, 128, dtype=torch.complex64), geometry))


def test_no_calibration_lines_are_refused() -> None:
    images = unit() * objects(1)[0]
    with pytest.raises(StepError, match="is 2 × 24 samples along y, x"):
        sensitivities(scan(images, lines(4, 2)))
    with pytest.raises(StepError, match="is 0 × 0 samples"):
        sensitivities(scan(images, torch.cat([torch.ones(20, 1), torch.zeros(44, 1)])))
    with pytest.raises(StepError, match="noise as strong"):
        sensitivities(scan(images * 0))
    with pytest.raises(StepError, match="signal in the calibration data"):
        sensitivities(scan(images), crop=0.999999)
    with pytest.raises(StepError, match="can not hold kernels of 6"):
        sensitivities(scan(images), width=5)
    assert "one coil" in sensitivities(scan(images[:1])).steps[-1]["result"]


def test_maps_of_a_file(tmp_path: Path) -> None:
    before = scan(unit() * objects(1)[0], lines(4, 2))
    np.save(tmp_path / "maps.npy", unit().numpy())
    done = sensitivities(before, maps=str(tmp_path / "maps.npy"))
    assert torch.equal(maps_of(done), unit())
    np.save(tmp_path / "maps.npy", unit().numpy()[:, :-1])
    with pytest.raises(StepError, match="can not be taken as coil sensitivities"):
        sensitivities(before, maps=str(tmp_path / "maps.npy"))


def test_two_sets() -> None:
    done = sensitivities(scan(unit() * objects(1)[0]), sets=2)
    assert done.geometry.sets == 2
    # No aliasing within the field of view: the second set is empty.
    assert done.steps[-1]["shown"].endswith("and 0 % of the field of view")
