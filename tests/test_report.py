from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from toy_instrument import Toy, ToyGeometry, write_toy

import labrecon
from labrecon import Operator, Problem, Space, hookimpl
from labrecon.metrics import nrmse, psnr, ssim
from labrecon.operators import Identity
from labrecon.quality import assess
from labrecon.recon import reconstruct, reconstruct_scan
from labrecon.report import pictures


@pytest.fixture
def page(toy_host, toy_scan, tmp_path):
    recipe = {
        "prepare": [{"step": "add", "value": 0.25}],
        "solver": {"iterations": 40},
        "prior": {"name": "tv", "weight": 0.01},
        "compare": [{"title": "direct & plain", "solver": {"name": "direct"}}],
    }
    reconstruct("toy", toy_scan, tmp_path / "out", recipe=recipe, host=toy_host)
    return (tmp_path / "out" / "report.html").read_text()


def sections(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_sections(page):
    assert sections(page) == [
        "Reconstruction",
        "Comparison",
        "Data and residual",
        "Convergence",
        "Preparation",
        "Residual statistics",
        "Acquisition",
        "Provenance",
    ]
    for text in ("scan.toy", "offset search", "0.25", "orientation", "SHA-256", "lag-1", "2 mm"):
        assert text in page
    assert "direct &amp; plain" in page


def test_page_is_self_contained(page):
    """No address of any kind, in attributes, styles, scripts or pictures."""
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"data:image/png;base64,[^\"]+", "", page))
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_plots_take_the_colour_of_the_page(page):
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page


class Sections:
    @hookimpl
    def labrecon_report_sections(self):
        def good(data):
            return f"<p>section for {data.instrument.name}</p>"

        def bad(data):
            raise ValueError("<no>")

        return {"Extra": good, "Broken": bad}


def test_sections_of_plugins(toy_host, toy_scan, tmp_path):
    toy_host.add("sections", Sections())
    reconstruct("toy", toy_scan, tmp_path / "out", host=toy_host)
    page = (tmp_path / "out" / "report.html").read_text()
    assert sections(page)[:4] == ["Reconstruction", "Extra", "Broken", "Data and residual"]
    assert "section for toy" in page
    assert "ValueError: &lt;no&gt;" in page


def test_truth_and_metrics(toy_host, tmp_path):
    scan = Toy().simulate(ToyGeometry(), torch.Generator().manual_seed(0))
    result = reconstruct_scan(Toy(), scan, tmp_path / "out", recipe={}, host=toy_host)
    assert set(result.summary["reconstructions"][0]["metrics"]) == {"nrmse", "psnr", "ssim"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "truth" in page
    assert "PSNR" in page


@pytest.mark.parametrize("shape", [(40,), (3, 9, 10), (12, 14, 16), (2, 2, 12, 14, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_any_shape(toy_host, tmp_path, shape, dtype):
    class Any(Toy):
        def operator(self, geometry, **options) -> Operator:
            return Identity(Space(shape, dtype))

        def voxel_size(self, geometry):
            return None

    data = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    scan = labrecon.Scan(data, ToyGeometry())
    recipe = {"solver": {"name": "gradient", "iterations": 3}}
    reconstruct_scan(Any(), scan, tmp_path / "out", recipe=recipe, host=toy_host)
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_three_planes_and_thin_stacks():
    volume = np.zeros((20, 30, 40))
    planes = pictures.slices(volume, ("z", "y", "x"), (0.1, 0.2, 0.3))
    assert [(title, image.shape, pixel) for title, image, pixel in planes] == [
        ("z 10", (30, 40), (0.2, 0.3)),
        ("y 15", (20, 40), (0.1, 0.3)),
        ("x 20", (20, 30), (0.1, 0.2)),
    ]
    thin = pictures.slices(volume[:2], ("z", "y", "x"), None)
    assert [title for title, _, _ in thin] == ["z 0", "z 1"]


def test_picture_proportions_and_length_bar():
    shown = pictures.picture("", np.zeros((10, 20)), (0, 1), pixel=(0.2, 0.1))
    assert shown.aspect == pytest.approx(1.0)
    label, share = shown.scale
    assert label == "500 µm"
    assert share == pytest.approx(0.25)


def quality_of(residual: torch.Tensor, noise=None, weights=None):
    space = Space(tuple(residual.shape), residual.dtype, ("row", "column"))
    problem = Problem(Identity(space), residual, noise or labrecon.Gaussian(), weights)
    return assess(problem, torch.zeros_like(residual))


def test_white_noise_has_unit_chi2_and_no_correlation():
    r = 0.3 * torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    quality = quality_of(r, labrecon.Gaussian(0.3))
    assert quality.chi2 == pytest.approx(1.0, abs=0.02)
    assert quality.level_known
    assert quality.deviation == pytest.approx(0.3, rel=0.01)
    assert all(abs(w.correlation) < 1.5 * w.bound for w in quality.whiteness)
    assert [w.axis for w in quality.whiteness] == ["row", "column"]


def test_structure_is_seen_along_its_axis():
    noise = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    rows, columns = quality_of(noise + noise.roll(1, 1), labrecon.Gaussian(2**0.5)).whiteness
    assert columns.correlation == pytest.approx(0.5, abs=0.02)
    assert abs(rows.correlation) < 1.5 * rows.bound


def test_one_number_for_whiteness():
    """``max |correlation| / bound``: 1 in 20 white axes is above 1, a smooth residual far above."""
    worst = []
    for seed in range(40):
        noise = torch.randn(60, 80, generator=torch.Generator().manual_seed(seed))
        worst.append(quality_of(noise).numbers()["lag1_worst"])
    assert max(worst) < 2.2
    assert 0 < sum(value > 1 for value in worst) < 12
    smooth = quality_of(noise + noise.roll(1, 0))
    assert smooth.numbers()["lag1_worst"] == pytest.approx(0.5 * math.sqrt(59 * 80) / 2, rel=0.1)
    opposed = quality_of(noise - noise.roll(1, 1))
    assert opposed.numbers()["lag1_worst"] == pytest.approx(0.5 * math.sqrt(60 * 79) / 2, rel=0.1)
    assert quality_of(noise[:2, :2]).numbers()["lag1_worst"] is None


def test_complex_noise_counts_both_parts():
    r = torch.randn(100, 100, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    quality = quality_of(0.5 * 2**0.5 * r, labrecon.Gaussian(0.5))
    assert quality.chi2 == pytest.approx(1.0, abs=0.03)
    assert quality.samples == 20000


def test_masked_samples_do_not_count():
    r = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(100, 100)
    weights[::7] = 0
    r[::7] = 1e6
    quality = quality_of(
        r, labrecon.Gaussian(torch.tensor(1.0 + 1e-9, dtype=torch.float64)), weights
    )
    assert quality.masked == 1500
    assert quality.chi2 == pytest.approx(1.0, abs=0.05)
    assert float(quality.residual.abs().max()) < 10


def test_unknown_noise_level_gives_no_chi2():
    r = 7 * torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    quality = quality_of(r)
    assert quality.chi2 is None
    assert float(quality.residual.std()) == pytest.approx(1.0, abs=0.01)
    inverse_variance = torch.full((50, 50), 1 / 49)
    assert quality_of(r, weights=inverse_variance).chi2 == pytest.approx(1.0, abs=0.1)


def test_metrics_against_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(40, 50, generator=generator)
    estimate = truth + 0.1 * torch.randn(40, 50, generator=generator)
    t, e = truth.double().numpy(), estimate.double().numpy()
    span = t.max() - t.min()
    expected = metrics.structural_similarity(
        t, e, data_range=span, gaussian_weights=True, use_sample_covariance=False, sigma=1.5
    )
    assert psnr(estimate, truth) == pytest.approx(
        metrics.peak_signal_noise_ratio(t, e, data_range=span), abs=1e-4
    )
    assert ssim(estimate, truth) == pytest.approx(expected, abs=1e-3)
    assert nrmse(estimate, truth) == pytest.approx(
        metrics.normalized_root_mse(t, e, normalization="euclidean"), abs=1e-6
    )
    assert psnr(truth, truth) == np.inf


def test_stack_in_the_report(toy_host, tmp_path):
    scan = write_toy(tmp_path / "stack.toy", stack=3)
    reconstruct("toy", scan, tmp_path / "out", host=toy_host)
    page = (tmp_path / "out" / "report.html").read_text()
    for title in ("slice 0", "slice 1", "slice 2"):
        assert title in page


def test_assumed_pixel_size_is_not_shown_as_a_length(toy_host, tmp_path):
    scan = Toy().simulate(ToyGeometry(), torch.Generator().manual_seed(0))
    scan = scan.replace(assumed={"pixel size": "1 px = 1 mm"})
    reconstruct_scan(Toy(), scan, tmp_path / "out", host=toy_host)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "voxel size unknown" in page
    assert "1/px" in page
    assert "1/mm" not in page
