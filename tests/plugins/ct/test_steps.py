"""Preparation steps: what they mend, what they record, and when they do nothing."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ct_scans import excess, simulated

from labrecon_ct.geometry import CTGeometry
from labrecon_ct.projector import CTProjector
from labrecon_ct.steps.bad_pixels import bad_pixels
from labrecon_ct.steps.detector import bin_detector, crop
from labrecon_ct.steps.flat_field import flat_field
from labrecon_ct.steps.paganin import paganin
from labrecon_ct.steps.rings import rings
from labrecon_ct.steps.subset import subset
from labrecon_ct.steps.zingers import zingers


@pytest.fixture(scope="module")
def clean():
    return simulated()


def test_flat_field_gives_line_integrals_and_inverse_variances(clean) -> None:
    done = flat_field(clean)
    expected = CTProjector(clean.geometry)(clean.truth)
    residual = done.data - expected
    assert float(residual.std()) < 0.02
    scaled = residual.square() * done.weights / float(done.noise.sigma) ** 2
    # Weights are absolute: χ² of the true object is 1.
    assert float(scaled.mean()) == pytest.approx(1, abs=0.12)
    assert float(done.weights.mean()) == pytest.approx(1, abs=1e-4)
    told = done.steps[-1]
    assert told["counts_per_photon"] == pytest.approx(1, abs=0.1)
    assert told["electronic_noise_photons"] == pytest.approx(5, abs=1)
    again = flat_field(done)
    assert again.data is done.data
    assert "not applicable" in again.steps[-1]["result"]


def test_flats_are_followed_in_time() -> None:
    scan = simulated(drift=0.2, beam=1e6)
    truth = CTProjector(scan.geometry)(scan.truth)
    followed = (flat_field(scan).data - truth).square().mean().sqrt()
    averaged = (flat_field(scan, interpolate=False).data - truth).square().mean().sqrt()
    assert flat_field(scan).steps[-1]["flat_groups"] == 2
    assert float(followed) < 0.2 * float(averaged)


def test_dose_per_view_is_taken_out(clean) -> None:
    views = len(clean.geometry.angles)
    dose = tuple(0.5 + i / views for i in range(views))
    changed = clean.replace(
        data=(clean.data - 100) * torch.tensor(dose)[:, None] + 100,
        geometry=clean.geometry.model_copy(update={"dose": dose}),
    )
    assert torch.allclose(flat_field(changed).data, flat_field(clean).data, atol=2e-3)


def test_low_counts_are_floored_and_weigh_little(clean) -> None:
    data = clean.data.clone()
    data[10, 20] = 0.0
    done = flat_field(clean.replace(data=data))
    assert torch.isfinite(done.data).all()
    assert done.steps[-1]["floored_samples"] >= 1
    assert float(done.weights[10, 20]) < 1e-3


def test_flats_without_beam_are_refused(clean) -> None:
    dark = {**clean.calibration, "flats": torch.zeros_like(clean.calibration["flats"])}
    with pytest.raises(ValueError, match="shutter closed"):
        flat_field(clean.replace(calibration=dark))
    bare = clean.replace(
        calibration={}, geometry=clean.geometry.model_copy(update={"open_beam": None})
    )
    with pytest.raises(ValueError, match="no flats"):
        flat_field(bare)


def test_dead_columns() -> None:
    scan = flat_field(simulated(dead=5, seed=1))
    assert scan.steps[-1]["dead_pixels"] == 5
    mended = bad_pixels(scan)
    assert mended.steps[-1]["without_beam"] == 5
    assert int((mended.weights == 0).all(0).sum()) == 5
    assert torch.isfinite(mended.data).all()
    assert excess(mended) < 0.25 * excess(scan)


def test_stuck_behind_a_good_flat(clean) -> None:
    data = clean.data.clone()
    data[:, 55] = 30000.0
    scan = flat_field(clean.replace(data=data))
    mended = bad_pixels(scan)
    assert mended.steps[-1]["places"] == [55]
    assert mended.steps[-1]["detected"] == 1


def test_dead_in_the_flats_too(clean) -> None:
    kept = dict(clean.calibration)
    kept["flats"] = kept["flats"].clone()
    kept["flats"][:, 40] = kept["darks"].mean(0)[40]
    scan = flat_field(clean.replace(calibration=kept))
    assert float(scan.weights[:, 40].abs().max()) == 0
    mended = bad_pixels(scan)
    assert mended.steps[-1]["without_beam"] == 1
    between = 0.5 * (mended.data[:, 39] + mended.data[:, 41])
    assert torch.allclose(mended.data[:, 40], between, atol=1e-5)


def test_a_good_detector_has_no_bad_pixels(clean) -> None:
    done = bad_pixels(flat_field(clean))
    assert done.steps[-1]["detected"] == 0
    assert torch.equal(done.data, flat_field(clean).data)


def test_pixels_and_masks_of_the_user(clean, tmp_path: Path) -> None:
    scan = flat_field(clean)
    mask = np.zeros(128, np.uint8)
    mask[[3, 4]] = 1
    np.save(tmp_path / "mask.npy", mask)
    done = bad_pixels(scan, detect=False, pixels=[[60]], mask=str(tmp_path / "mask.npy"))
    assert done.steps[-1]["places"] == [3, 4, 60]
    with pytest.raises(ValueError, match="not on the detector"):
        bad_pixels(scan, pixels=[[128]])
    np.save(tmp_path / "mask.npy", mask[:9])
    with pytest.raises(ValueError, match="the detector"):
        bad_pixels(scan, mask=str(tmp_path / "mask.npy"))
    with pytest.raises(ValueError, match="put flat_field before"):
        bad_pixels(clean)


def test_zingers() -> None:
    hit, whole = simulated(zingers=200, seed=2), simulated(seed=2)
    mended = zingers(hit)
    assert 150 <= mended.steps[-1]["samples"] <= 220
    assert zingers(whole).steps[-1]["samples"] <= 5
    base = excess(flat_field(whole))
    before, after = excess(flat_field(hit)) - base, excess(flat_field(mended)) - base
    assert after < 0.3 * before
    # On line integrals, too.
    assert zingers(flat_field(hit)).steps[-1]["samples"] > 120
    with pytest.raises(ValueError, match="odd"):
        zingers(hit, window=4)


@pytest.mark.slow
def test_rings() -> None:
    scan = flat_field(simulated(views=240, columns=192, gain_error=0.01, seed=3, beam=1e6))
    whole = flat_field(simulated(views=240, columns=192, seed=3, beam=1e6))
    base = excess(whole)
    assert excess(rings(whole)) < base + 0.005, "what is not a ring stays"
    mended = rings(scan)
    assert excess(mended) - base < 0.5 * (excess(scan) - base)
    assert "too few" in rings(subset(scan, every=8)).steps[-1]["result"]
    with pytest.raises(ValueError, match="odd"):
        rings(scan, size=4)


def test_rings_leaves_a_limited_arc_alone() -> None:
    scan = flat_field(simulated(arc=math.pi / 3, views=120))
    assert "span 60° only" in rings(scan).steps[-1]["result"]


def test_paganin_inverts_its_own_model() -> None:
    n, pitch, energy, distance, ratio = 64, 1e-3, 20.0, 100.0, 500.0
    x = torch.linspace(-2, 2, n, dtype=torch.float64)
    thickness = 0.05 * torch.exp(-x.square())
    strength = distance * (1.239841984e-6 / energy) * ratio / (4 * math.pi)
    doubled = torch.cat([torch.exp(-thickness), torch.exp(-thickness).flip(0)])
    k = 2 * math.pi * torch.fft.fftfreq(2 * n, d=pitch, dtype=torch.float64)
    seen = torch.fft.ifft(torch.fft.fft(doubled) * (1 + strength * k.square())).real[:n]
    geometry = CTGeometry(angles=(0.0, 1.0), columns=n, column_pitch=pitch)
    from labrecon.instrument import Scan

    scan = Scan(
        -torch.log(seen).float().expand(2, n),
        geometry,
        provenance={"quantity": "line integrals", "energy_kev": energy, "distance_mm": distance},
    )
    done = paganin(scan, delta_beta=ratio)
    assert float((done.data - thickness).abs().max()) < 1e-3
    assert float((scan.data - thickness).abs().max()) > 2e-3
    with pytest.raises(ValueError, match="energy_kev and distance_mm"):
        paganin(scan.replace(provenance={}), delta_beta=ratio)


def test_subset(clean) -> None:
    done = subset(flat_field(clean), every=4)
    assert done.data.shape == (45, 128) == tuple(done.weights.shape)
    assert done.geometry.angles[1] == clean.geometry.angles[4]
    # Before flat_field: the time of each view goes along.
    first, then = flat_field(subset(clean, every=4)), done
    assert torch.allclose(first.data, then.data, atol=1e-5)
    with pytest.raises(ValueError, match="keep none"):
        subset(clean, start=500)


@pytest.mark.parametrize("counts", [True, False])
def test_crop_and_bin_keep_the_axis(counts: bool) -> None:
    scan = simulated(offset=3.3, seed=4)
    scan = scan if counts else flat_field(scan)
    cut = crop(scan, columns=[10, 127])
    assert cut.geometry.centre_column == pytest.approx(scan.geometry.centre_column - 10)
    small = bin_detector(scan, columns=3)
    assert small.geometry.columns == 42
    assert small.geometry.column_pitch == pytest.approx(1.5)
    # Column c of the old detector is (c + ½)/3 − ½ of the new.
    assert small.geometry.centre_column == pytest.approx((scan.geometry.centre_column - 1) / 3)
    assert small.data.shape == small.geometry.data_shape
    if counts:
        assert torch.equal(small.data[:, 0], scan.data[:, :3].sum(1))
        flat_field(small)
    with pytest.raises(ValueError, match="first, last"):
        crop(scan, columns=[5, 500])
    with pytest.raises(ValueError, match="do not fit"):
        bin_detector(scan, columns=200)


@pytest.mark.parametrize("drift", [0.0, 0.02, 0.1])
def test_a_beam_that_drifts_is_not_noise(drift: float) -> None:
    told = flat_field(simulated(drift=drift, seed=4)).steps[-1]
    assert told["counts_per_photon"] == pytest.approx(1, abs=0.1)


def test_scaled_frames_are_refused(clean) -> None:
    calibration = {
        name: frames / 4e4 if name in ("flats", "darks") else frames
        for name, frames in clean.calibration.items()
    }
    with pytest.raises(ValueError, match="are the frames scaled"):
        flat_field(clean.replace(data=clean.data / 4e4, calibration=calibration))


def test_a_bin_listens_to_weights(clean) -> None:
    scan = flat_field(clean)
    weights = scan.weights.clone()
    weights[:, 10] = 0
    spoilt = scan.data.clone()
    spoilt[:, 10] = 50.0
    binned = bin_detector(scan.replace(data=spoilt, weights=weights), columns=2)
    torch.testing.assert_close(binned.data[:, 5], scan.data[:, 11])
    torch.testing.assert_close(binned.weights[:, 5], scan.weights[:, 11])


def test_binning_before_or_after_the_logarithm_keeps_the_noise_level(clean) -> None:
    weighted = clean.replace(weights=torch.ones_like(clean.data))
    first = flat_field(bin_detector(weighted, columns=4), gain=1.0)
    then = bin_detector(flat_field(weighted, gain=1.0), columns=4)
    level = [float((s.weights / s.noise.sigma**2).median()) for s in (first, then)]
    assert level[0] == pytest.approx(level[1], rel=0.05)


def test_bins_of_counts_have_the_beam_of_their_pixels(clean) -> None:
    geometry = clean.geometry.model_copy(update={"open_beam": 5e4})
    alone = clean.replace(geometry=geometry, calibration={"darks": clean.calibration["darks"]})
    lines = [flat_field(s).data.mean() for s in (alone, bin_detector(alone, columns=2))]
    assert float(lines[0]) == pytest.approx(float(lines[1]), abs=0.02)
