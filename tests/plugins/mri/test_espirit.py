"""ESPIRiT against SigPy, against sensitivities that are known, and at its borders."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon.operators.fourier import centred_fft
from labrecon_mri.calibration_block import acs_region, covered_width, gridded_block
from labrecon_mri.espirit import espirit_maps
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.nufft import NUFFT
from labrecon_mri.phantoms import birdcage_maps, random_objects

AXES = (-2, -1)


def unit(maps: Tensor) -> Tensor:
    """Sensitivities of unit norm over the coils, as ESPIRiT gives them."""
    return maps / maps.abs().square().sum(0).sqrt()


def phantom(n: int = 96, coils: int = 8) -> tuple[Tensor, Tensor]:
    geometry = MRIGeometry(matrix=(n, n), fov=(0.2, 0.2))
    x = random_objects(geometry, 1, torch.Generator().manual_seed(3))[0]
    return x, unit(birdcage_maps(coils, (n, n)))


def middle(kspace: Tensor, width: int = 24) -> Tensor:
    for axis in range(1, kspace.ndim):
        n = kspace.shape[axis]
        kspace = kspace.narrow(axis, n // 2 - width // 2, width)
    return kspace


def sigpy_maps(kspace: Tensor) -> tuple[np.ndarray, np.ndarray]:
    import sigpy.mri

    app = sigpy.mri.app.EspiritCalib(
        kspace.numpy(),
        calib_width=24,
        kernel_width=6,
        thresh=0.02,
        crop=0,
        output_eigenvalue=True,
        show_pbar=False,
    )
    maps, values = app.run()
    return maps, np.squeeze(values)


def brain(lab_data: Path) -> Tensor:
    folder = lab_data / "mri" / "brain7_complex_labmidas"
    images = np.load(folder / "brain_slice.npz")["arr_0"].transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch.complex64)


def agreement(maps: Tensor, others: np.ndarray | Tensor) -> np.ndarray:
    """``|⟨m, S⟩|``: the phase of a pixel is free."""
    return np.abs((maps.numpy().conj() * np.asarray(others)).sum(0))


def test_agrees_with_sigpy_on_a_brain(lab_data: Path) -> None:
    kspace = centred_fft(brain(lab_data), AXES)
    maps, values = espirit_maps(middle(kspace), (256, 216), crop=0)
    others, eigenvalues = sigpy_maps(kspace)
    shown = eigenvalues > 0.9
    assert agreement(maps[0], others)[shown].min() > 1 - 1e-4
    assert np.abs(values[0].numpy() - eigenvalues)[shown].max() < 1e-4


def test_agrees_with_sigpy_and_the_truth_on_a_phantom() -> None:
    x, sensitivities = phantom()
    kspace = centred_fft(sensitivities * x, AXES)
    maps, values = espirit_maps(middle(kspace), (96, 96), crop=0)
    inside = (x.abs() > 0.1 * x.abs().max()).numpy()
    others, _ = sigpy_maps(kspace)
    assert np.quantile(agreement(maps[0], others)[inside], 0.01) > 1 - 1e-4
    assert np.quantile(agreement(maps[0], sensitivities)[inside], 0.01) > 1 - 1e-3
    assert float(values[0][torch.from_numpy(inside)].min()) > 0.95


def test_coil_images_are_explained_by_the_maps(lab_data: Path) -> None:
    images = brain(lab_data)
    maps, _ = espirit_maps(middle(centred_fft(images, AXES)), (256, 216), crop=0)
    combined = (maps[0].conj() * images).sum(0)
    rss = images.abs().square().sum(0).sqrt()
    left = (images - maps[0] * combined).abs().square().sum(0).sqrt()
    bright = rss > 0.2 * rss.max()
    # What no map explains is the noise of six of seven coils, as it is in the corners.
    noise = float(rss[:20, :20].square().mean().sqrt()) * (6 / 7) ** 0.5
    assert float(left[bright].square().mean().sqrt()) < 1.3 * noise
    wrong = maps[0].roll(20, -1)
    other = (images - wrong * (wrong.conj() * images).sum(0)).abs().square().sum(0)
    assert float(other[bright].mean().sqrt()) > 2 * noise


def test_phase_is_smooth_and_that_of_the_object() -> None:
    x, sensitivities = phantom()
    maps, _ = espirit_maps(middle(centred_fft(sensitivities * x, AXES)), (96, 96), crop=0)
    inside = x.abs() > 0.1 * x.abs().max()
    turns = (sensitivities.conj() * maps[0]).sum(0)
    steps = (turns[1:] * turns[:-1].conj()).angle()[inside[1:] & inside[:-1]]
    assert float(steps.abs().max()) < 0.3


def test_crop_hides_the_background_only() -> None:
    x, sensitivities = phantom()
    block = middle(centred_fft(sensitivities * x, AXES))
    maps, values = espirit_maps(block, (96, 96), crop=0.8)
    shown = maps[0].abs().sum(0) > 0
    assert torch.equal(shown, values[0] > 0.8)
    assert bool(shown[x.abs() > 0.1 * x.abs().max()].all())
    assert not bool(shown[:6, :6].any())
    assert torch.allclose(maps[0].abs().square().sum(0)[shown], torch.tensor(1.0), atol=1e-5)


def test_two_sets_hold_an_object_that_folds_onto_itself() -> None:
    x, sensitivities = phantom(128)
    # Every second line of k-space: half the field of view along y, two places in each pixel.
    kspace = centred_fft(sensitivities * x, AXES)[:, ::2]
    maps, values = espirit_maps(middle(kspace), (64, 128), crop=0, sets=2)
    both = torch.stack([sensitivities[:, :64], sensitivities[:, 64:]])
    bodies = torch.stack([x[:64], x[64:]]).abs() > 0.1 * x.abs().max()
    # The folded image has pixel 32 + … of one half over that of the other.
    rolled = both.roll(32, 2)
    folded = bodies.roll(32, 1).all(0)
    assert int(folded.sum()) > 200
    inside = torch.einsum("scyx,pcyx->spyx", maps.conj(), rolled).abs().square().sum(0)
    assert float(torch.quantile(inside[:, folded], 0.05)) > 0.97
    one = torch.einsum("cyx,pcyx->pyx", maps[0].conj(), rolled).abs().square()
    assert float(one[:, folded].min(0).values.median()) < 0.9
    assert float(values[1][folded].median()) > 0.95


def test_volumes() -> None:
    n = (24, 32, 28)
    geometry = MRIGeometry(matrix=n, fov=(0.2, 0.2, 0.2))
    x = random_objects(geometry, 1, torch.Generator().manual_seed(0))[0]
    sensitivities = unit(birdcage_maps(4, n))
    kspace = centred_fft(sensitivities * x, (-3, -2, -1))
    maps, _ = espirit_maps(middle(kspace, 16), n, kernel=5, crop=0)
    inside = (x.abs() > 0.1 * x.abs().max()).numpy()
    assert np.quantile(agreement(maps[0], sensitivities)[inside], 0.01) > 1 - 5e-3


def test_eight_coils_take_less_than_three_seconds() -> None:
    x, sensitivities = phantom()
    block = middle(centred_fft(sensitivities * x, AXES))
    start = time.process_time()
    espirit_maps(block, (256, 256))
    assert time.process_time() - start < 3 * torch.get_num_threads()


def test_refuses_what_makes_no_sense() -> None:
    block = torch.randn(4, 8, 8, dtype=torch.complex64)
    with pytest.raises(ValueError, match="more calibration lines"):
        espirit_maps(block[:, :5], (32, 32))
    with pytest.raises(ValueError, match="all zero"):
        espirit_maps(0 * block, (32, 32))
    with pytest.raises(ValueError, match="NaN"):
        espirit_maps(block / 0, (32, 32))
    with pytest.raises(ValueError, match="noise as strong"):
        espirit_maps(torch.randn(2, 24, 24, dtype=torch.complex64), (32, 32))
    with pytest.raises(ValueError, match="sets from 1 to the 4 coils"):
        espirit_maps(block, (32, 32), sets=5)
    with pytest.raises(ValueError, match="compress the coils"):
        espirit_maps(torch.randn(32, 8, 8, 8, dtype=torch.complex64), (16, 16, 16))


@pytest.mark.parametrize("n", [16, 17])
def test_block_of_a_mask(n: int) -> None:
    mask = torch.zeros(n, 12)
    mask[::4] = 1
    mask[n // 2 - 3 : n // 2 + 3] = 1
    # Line 3 or 4 below the centre may be one of the regular ones.
    rows, columns = acs_region(mask)
    assert columns == slice(0, 12)
    assert rows.start <= n // 2 - 3
    assert rows.stop >= n // 2 + 3
    assert bool(mask[rows].all())
    assert acs_region(mask, 4) == (slice(n // 2 - 2, n // 2 + 2), slice(4, 8))
    mask[n // 2] = 0
    assert [part.stop - part.start for part in acs_region(mask)] == [0, 0]


def test_block_reaches_the_short_side_of_partial_fourier() -> None:
    mask = torch.zeros(64, 1)
    mask[26:] = 1
    assert acs_region(mask.expand(64, 8), 24)[0] == slice(26, 50)


def test_block_from_spokes() -> None:
    n, fov = 96, (0.2, 0.2)
    x, sensitivities = phantom(n)
    angle = torch.arange(60, dtype=torch.float64) * torch.pi / 60
    r = (torch.arange(2 * n, dtype=torch.float64) - n) / (2 * fov[0])
    spokes = torch.stack([angle.sin()[:, None] * r, angle.cos()[:, None] * r], -1)
    data = NUFFT((n, n), fov, spokes)(sensitivities * x).flatten(1)
    flat = spokes.flatten(0, 1)
    assert covered_width(flat, fov, 24) == 24
    block = gridded_block(data, flat, fov, 24)
    truth = middle(centred_fft(sensitivities * x, AXES))
    scale = (truth.conj() * block).sum() / truth.abs().square().sum()
    assert float((block / scale - truth).norm() / truth.norm()) < 0.01
    few = spokes[::6].flatten(0, 1)
    assert covered_width(few, fov, 24) < 8
