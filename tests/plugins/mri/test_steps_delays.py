"""Gradient delays: opposed readouts and radial spokes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon import Array, Gaussian, Scan
from labrecon.instrument import StepError
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.nufft import NUFFT
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.steps.radial_delay import radial_delay
from labrecon_mri.steps.readouts import joined, opposed, readout_axis, shifted, velocity
from labrecon_mri.steps.trajectory_delay import trajectory_delay


def measured(lab_data: Path, name: str, n: int, navigator: str | None = None) -> Scan:
    """A Pulseq scan as its README says how to load it."""

    def lines(which: str) -> dict[str, np.ndarray]:
        return dict(np.load(lab_data / "mri" / "pulseq_gre_epi" / f"{which}.npz"))

    z = lines(name)
    data = torch.from_numpy(z["kspace"].transpose(1, 0, 2).copy())
    trajectory = torch.from_numpy(z["ktraj_1_per_m"][[1, 0]].transpose(1, 2, 0).copy())
    geometry = MRIGeometry(
        matrix=(n, n),
        fov=tuple(z["fov_m"][[1, 0]]),
        coils=len(data),
        trajectory=Array(trajectory),
        dwell=float(z["dwell_s"]),
    )
    calibration = {}
    if navigator:
        without = lines(navigator)["kspace"].transpose(1, 0, 2).copy()
        calibration = {
            "navigator": torch.from_numpy(without),
            "navigator_reversed": (torch.arange(without.shape[1]) % 2).to(torch.uint8),
        }
    return Scan(data, geometry, calibration=calibration)


def image(scan: Scan) -> Tensor:
    geometry = scan.geometry
    nufft = NUFFT(geometry.matrix, geometry.fov, geometry.trajectory.tensor())
    return nufft.initial(scan.data).abs().square().sum(-3).sqrt()


def ghost(scan: Scan) -> float:
    """Signal half a field of view away from the object's brightest half, relative to it."""
    picture = image(scan)
    n = picture.shape[-2]
    rows = picture.square().sum(-1)
    body = rows > 0.3 * rows.max()
    beside = body.roll(n // 2, 0) & ~body
    return float((rows[beside].mean() / rows[body].mean()).sqrt())


@pytest.mark.parametrize(
    ("name", "n", "navigator", "expected"),
    [
        ("epi128_4ch", 128, None, -3),
        ("epi128_4ch", 128, "epi128_4ch_noPE", -3),
        ("epi128_4ch_single_adc", 128, None, -3),
        ("epi96_ramp_1ch", 96, None, -2),
    ],
)
def test_delay_of_measured_trains(
    lab_data: Path, name: str, n: int, navigator: str | None, expected: float
) -> None:
    done = trajectory_delay(measured(lab_data, name, n, navigator))
    told = done.steps[-1]
    # The README's ghost-free delays were searched on a grid of 1 µs.
    assert told["delay_us"] == pytest.approx(expected, abs=0.7)
    assert told["method"] == ("navigator profiles" if navigator else "least spread image")
    train = "train" if name.endswith("adc") else "each readout"
    assert train in told["interpolated"]
    curve = done.curves[-1]
    assert curve.x[int(np.argmin(curve.y))] == pytest.approx(told["delay_us"], abs=0.45)
    assert abs(told.get("phase_rad", 0)) < 0.1


def test_navigator_and_image_agree(lab_data: Path) -> None:
    by_image = trajectory_delay(measured(lab_data, "epi128_4ch", 128), phase=True)
    by_lines = trajectory_delay(measured(lab_data, "epi128_4ch", 128, "epi128_4ch_noPE"))
    first, second = by_image.steps[-1], by_lines.steps[-1]
    assert first["delay_us"] == pytest.approx(second["delay_us"], abs=0.05)
    assert first["phase_rad"] == pytest.approx(second["phase_rad"], abs=0.03)


@pytest.mark.parametrize(("name", "n"), [("epi128_4ch", 128), ("epi128_4ch_single_adc", 128)])
def test_ghost_vanishes(lab_data: Path, name: str, n: int) -> None:
    before = measured(lab_data, name, n)
    assert ghost(trajectory_delay(before)) < 0.3 * ghost(before)


def test_scans_without_opposed_readouts_are_left_alone(lab_data: Path) -> None:
    before = measured(lab_data, "gre256_1ch", 256)
    done = trajectory_delay(before)
    assert done.geometry is before.geometry
    assert "forth and back" in done.steps[-1]["result"]
    cartesian = Scan(
        torch.ones(1, 8, 8, dtype=torch.complex64), MRIGeometry(matrix=(8, 8), fov=(0.1, 0.1))
    )
    assert "Cartesian" in trajectory_delay(cartesian).steps[-1]["result"]
    spokes = Scan(
        torch.ones(1, 16, 64, dtype=torch.complex64),
        MRIGeometry(matrix=(32, 32), fov=(0.2, 0.2), trajectory=Array(radial(32, 0.2, 16, 64))),
    )
    assert "forth and back" in trajectory_delay(spokes).steps[-1]["result"]


# -- simulated trains ------------------------------------------------------------------------------

N, FOV, DWELL = 64, 0.2, 5e-6


def zigzag(time: Tensor, lines: int, duration: float) -> Tensor:
    """``k(t)`` (…, axis): a sine along x, half a period per line, and short blips along y."""
    edge = N / (2 * FOV)
    kx = -edge * torch.cos(math.pi * time / duration)
    # The blip takes the last tenth of a line and the first of the next.
    place = time / duration
    line = (place + 0.1).floor()
    part = ((place + 0.1 - line) / 0.2).clamp(0, 1)
    ky = (line - 1 + part - lines / 2) / FOV
    return torch.stack([ky, kx], -1)


def train(
    tau: float, *, gap: bool, frames: int = 1, phase: float = 0.0, noise: float = 0.01
) -> tuple[Scan, Tensor]:
    """A scan whose samples were taken ``tau`` seconds late, and where they were taken."""
    per_line = 100
    duration = per_line * DWELL
    time = (torch.arange(N * per_line, dtype=torch.float64) + 0.5) * DWELL
    time = time.reshape(N, per_line)
    if gap:
        time = time[:, 10:-10]
    planned, true = (zigzag(time + shift, N, duration) for shift in (0.0, tau))
    geometry = MRIGeometry(
        matrix=(N, N),
        fov=(FOV, FOV),
        coils=2,
        trajectory=Array(planned),
        dwell=DWELL,
        frames={"slice": frames} if frames > 1 else {},
    )
    single = MRIGeometry(matrix=(N, N), fov=(FOV, FOV))
    x = random_objects(single, frames, torch.Generator().manual_seed(1))
    images = birdcage_maps(2, (N, N)) * x[:, None]
    data = NUFFT((N, N), (FOV, FOV), true)(images)
    turn = torch.ones(N)
    turn = torch.polar(turn, phase * (torch.arange(N) % 2).float())[:, None]
    data = Gaussian(noise).sample(data * turn, torch.Generator().manual_seed(2))
    return Scan(data if frames > 1 else data[0], geometry), true


@pytest.mark.parametrize("gap", [True, False])
@pytest.mark.parametrize("samples", [-1.3, 0.0, 0.62])
def test_delay_of_a_simulated_train(samples: float, gap: bool) -> None:
    before, true = train(samples * DWELL, gap=gap)
    done = trajectory_delay(before)
    assert done.steps[-1]["delay_samples"] == pytest.approx(samples, abs=0.05)
    off = (done.geometry.trajectory.tensor() - true).abs().amax(-1) * FOV
    # In cycles per field of view; the planned one is off by one sample's way.
    inside = off[2:-2]
    assert float(inside.quantile(0.99)) < 0.12


def test_phase_of_reversed_readouts_is_taken_out() -> None:
    before, _ = train(0.4 * DWELL, gap=True, phase=0.5)
    done = trajectory_delay(before, phase=True)
    assert done.steps[-1]["delay_samples"] == pytest.approx(0.4, abs=0.05)
    assert done.steps[-1]["phase_rad"] == pytest.approx(0.5, abs=0.05)
    plain, _ = train(0.4 * DWELL, gap=True)
    left = done.data - plain.data
    assert float(left.norm() / plain.data.norm()) < 0.06


@pytest.mark.parametrize("first", [0, 1])
def test_simulated_navigator(first: int) -> None:
    before, true = train(0.62 * DWELL, gap=True, phase=0.5)
    # Three lines without phase encoding, forth, back, forth or the other way round, whose phase
    # advances from line to line, too.
    lines = true[20 + first : 23 + first].clone()
    lines[..., 0] = 0
    single = MRIGeometry(matrix=(N, N), fov=(FOV, FOV))
    x = random_objects(single, 1, torch.Generator().manual_seed(1))[0]
    navigator = NUFFT((N, N), (FOV, FOV), lines)(birdcage_maps(2, (N, N)) * x)
    backwards = (torch.arange(3) + first) % 2
    turn = torch.polar(torch.ones(3), 0.5 * backwards + 0.3 * torch.arange(3))
    calibration = {
        "navigator": navigator * turn[:, None],
        "navigator_reversed": backwards.to(torch.uint8),
    }
    done = trajectory_delay(before.replace(calibration=calibration))
    assert done.steps[-1]["method"] == "navigator profiles"
    assert done.steps[-1]["delay_samples"] == pytest.approx(0.62, abs=0.02)
    assert done.steps[-1]["phase_rad"] == pytest.approx(0.5, abs=0.02)
    # A vendor may call the first direction the reversed one.
    other = {
        **calibration,
        "navigator_reversed": 1 - calibration["navigator_reversed"],
        "reversed": (1 - torch.arange(N) % 2).to(torch.uint8),
    }
    again = trajectory_delay(before.replace(calibration=other))
    assert again.steps[-1]["delay_samples"] == pytest.approx(0.62, abs=0.02)
    plain, _ = train(0.62 * DWELL, gap=True)
    for each in (done, again):
        assert float((each.data - plain.data).norm() / plain.data.norm()) < 0.06


def test_one_delay_for_all_slices() -> None:
    before, _ = train(0.62 * DWELL, gap=True, frames=3)
    done = trajectory_delay(before)
    assert done.steps[-1]["delay_samples"] == pytest.approx(0.62, abs=0.05)
    assert done.geometry.trajectory.shape == (N, 80, 2)


def test_delay_of_the_user() -> None:
    before, true = train(0.62 * DWELL, gap=False)
    done = trajectory_delay(before, delay=0.62 * DWELL * 1e6)
    off = (done.geometry.trajectory.tensor() - true)[:-1].abs().max() * FOV
    assert float(off) < 0.05
    assert done.steps[-1]["given"]
    no_dwell = before.replace(geometry=before.geometry.changed(dwell=None))
    with pytest.raises(StepError, match="dwell time, which the file lacks"):
        trajectory_delay(no_dwell, delay=1.0)
    with pytest.raises(StepError, match="number of samples"):
        trajectory_delay(before, search=0)
    assert trajectory_delay(no_dwell).steps[-1]["delay_samples"] == pytest.approx(0.62, abs=0.05)


def test_noise_has_no_delay() -> None:
    before, _ = train(0.0, gap=True)
    noise = torch.randn(
        before.data.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)
    )
    done = trajectory_delay(before.replace(data=noise))
    assert "no clear minimum" in done.steps[-1]["result"]
    assert done.geometry is before.geometry


def test_readouts_of_trains() -> None:
    (with_gap, _), (without, _) = train(0, gap=True), train(0, gap=False)
    first, second = (each.geometry.trajectory.tensor() for each in (with_gap, without))
    assert not joined(first)
    assert joined(second)
    assert readout_axis(first) == 1
    assert opposed(velocity(first, False)[..., 1])
    # Linear between samples and beyond the ends.
    line = torch.arange(5.0)[None, :, None]
    assert shifted(line, 0.3, False).flatten().tolist() == pytest.approx([0.3, 1.3, 2.3, 3.3, 4.3])
    assert shifted(line, -1.5, False).flatten().tolist() == pytest.approx(
        [-1.5, -0.5, 0.5, 1.5, 2.5]
    )


# -- radial ----------------------------------------------------------------------------------------


def radial(n: int, fov: float, spokes: int, samples: int, span: float = math.pi) -> Tensor:
    angle = torch.arange(spokes, dtype=torch.float64) * span / spokes
    r = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples * n / fov
    return torch.stack([angle.sin()[:, None] * r, angle.cos()[:, None] * r], -1)


def delayed(matrix: Tensor, spokes: Tensor, n: int = 96, phase: float = 0.0) -> tuple[Scan, Tensor]:
    """A scan of spokes that are off by ``T dk/dn``, and its object's coil images."""
    geometry = MRIGeometry(
        matrix=(n, n), fov=(FOV, FOV), coils=4, trajectory=Array(spokes), dwell=DWELL
    )
    single = MRIGeometry(matrix=(n, n), fov=(FOV, FOV))
    x = random_objects(single, 1, torch.Generator().manual_seed(1))[0]
    images = birdcage_maps(4, (n, n)) * x
    true = spokes + (spokes[:, 1] - spokes[:, 0])[:, None] @ matrix.mT
    data = NUFFT((n, n), (FOV, FOV), true)(images)
    generator = torch.Generator().manual_seed(2)
    drift = phase * torch.rand(len(spokes), generator=generator)
    data = data * torch.polar(torch.ones(len(spokes)), drift)[:, None]
    return Scan(Gaussian(0.02).sample(data, generator), geometry), images


def matrix(y: float, x: float, oblique: float = 0.0) -> Tensor:
    return torch.tensor([[y, oblique], [oblique, x]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("spokes", "samples", "span"),
    [(60, 192, math.pi), (64, 192, 2 * math.pi), (21, 96, 21 * 0.618034 * math.pi)],
)
def test_radial_delays_per_axis(spokes: int, samples: int, span: float) -> None:
    before, _ = delayed(matrix(0.3, -0.5), radial(96, FOV, spokes, samples, span))
    done = radial_delay(before)
    assert done.steps[-1]["delays_samples"] == pytest.approx([0.3, -0.5], abs=0.02)
    assert done.steps[-1]["oblique_samples"] == pytest.approx(0, abs=0.02)
    assert done.steps[-1]["delays_us"] == pytest.approx([1.5, -2.5], abs=0.1)


def test_radial_delays_of_oblique_slices() -> None:
    before, _ = delayed(matrix(0.3, 0.5, -0.2), radial(96, FOV, 40, 192))
    done = radial_delay(before)
    assert done.steps[-1]["delays_samples"] == pytest.approx([0.3, 0.5], abs=0.02)
    assert done.steps[-1]["oblique_samples"] == pytest.approx(-0.2, abs=0.02)


def test_radial_reconstruction_is_as_good_as_without_delay() -> None:
    spokes = radial(96, FOV, 150, 192)

    def error(scan: Scan, images: Tensor) -> float:
        trajectory = scan.geometry.trajectory.tensor()
        found = NUFFT((96, 96), (FOV, FOV), trajectory).initial(scan.data)
        return float((found - images).norm() / images.norm())

    before, images = delayed(matrix(0.3, 0.5), spokes)
    best = error(delayed(matrix(0, 0), spokes)[0], images)
    assert error(radial_delay(before), images) < 1.05 * best
    assert error(before, images) > 1.5 * best


def test_radial_delays_of_the_user_and_of_other_trajectories() -> None:
    spokes = radial(96, FOV, 24, 192)
    before, _ = delayed(matrix(0.3, 0.5), spokes)
    done = radial_delay(before, delays=[1.5, 2.5])
    found = radial_delay(before)
    assert torch.allclose(
        done.geometry.trajectory.tensor(), found.geometry.trajectory.tensor(), atol=0.5
    )
    with pytest.raises(StepError, match="axes"):
        radial_delay(before, delays=[1.0])
    outwards = before.geometry.changed(trajectory=Array(spokes[:, 96:]))
    half = before.replace(data=before.data[..., 96:], geometry=outwards)
    assert "no straight spokes" in radial_delay(half).steps[-1]["result"]
    train_scan, _ = train(0, gap=True)
    assert "no straight spokes" in radial_delay(train_scan).steps[-1]["result"]


def test_drifting_phase_is_not_taken_for_a_delay() -> None:
    before, _ = delayed(matrix(0.3, 0.5), radial(96, FOV, 40, 192), phase=2.5)
    done = radial_delay(before)
    assert "do not agree" in done.steps[-1]["result"]
    assert done.geometry is before.geometry
