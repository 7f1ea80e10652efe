"""Measured scans, from their files to pictures, with no number set by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat
from skimage.filters import threshold_otsu

from labrecon import Problem, solve
from labrecon.instrument import Scan
from labrecon.plugins import resolve
from labrecon.priors.tv import TV
from labrecon.recon import reconstruct
from labrecon.solvers.proximal import FISTA
from labrecon_ct.instrument import CTInstrument

CT = CTInstrument()


def read(path: Path) -> Scan:
    readers = [resolve(r)() for r in CT.readers.values()]
    reader = next(r for r in readers if r.matches(path))
    return reader.read(path)


def prepared(path: Path) -> Scan:
    scan = read(path)
    for step in CT.recipes()["recon"]["prepare"]:
        scan = resolve(CT.steps[step["step"]])(scan)
    return scan


def matthews(a: np.ndarray, b: np.ndarray) -> float:
    """Matthews' correlation of two masks."""
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


def field_of_view(shape: tuple[int, ...], scan: Scan) -> np.ndarray:
    """The disc of a volume that every view of a scan sees."""
    y, x = np.indices(shape) - (np.array(shape)[:, None, None] - 1) / 2
    lost = abs(scan.geometry.centre_offset) + 2
    pitch = scan.geometry.column_pitch / scan.geometry.magnification / scan.geometry.voxel[-1]
    return np.hypot(y, x) < (scan.geometry.columns / 2 - lost) * pitch


def test_tooth_finds_its_centre(lab_data: Path) -> None:
    scan = prepared(lab_data / "ct/aps_tooth/tooth.h5")
    assert scan.geometry.centre_column == pytest.approx(296.0, abs=0.5)
    assert scan.data.shape == (2, 181, 640)
    assert scan.curves[-1].marker == pytest.approx(scan.geometry.centre_column)
    image = CT.operator(scan.geometry, backend="astra").initial(scan.data)[0].numpy()
    # Air around the tooth is dark: a wrong centre smears the tooth over it.
    corner = np.abs(image[:150, :150]).mean()
    assert corner < 0.15 * image[250:400, 250:400].mean()


def test_dls_is_read_whole(lab_data: Path) -> None:
    scan = read(lab_data / "ct/dls_nxtomo/k11-18014.nxs")
    assert scan.data.shape == (22, 3001, 26)
    assert len(scan.calibration["flats"]) == len(scan.calibration["darks"]) == 100
    told = " ".join(f"{key} {value}" for key, value in scan.ignored.items())
    assert "k11-18014-detectorPanda.h5 is not there" in told
    assert "k11-18014-EtherCAT.h5 is not there" in told
    assert math.degrees(scan.geometry.angles[0]) == pytest.approx(89.995, abs=1e-3)
    assert math.degrees(scan.geometry.angles[-1]) == pytest.approx(269.995, abs=1e-3)
    done = prepared(lab_data / "ct/dls_nxtomo/k11-18014.nxs")
    told = next(step for step in done.steps if step["step"] == "flat_field")
    assert told["flat_groups"] == 2
    assert float(done.data.mean()) == pytest.approx(0.176, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ta", "tc", "solid_disc"])
def test_htc_full_scans_agree_with_the_shipped_reconstruction(lab_data: Path, name: str) -> None:
    folder = lab_data / "ct/htc2022/dev"
    scan = prepared(folder / f"htc2022_{name}_full.mat")
    image = CT.operator(scan.geometry).initial(scan.data).numpy()
    shipped = loadmat(folder / f"htc2022_{name}_full_recon_fbp.mat")["reconFullFbp"]
    mask = loadmat(folder / f"htc2022_{name}_full_recon_fbp_seg.mat")["reconFullFbpSeg"]
    seen = field_of_view(image.shape, scan)
    assert np.corrcoef(image[seen], shipped[seen])[0, 1] >= 0.999
    # Beyond the detector there is air. The shipped corners are at a fifth of the disc, as ASTRA
    # leaves out the filtered rays there.
    disc = np.median(image[mask > 0])
    assert abs(image[~seen].mean()) < 0.01 * disc < 0.1 * shipped[~seen].mean() / 0.1483
    # The shipped values are per voxel of 0.1483 mm.
    assert (image * shipped).sum() / (image**2).sum() == pytest.approx(0.1483, rel=0.01)
    assert matthews(image > threshold_otsu(image), mask) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gain"), [("01a", 0.25), ("04b", 0.05)])
def test_tv_improves_limited_angles(lab_data: Path, name: str, gain: float) -> None:
    folder = lab_data / "ct/htc2022/dev"
    scan = prepared(folder / f"htc2022_{name}_limited.mat")
    mask = loadmat(folder / f"htc2022_{name}_recon_fbp_seg.mat")["reconFullFbpSeg"]
    operator = CT.operator(scan.geometry)
    direct = operator.initial(scan.data).numpy()
    weighted = scan.data if scan.weights is None else scan.weights * scan.data
    weight = recipe_weight() * float(operator.adjoint(weighted).abs().max())
    prior = TV(weight, nonneg=True, iterations=15)
    problem = Problem(operator, scan.data, scan.noise, scan.weights)
    image = solve(FISTA(prior=prior), problem, iterations=100).x.numpy()
    before = matthews(direct > threshold_otsu(direct), mask)
    after = matthews(image > threshold_otsu(image), mask)
    assert after > before + gain, f"MCC {before:.3f} to {after:.3f}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "aps_tooth/tooth.h5",
        "dls_nxtomo/k11-18014.nxs",
        "htc2022/dev/htc2022_ta_full.mat",
        "htc2022/dev/htc2022_04b_limited.mat",
    ],
)
def test_one_command_from_file_to_report(lab_data: Path, name: str, tmp_path: Path) -> None:
    """FBP of all views, TV and FBP of every fourth, in one report; TV fits as well as FBP."""
    result = reconstruct("ct", lab_data / "ct" / name, tmp_path / "out", recipe="compare")
    assert result.warnings == []
    direct, tv, fourth = result.summary["reconstructions"]
    assert tv["data_shape"][-2] == fourth["data_shape"][-2] < direct["data_shape"][-2] / 3
    assert tv["quality"]["residual_std"] < 1.01 * fourth["quality"]["residual_std"]
    report = (tmp_path / "out" / "report.html").read_text()
    for told in ("TV, every 4th view", "FBP, every 4th view", "Convergence", "Residual statistics"):
        assert told in report
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert all(len(file["sha256"]) == 64 for file in provenance["inputs"])


def recipe_weight() -> float:
    """The relative weight of the recipe ``tv``."""
    return float(CT.recipes()["tv"]["prior"]["relative_weight"])
