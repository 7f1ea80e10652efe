"""The coronagraph by command: the planet of a real night, simulated nights, what is refused."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from PIL import Image

from labrecon import Scan
from labrecon.instrument import ReaderError
from labrecon.noise import PoissonGaussian, Scaled
from labrecon.recon import reconstruct
from labrecon.testing import check_instrument
from labrecon_coronagraph.aberration_section import aberrations_found
from labrecon_coronagraph.adi import median_adi
from labrecon_coronagraph.injection import Planet, inject
from labrecon_coronagraph.instrument import CoronagraphInstrument
from labrecon_coronagraph.readers.fits_cube import FitsCubeReader
from labrecon_coronagraph.readers.star_images_fits import StarImagesReader
from labrecon_coronagraph.report_section import around_the_star
from labrecon_coronagraph.sequence import ADISequence
from labrecon_coronagraph.sky import separation_and_angle, sky_offsets
from labrecon_coronagraph.star_cube import star_cube
from labrecon_coronagraph.steps.centre import centre
from labrecon_coronagraph.steps.speckles import speckles
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

    class Night:
        scan = CORONAGRAPH.simulate(CORONAGRAPH.example(), torch.Generator().manual_seed(0))

    assert around_the_star(Report()) == ""
    assert aberrations_found(Night()) == ""


@pytest.mark.slow
def test_aberrations_are_told_by_name(tmp_path: Path) -> None:
    result = reconstruct("wavefront", star_images(tmp_path), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    # A section without content is left out, with its heading.
    assert "Around the star" not in page
    row = re.search(r"<td>4</td><td>defocus</td><td>([^<]*)</td>", page)
    assert row is not None
    assert float(row[1]) == pytest.approx(float(result.volume[0, 2]), rel=1e-2)


@pytest.mark.slow
def test_planets_that_outshine_the_speckles(tmp_path: Path) -> None:
    """A star that does not change: planets are what changes, and are taken for its courses.

    Without components both are found, and nothing beside them; with some, nothing is listed far
    from them.
    """
    geometry = CORONAGRAPH.example()
    assert geometry.star_flux is not None
    generator = torch.Generator().manual_seed(3)
    still = star_cube(geometry.changed(angles=geometry.angles[:1]), generator)
    star = geometry.star_flux * still.expand(geometry.frames, -1, -1).float()
    planets = [Planet(0.30, 120.0, 200.0), Planet(0.45, 300.0, 100.0)]
    data = inject(star, geometry, planets)
    data = data + 2.0 * torch.randn(data.shape, generator=generator)
    FitsCubeReader().write(Scan(data, geometry), tmp_path / "night.fits")
    for modes in (0, None):
        options = [] if modes is None else [f"prepare.speckles.modes={modes}"]
        out = tmp_path / f"out-{modes}"
        reconstruct("coronagraph", tmp_path / "night.fits", out, overrides=options)
        strong = [row for row in detected(out / "report.html") if row[3] > 4]
        near = [
            [planet for planet in planets if abs(row[0] - planet.separation) < 0.04
             and abs(row[1] - planet.position_angle) < 8]
            for row in strong
        ]  # fmt: skip
        assert all(len(found) == 1 for found in near)
        if modes == 0:
            assert len(strong) == 2


@pytest.mark.slow
def test_an_inclined_ring_by_the_recipe_for_disks(tmp_path: Path) -> None:
    """More alike, and with more of its light, than by median differential imaging."""
    geometry = CORONAGRAPH.example()
    assert geometry.star_flux is not None
    generator = torch.Generator().manual_seed(0)
    y, x = sky_offsets(geometry.field_shape)
    ring = (30 * torch.exp(-(((torch.hypot(y / 0.45, x) - 15) / 2.0) ** 2))).float()
    star = geometry.star_flux * star_cube(geometry, generator).float()
    clean = (ADISequence(geometry)(ring) + star).clamp_min(0)
    data = Scaled(PoissonGaussian(geometry.read_noise), geometry.gain or 1.0).sample(
        clean, generator
    )
    FitsCubeReader().write(Scan(data, geometry), tmp_path / "disk.fits")
    found = reconstruct("coronagraph", tmp_path / "disk.fits", tmp_path / "out", recipe="disk")
    radius = torch.hypot(y, x)
    seen = (radius > 6) & (radius < 22)

    def alike(image: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([image[seen].float(), ring[seen]]))[0, 1])

    assert alike(found.volume) > max(0.7, alike(median_adi(data, geometry)))
    assert 0.6 < float(found.volume[seen].sum() / ring[seen].sum()) < 1.1


@pytest.mark.slow
def test_steps_can_be_left_out(tmp_path: Path) -> None:
    scan = CORONAGRAPH.simulate(CORONAGRAPH.example(), torch.Generator().manual_seed(0))
    FitsCubeReader().write(scan, tmp_path / "night.fits")
    quick = ["solver.iterations=2", "prepare.high_pass.skip=true"]
    result = reconstruct("coronagraph", tmp_path / "night.fits", tmp_path / "out", overrides=quick)
    told = (result.output / "provenance.json").read_text()
    steps = [one["step"] for one in json.loads(told)["steps"]]
    assert steps == ["bad_frames", "bad_pixels", "centre", "speckles"]


def test_the_star_of_the_file_is_kept_and_planets_are_three_numbers() -> None:
    scan = CORONAGRAPH.simulate(CORONAGRAPH.example(), torch.Generator().manual_seed(0))
    told = scan.replace(found={"star": "at (y, x) = (25.00, 25.00)"})
    assert centre(told).geometry.centre == (25.0, 25.0)
    assert centre(told, anew=True).geometry.centre != (25.0, 25.0)
    for planets in ([[0.3, 120.0]], [0.3, 120.0]):
        with pytest.raises(ValueError, match=r"list of \[separation in arcsec, position angle"):
            speckles(scan, planets=planets)
    assert speckles(scan).steps[-1]["modes"] == 5


@pytest.mark.slow
def test_the_sky_grows_upwards_in_pictures(tmp_path: Path, monkeypatch) -> None:
    scan = CORONAGRAPH.simulate(CORONAGRAPH.example(), torch.Generator().manual_seed(0))
    FitsCubeReader().write(scan, tmp_path / "night.fits")
    quick = ["solver.iterations=2"]
    pages = []
    for upward in (("y",), ()):
        monkeypatch.setattr(CoronagraphInstrument, "upward", upward)
        out = tmp_path / f"out{len(upward)}"
        reconstruct("coronagraph", tmp_path / "night.fits", out, overrides=quick)
        page = (out / "report.html").read_text()
        start = page.index("Data and residual")
        source = re.search(r'src="data:image/png;base64,([^"]+)"', page[start:])
        assert source is not None
        pages.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(source[1])))))
        assert ("y ↑" in page) == bool(upward)
    np.testing.assert_array_equal(pages[0], pages[1][::-1])


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
