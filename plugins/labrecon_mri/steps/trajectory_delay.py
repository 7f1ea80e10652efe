"""The delay between gradients and receiver, where opposed readouts make it a ghost."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from labrecon import Array, Scan
from labrecon.instrument import Curve, StepError
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.steps.ghost import Candidate, GhostScore, NavigatorScore, minimum
from labrecon_mri.steps.readouts import joined, opposed, readout_axis, shifted, velocity
from labrecon_mri.steps.requirements import geometry_of, not_applicable

__all__ = ["trajectory_delay"]

#: How far the best score lies below the median one when there is a ghost to tell by.
LEAST_CONTRAST = 0.02
#: Of the grid search, in samples; the scores' valley is about 0.3 wide.
STEP = 0.1


def trajectory_delay(
    scan: Scan,
    *,
    delay: float | None = None,
    phase: bool = False,
    search: float = 2.5,
) -> Scan:
    """Find the delay ``τ`` of a train of opposed readouts (EPI), and correct the trajectory.

    The samples were taken at ``k(t + τ)``: negative where the gradients lag behind the receiver.
    Found by navigator lines without phase encoding where the file has them, whose forward and
    reversed profiles then agree; else by the image in which the object's energy is least spread.
    ``k`` is interpolated along each readout, or along the whole train where it was sampled without
    a gap. Not for radial or spiral samples (`radial_delay`).

    Args:
        scan: along a trajectory, shots in time order.
        delay: ``τ`` in µs, instead of searching.
        phase: without navigator, search a constant phase between forward and reversed readouts,
            too, and take it out of the data; with navigator it comes from there.
        search: half width of the search in samples.

    Raises:
        StepError: ``delay`` or ``search`` make no sense.
    """
    geometry = geometry_of(scan)
    if geometry.trajectory is None:
        return not_applicable(scan, "trajectory_delay", "Cartesian samples")
    if not 0 < search <= 20:
        raise StepError(f"search is a number of samples in (0, 20], got {search}")
    paths = geometry.trajectory.tensor(torch.float64)
    paths = paths.reshape(-1, *paths.shape[-3:])
    data = scan.data.reshape(-1, *scan.data.shape[-3:])
    strongest = int(torch.linalg.vector_norm(data, dim=(1, 2, 3)).argmax())
    path = paths[strongest if len(paths) == len(data) else 0]
    axis, train = readout_axis(path), joined(path)
    if axis is None or not opposed(velocity(path, train)[..., axis]):
        why = "the readouts do not run forth and back along one axis"
        return not_applicable(scan, "trajectory_delay", why)
    told: dict[str, Any] = {
        "interpolated": "along the whole train" if train else "along each readout"
    }
    if delay is not None:
        if geometry.dwell is None or not math.isfinite(delay):
            raise StepError(
                f"a delay of {delay} µs is finite and needs the dwell time, which the file "
                f"{'lacks' if geometry.dwell is None else 'has'}"
            )
        moved = _moved(scan, geometry, paths, delay * 1e-6 / geometry.dwell, train)
        return moved.with_step("trajectory_delay", delay_us=delay, given=True, **told)
    profiles = _navigator(scan, geometry, path, axis)
    if profiles is not None:
        best, found, grid, scores = minimum(profiles, search, STEP, 1e-3)
        method, with_phase = "navigator profiles", True
    else:
        image = GhostScore(data[strongest], path, geometry.matrix, geometry.fov, train, phase)
        best, found, grid, scores = minimum(image, search, STEP, 1e-3)
        method, with_phase = "least spread image", phase
    typical = float(torch.tensor(scores).median())
    contrast = (typical - found.score) / max(typical, 1e-12)
    if contrast < LEAST_CONTRAST or abs(best) >= search:
        why = "the score has no clear minimum: the file's trajectory is kept"
        return not_applicable(scan, "trajectory_delay", why, contrast=contrast)
    moved = _moved(scan, geometry, paths, best, train)
    if with_phase:
        moved = _rephased(moved, paths, axis, train, found)
        told["phase_rad"] = found.phase
    dwell = geometry.dwell
    scale, unit = (1.0, "samples") if dwell is None else (dwell * 1e6, "µs")
    curve = Curve(
        "Delay between gradients and receiver",
        [scale * x for x in grid],
        scores,
        f"delay in {unit}",
        f"{method} (smaller is better)",
        scale * best,
    )
    if dwell is not None:
        told["delay_us"] = scale * best
    return moved.with_step(
        "trajectory_delay",
        curve=curve,
        method=method,
        delay_samples=best,
        contrast=contrast,
        **told,
    )


def _navigator(scan: Scan, geometry: MRIGeometry, path: Tensor, axis: int) -> NavigatorScore | None:
    """The score by navigator lines; None where the file has none of both directions."""
    lines, flags = scan.calibration.get("navigator"), scan.calibration.get("navigator_reversed")
    if lines is None or flags is None or lines.shape[-1] != path.shape[1]:
        return None
    own = path[..., axis]
    back, flagged = own[:, -1] < own[:, 0], flags.bool()
    if bool(flagged.all()) or not bool(flagged.any()) or bool(back.all()) or not bool(back.any()):
        return None
    shots = scan.calibration.get("reversed")
    if shots is not None and float((shots.bool() == back).double().mean()) < 0.5:
        # The file calls the other direction reversed.
        flagged = ~flagged
    # A navigator runs as the imaging readouts of its direction.
    positions = torch.stack([own[~back][0], own[back][0]])
    return NavigatorScore(lines, flagged, positions, geometry.matrix[axis], geometry.fov[axis])


def _moved(scan: Scan, geometry: MRIGeometry, paths: Tensor, samples: float, train: bool) -> Scan:
    assert geometry.trajectory is not None
    moved = torch.stack([shifted(path, samples, train) for path in paths])
    moved = moved.reshape(geometry.trajectory.shape)
    return scan.replace(geometry=geometry.changed(trajectory=Array(moved)))


def _rephased(scan: Scan, paths: Tensor, axis: int, train: bool, found: Candidate) -> Scan:
    """The data with the constant phase of the reversed readouts taken out."""
    assert isinstance(scan.geometry, MRIGeometry)
    back = torch.stack([velocity(path, train)[..., axis] < 0 for path in paths])
    turn = torch.polar(torch.ones(()), torch.tensor(-found.phase, dtype=torch.float32))
    factors = torch.where(back, turn, torch.ones((), dtype=turn.dtype)).to(scan.data.dtype)
    frames = tuple(scan.geometry.frames.values())
    leading = frames if len(paths) > 1 else (1,) * len(frames)
    return scan.replace(data=scan.data * factors.reshape(*leading, 1, *back.shape[1:]))
