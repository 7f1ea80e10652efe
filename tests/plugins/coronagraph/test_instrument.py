"""The coronagraph by command: the planet of a real night, simulated nights, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from labrecon.instrument import ReaderError
from labrecon.recon import reconstruct
from labrecon.testing import check_instrument
from labrecon_coronagraph.instrument import CoronagraphInstrument
from labrecon_coronagraph.readers.fits_cube import FitsCubeReader
from labrecon_coronagraph.readers.star_images_fits import StarImagesReader
from labrecon_coronagraph.report_section import around_the_star
from labrecon_coronagraph.sky import separation_and_angle, sky_offsets
from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument

CORONAGRAPH, WAVEFRONT = CoronagraphInstrument(), WavefrontInstrument()


def detected(report: Path) -> list[list[float]]:
    """Rows of the section's table: separation, position angle, S/N, significance, flux."""
    page = report.read_text()
    table = page[page.index("Around the star") :]
    rows = re.findall(r"<tr>((?:<td>[^<]*</td>){5})</tr>", table)
    return [[float(cell) for cell in re.findall(r"<td>([^<]*)</td>", row)] for row in rows]


@pytest.mark.slow
def test_beta_pictoris_b_by_one_command(lab_data: Path, tmp_path: Path) -> None:
    """0.456″ ± 0.02″ at 210° ± 2°; the brightest pixel of the sparse map lies there, too."""
    cube = lab_data / "coronagraph" / "naco_betapic" / "naco_betapic_cube.fits"
    if not cube.is_file():
        pytest.skip(f"no {cube}")
    result = reconstruct("coronagraph", cube, tmp_path / "out")
    best = detected(tmp_path / "out" / "report.html")[0]
    assert best[0] == pytest.approx(0.456, abs=0.02)
    assert best[1] == pytest.approx(210, abs=2)
    assert best[2] > 5
    image = result.volume
    y, x = sky_offsets((image.shape[0], image.shape[1]))
    place = int(image.argmax())
    separation, angle = separation_and_angle(y.flatten()[place], x.flatten()[place])
    assert float(separation) * 0.02719 == pytest.approx(0.456, abs=0.03)
    assert float(angle) == pytest.approx(210, abs=3)


@pytest.mark.slow
@pytest.mark.parametrize("instrument", [CORONAGRAPH, WAVEFRONT], ids=lambda one: one.name)
def test_conformance(instrument: CoronagraphInstrument | WavefrontInstrument) -> None:
    report = check_instrument(instrument, skip=("memory", "cost"))
    assert report.passed, str(report)


def test_a_simulated_night_is_written_and_read_as_it_was(tmp_path: Path) -> None:
    scan = CORONAGRAPH.simulate(CORONAGRAPH.example(), torch.Generator().manual_seed(0))
    assert tuple(scan.data.shape) == (20, 51, 51)
    assert scan.truth is not None
    assert 1 <= int((scan.truth > 0).sum()) <= 3
    FitsCubeReader().write(scan, tmp_path / "night.fits")
    back = FitsCubeReader().read(tmp_path / "night.fits")
    torch.testing.assert_close(back.data, scan.data)
    assert back.geometry.changed(sigma=None) == scan.geometry.changed(sigma=None)
    with pytest.raises(ReaderError, match="add the step speckles"):
        CORONAGRAPH.check(back)


def test_the_section_is_for_sequences_alone() -> None:
    class Report:
        scan = WAVEFRONT.simulate(WAVEFRONT.example(), torch.Generator().manual_seed(0))

    assert around_the_star(Report()) == ""


def star_images(folder: Path) -> Path:
    scan = WAVEFRONT.simulate(WAVEFRONT.example(), torch.Generator().manual_seed(0))
    StarImagesReader().write(scan, folder / "star.fits")
    return folder / "star.fits"


def test_star_images_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = star_images(tmp_path)
    reader = StarImagesReader()
    assert reader.matches(path)
    back = reader.read(path)
    scan = WAVEFRONT.simulate(WAVEFRONT.example(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(back.data, scan.data)
    assert back.geometry == scan.geometry
    WAVEFRONT.check(back)
    assert not reader.matches(tmp_path / "star.json")
    assert not reader.matches(tmp_path / "none.fits")


def test_star_images_with_something_wrong(tmp_path: Path) -> None:
    reader, path = StarImagesReader(), star_images(tmp_path)
    good = fits.getdata(path)
    content = path.read_bytes()
    for values, match in (
        (good[..., :-1], r"expected real \(frame, image, y, x\) = \(1, 2, 32, 32\)"),
        (np.where(good == good.max(), np.nan, good), "1 of 2048 samples are NaN"),
        (1e4 * good / good.max(), "divide counts by that peak"),
    ):
        fits.writeto(path, values, overwrite=True)
        with pytest.raises(ReaderError, match=match):
            reader.read(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ReaderError, match="truncated or damaged"):
        reader.read(path)
    path.with_suffix(".json").write_text('{"samples": 3}')
    with pytest.raises(ReaderError, match=r"star.json is no geometry"):
        reader.read(path)
