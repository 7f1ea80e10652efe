"""Pupils against HCIPy, areas of circles and hexagons, and the files of other packages."""

import math
from pathlib import Path

import hcipy
import numpy as np
import pytest
import torch
from astropy.io import fits

from labrecon.instrument import ReaderError
from labrecon_coronagraph.pupils import circular, pupil_from_fits, segmented, vlt

N = 128


def of_hcipy(aperture: object, n: int = N, supersampling: int = 8) -> torch.Tensor:
    grid = hcipy.make_pupil_grid(n, 1)
    field = hcipy.evaluate_supersampled(aperture, grid, supersampling)
    return torch.from_numpy(np.asarray(field, dtype=float).reshape(n, n))


def test_a_round_pupil_is_that_of_hcipy() -> None:
    torch.testing.assert_close(circular(N), of_hcipy(hcipy.make_circular_aperture(1)))
    expected = of_hcipy(hcipy.make_obstructed_circular_aperture(1, 0.3))
    torch.testing.assert_close(circular(N, 0.3), expected)
    undersized = of_hcipy(hcipy.make_circular_aperture(0.9))
    torch.testing.assert_close(circular(N, diameter=0.9), undersized)


@pytest.mark.parametrize("telescope", ["ut3", "ut4"])
def test_the_vlt_is_that_of_hcipy(telescope: str) -> None:
    expected = of_hcipy(hcipy.make_vlt_aperture(True, telescope))
    torch.testing.assert_close(vlt(N, telescope), expected)
    bare = of_hcipy(hcipy.make_vlt_aperture(True, telescope, with_spiders=False))
    torch.testing.assert_close(vlt(N, telescope, spiders=False), bare)


@pytest.mark.parametrize("name", ["hcipy_vlt_ut123", "hcipy_vlt_ut4"])
def test_the_vlt_is_that_of_the_file(lab_data: Path, name: str) -> None:
    file = lab_data / "coronagraph" / "pupils_masks" / f"{name}.fits.gz"
    stored = pupil_from_fits(file, 128)
    made = vlt(128, "ut4" if name.endswith("4") else "ut1")
    # Subsamples on an edge may differ; a spider misplaced by a sample would be off by 0.5.
    assert float((stored - made).abs().max()) < 0.05
    assert float((stored - made).abs().mean()) < 1e-3


def test_areas_are_those_of_circles() -> None:
    area = float(circular(256, 0.14).mean())
    assert area == pytest.approx(math.pi / 4 * (1 - 0.14**2), rel=2e-4)


@pytest.mark.parametrize(("rings", "gap"), [(0, 0.0), (1, 0.0), (2, 0.01), (3, 0.004)])
def test_segments_have_the_area_of_hexagons_and_fill_the_circle(rings: int, gap: float) -> None:
    n = 512
    made = segmented(n, rings, gap, supersampling=4)
    # (2R+1)a + Rg along and a/√3 across is the farthest corner, on the circle of diameter 1.
    tried = np.linspace(1e-3, 0.5, 400_001)
    far = np.hypot((2 * rings + 1) * tried + rings * gap, tried / math.sqrt(3))
    inner = tried[np.abs(far - 0.5).argmin()]
    count = 1 + 3 * rings * (rings + 1)
    assert float(made.mean()) == pytest.approx(count * 2 * math.sqrt(3) * inner**2, rel=2e-3)
    ticks = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / n
    radius = torch.hypot(ticks[:, None], ticks)[made > 0]
    assert 0.5 - 2 / n < float(radius.max()) < 0.5 + 1 / n
    torch.testing.assert_close(made, made.flip(0).flip(1))


def test_a_file_is_averaged_over_whole_pixels(tmp_path: Path) -> None:
    values = torch.rand(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fits.writeto(tmp_path / "pupil.fits", values.numpy())
    made = pupil_from_fits(tmp_path / "pupil.fits", 4)
    assert made.dtype is torch.float64
    assert float(made[1, 2]) == pytest.approx(float(values[3:6, 6:9].mean()), abs=1e-15)
    torch.testing.assert_close(pupil_from_fits(tmp_path / "pupil.fits", 12), values)


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    good = np.full((12, 12), 0.5)
    bad = {
        "oblong": (good[:, :6], 6, r"shape \(12, 6\), expected a square"),
        "cube": (np.stack([good, good]), 6, "expected a square"),
        "nan": (np.where(good.cumsum(1) < 1, np.nan, good), 6, "12 NaN"),
        "bright": (good * 4, 6, "values from 2 to 2, expected a transmission"),
        "negative": (-good, 6, "expected a transmission"),
        "indivisible": (good, 5, "12 pixels .* 5 samples do not divide: .* is [46]"),
        "none": (None, 6, "cannot be read|no image"),
    }
    for name, (values, n, message) in bad.items():
        fits.PrimaryHDU(values).writeto(tmp_path / f"{name}.fits")
        with pytest.raises(ReaderError, match=message):
            pupil_from_fits(tmp_path / f"{name}.fits", n)
    (tmp_path / "text.fits").write_text("no FITS")
    for name in ("text.fits", "missing.fits"):
        with pytest.raises(ReaderError, match=name):
            pupil_from_fits(tmp_path / name, 6)


def test_impossible_pupils_are_refused() -> None:
    with pytest.raises(ValueError, match="obscuration of 1"):
        circular(16, 1.0)
    with pytest.raises(ValueError, match=r"diameter 1\.2"):
        circular(16, diameter=1.2)
    with pytest.raises(ValueError, match="supersampling 0"):
        circular(16, supersampling=0)
    with pytest.raises(ValueError, match="'ut5', expected one of ut1"):
        vlt(16, "ut5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-1 rings"):
        segmented(16, -1, 0.0)
    for gap in (-0.01, 0.26):
        with pytest.raises(ValueError, match="a gap of"):
            segmented(16, 2, gap)
