"""Measured k-space, from its files to pictures, with no number set by hand."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from labrecon import Operator, Problem, solve
from labrecon.operators.fourier import centred_fft, centred_ifft
from labrecon.recon import reconstruct
from labrecon.solvers import CG
from labrecon_mri.nufft import NUFFT
from labrecon_mri.off_resonance import TimeSegmented
from labrecon_mri.readers.numpy_kspace import NumpyReader
from labrecon_mri.trajectories import spiral

EPI = "mri/pulseq_gre_epi"
SETS = {
    "mri/brain7_complex_labmidas/brain_slice.npz": (256, 216),
    "mri/cart_brain8_sigpy/cartesian_ksp.npy": (230, 180),
    "mri/pulseq_flash16/flash128_16ch.npz": (128, 128),
    "mri/pulseq_flash16/flash128_16ch_ismrmrd.h5": (128, 128),
    f"{EPI}/gre256_1ch.npz": (256, 256),
    f"{EPI}/gre256_1ch_ismrmrd.h5": (256, 256),
    f"{EPI}/gre256_3echo_bipolar_1ch.npz": (3, 256, 256),
    f"{EPI}/epi128_4ch.npz": (128, 128),
    f"{EPI}/epi128_4ch_ismrmrd.h5": (128, 128),
    f"{EPI}/epi128_4ch_single_adc.npz": (128, 128),
    f"{EPI}/epi128_4ch_single_adc_ismrmrd.h5": (128, 128),
    f"{EPI}/epi96_ramp_1ch.npz": (96, 96),
    f"{EPI}/epi96_ramp_1ch_ismrmrd.h5": (96, 96),
}


def image_of(path: Path, out: Path, *overrides: str) -> np.ndarray:
    reconstruct("mri", path, out, overrides=overrides, device="cpu")
    with h5py.File(out / "volume.h5") as file:
        return np.abs(file["entry/data/data"][()])


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_every_set_reconstructs_by_one_command(name: str, lab_data: Path, tmp_path: Path) -> None:
    """The object stands out from the air around it: no ghost, no aliasing, no NaN."""
    image = image_of(lab_data / name, tmp_path / "out")
    assert image.shape == SETS[name]
    image = image.reshape(-1, *image.shape[-2:])[0]
    assert np.isfinite(image).all()
    high, wide = (n // 8 for n in image.shape)
    corners = [
        image[i, j]
        for i in (slice(high), slice(-high, None))
        for j in (slice(wide), slice(-wide, None))
    ]
    assert np.mean(corners) < 0.1 * image.mean() + 0.02 * image.max()
    assert np.quantile(image, 0.9) > 5 * np.mean(corners)


def ghost(image: np.ndarray, inside: np.ndarray) -> float:
    """What is half a field of view from the object, beyond its rows, against the object."""
    where = np.roll(inside, len(inside) // 2, axis=0)
    rows = np.nonzero(inside.any(1))[0]
    where[rows.min() - 3 : rows.max() + 4] = False
    return float(image[where].mean() / image[inside].mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epi128_4ch", "epi128_4ch_single_adc", "epi96_ramp_1ch"])
def test_epi_ghost_goes_by_an_estimated_delay(name: str, lab_data: Path, tmp_path: Path) -> None:
    """README: a delay of −3 µs (epi128) and −2 µs (epi96) takes the ghost out."""
    path = lab_data / EPI / f"{name}.npz"
    corrected = image_of(path, tmp_path / "found")
    told = json.loads((tmp_path / "found" / "provenance.json").read_text())
    (step,) = [step for step in told["steps"] if step["step"] == "trajectory_delay"]
    assert step["delay_us"] == pytest.approx(-2.0 if "96" in name else -3.0, abs=0.7)
    raw = image_of(path, tmp_path / "raw", "prepare.3.delay=0.0", "prepare.3.phase=false")
    inside = corrected > 0.25 * corrected.max()
    if "96" not in name:  # its phantom fills the field of view: ghost and object overlap
        assert ghost(raw, inside) > 0.08
        assert ghost(corrected, inside) < 0.01


def test_gre_through_the_nufft_is_its_fft(lab_data: Path, tmp_path: Path) -> None:
    path = lab_data / EPI / "gre256_1ch.npz"
    image = image_of(path, tmp_path / "out")
    k = torch.from_numpy(np.load(path)["kspace"].transpose(1, 0, 2).copy())
    plain = centred_ifft(k[0], (-2, -1)).abs().numpy()
    assert np.corrcoef(image.ravel(), plain.ravel())[0, 1] > 0.9999


def test_flash_sense_is_the_root_sum_of_squares(lab_data: Path, tmp_path: Path) -> None:
    """README: NRMSE 0.056 against RSS at R = 4 with 24 middle lines; fully sampled far less."""
    path = lab_data / "mri/pulseq_flash16/flash128_16ch.npz"
    image = image_of(path, tmp_path / "out")
    k = torch.from_numpy(np.load(path)["kspace"].transpose(1, 0, 2).copy())
    rss = centred_ifft(k, (-2, -1)).abs().square().sum(0).sqrt().numpy()
    inside = rss > 0.2 * rss.max()
    image = image * (image * rss)[inside].sum() / np.square(image[inside]).sum()
    assert np.linalg.norm((image - rss)[inside]) / np.linalg.norm(rss[inside]) < 0.02


@pytest.mark.slow
def test_brain_at_four_fold_undersampling(lab_data: Path, tmp_path: Path) -> None:
    """README: against full RSS, zero-filled 0.142, SENSE 0.106, L1-wavelet 0.093 (Poisson disc)."""
    import sigpy.mri

    z = np.load(lab_data / "mri/brain7_complex_labmidas/brain_slice.npz")["arr_0"]
    images = torch.from_numpy(z.transpose(2, 0, 1).copy())
    k = centred_fft(images, (-2, -1))
    mask = sigpy.mri.poisson(images.shape[1:], 4, calib=(24, 24), seed=0, dtype=np.float32)
    mask = torch.from_numpy(np.abs(mask))
    np.savez(tmp_path / "brain.npz", kspace=(k * mask).numpy())
    (tmp_path / "brain.npz.toml").write_text('axes = ["coil", "ky", "kx"]\ndomain = "k-space"\n')
    scan = NumpyReader().read(tmp_path / "brain.npz")
    assert scan.geometry.mask is not None
    rss = images.abs().square().sum(0).sqrt().numpy()
    inside = rss > 0.05 * rss.max()
    errors = {}
    for recipe in ("gridded", "recon", "wavelet", "tv"):
        out = tmp_path / recipe
        reconstruct("mri", tmp_path / "brain.npz", out, recipe=recipe, device="cpu")
        with h5py.File(out / "volume.h5") as file:
            image = np.abs(file["entry/data/data"][()])
        image = image * (image * rss)[inside].sum() / np.square(image[inside]).sum()
        errors[recipe] = np.linalg.norm((image - rss)[inside]) / np.linalg.norm(rss[inside])
    assert errors["gridded"] < 0.15
    assert errors["recon"] < 0.106
    assert errors["wavelet"] < 0.093
    assert errors["tv"] < 0.093


def test_a_measured_field_map_is_corrected(lab_data: Path) -> None:
    """Fessler's brain with its field (−40 to 128 Hz), spirals of 14 ms: blurred, and put right."""
    folder = lab_data / "mri/fieldmap_2001_fessler"

    def load(name: str) -> torch.Tensor:
        raw = (folder / name).read_bytes()
        values = np.frombuffer(raw[raw.index(b"\x0c\x0c") + 2 :], ">f4").astype(np.float32)
        return torch.from_numpy(values.reshape(128, 128).T.copy())

    field, image = load("fieldmap128.fld"), load("mag128.fld")
    assert -60 < float(field.min()) < 0 < 100 < float(field.max()) < 150
    image = (image / image.max()).to(torch.complex64)
    matrix, fov = (128, 128), (0.24, 0.24)
    k = spiral(8, 2800, matrix, fov)
    times = torch.arange(2800, dtype=torch.float64) * 5e-6
    plain = NUFFT(matrix, fov, k)
    true = TimeSegmented(plain, field, times, tolerance=1e-4)
    data = true(image)

    def error(model: Operator) -> float:
        x = solve(CG(), Problem(model, data), x0=model.initial(data), iterations=15).x
        return float((x - image).norm() / image.norm())

    corrected, blurred = error(TimeSegmented(plain, field, times)), error(plain)
    assert corrected < 0.1
    assert blurred > 3 * corrected
