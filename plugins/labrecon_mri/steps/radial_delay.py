"""Gradient delays of radial scans, from where the spokes cross."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labrecon import Array, Scan
from labrecon.instrument import StepError
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.steps.readouts import velocity
from labrecon_mri.steps.requirements import geometry_of, not_applicable

__all__ = ["radial_delay"]

#: Pairs of spokes that are compared: more do not tell more.
PAIRS = 800
#: Spokes that cross at a smaller angle (as a cosine) do not say where.
PARALLEL = 0.9
#: Interpolation of the spokes before the crossing is looked up, in points per sample.
FINE = 16
#: Samples on both sides of the middle that are interpolated, and those in which spokes may cross.
NEAR, REACH = 32, 12
#: Mismatch at the best crossings, relative to the signal around the centre, beyond which something
#: else is wrong: a drift of the phase, motion.
DISAGREEMENT = 0.3


def radial_delay(scan: Scan, *, delays: Sequence[float] | None = None) -> Scan:
    """Find the gradient delays of spokes through the centre, and correct the trajectory.

    RING (Rosenzweig, Holme and Uecker 2019): with delays, spokes miss the centre by
    ``δ = T dk/dn``, ``T`` (axis, axis) symmetric, in samples; its diagonal are the delays of the
    axes, the rest is the oblique part. Two spokes have the same signal where they cross:
    ``T`` minimises ``Σ |y_i − y_j|²`` over pairs of spokes and coils. The samples were taken at
    ``k + δ``: negative where the gradients lag behind the receiver. Not for spokes that start in
    the centre, nor where the phase drifts from spoke to spoke.

    Args:
        scan: two-dimensional, spokes through the centre of k-space.
        delays: of the image axes (y, x) in µs, instead of the search.

    Raises:
        StepError: ``delays`` are not two finite numbers, or the dwell time is not known.
    """
    geometry = geometry_of(scan)
    if geometry.trajectory is None or geometry.ndim != 2:
        return not_applicable(scan, "radial_delay", "not a two-dimensional trajectory")
    paths = geometry.trajectory.tensor(torch.float64)
    spokes = paths.reshape(-1, *paths.shape[-3:])
    if delays is not None:
        if len(delays) != 2 or not all(math.isfinite(delay) for delay in delays):
            raise StepError(f"delays are finite, of the axes (y, x) in µs, got {list(delays)}")
        if geometry.dwell is None:
            raise StepError("delays in µs need the dwell time, which the file lacks")
        samples = torch.tensor(delays, dtype=torch.float64) * 1e-6 / geometry.dwell
        return _corrected(scan, geometry, spokes, torch.diag(samples)).with_step(
            "radial_delay", delays_us=list(delays), given=True
        )
    data = scan.data.reshape(-1, *scan.data.shape[-3:])
    strongest = int(torch.linalg.vector_norm(data, dim=(1, 2, 3)).argmax())
    path = spokes[strongest if len(spokes) == len(data) else 0]
    middle = _middle(path, geometry)
    if middle is None:
        return not_applicable(scan, "radial_delay", "no straight spokes through the centre")
    matrix, before, after = _fitted(data[strongest], path, middle)
    if after > DISAGREEMENT or float(matrix.abs().max()) > REACH / 4:
        why = "spokes do not agree where they cross: the file's trajectory is kept"
        return not_applicable(scan, "radial_delay", why, mismatch=after)
    told: dict[str, Any] = {}
    if geometry.dwell is not None:
        told["delays_us"] = [float(value) * geometry.dwell * 1e6 for value in matrix.diagonal()]
    return _corrected(scan, geometry, spokes, matrix).with_step(
        "radial_delay",
        method="crossings of spokes (RING)",
        delays_samples=matrix.diagonal().tolist(),
        oblique_samples=float(matrix[0, 1]),
        mismatch=[before, after],
        **told,
    )


def _corrected(scan: Scan, geometry: MRIGeometry, spokes: Tensor, matrix: Tensor) -> Scan:
    assert geometry.trajectory is not None
    moved = torch.stack([path + velocity(path, False) @ matrix.mT for path in spokes])
    moved = moved.reshape(geometry.trajectory.shape)
    return scan.replace(geometry=geometry.changed(trajectory=Array(moved)))


def _middle(path: Tensor, geometry: MRIGeometry) -> int | None:
    """The sample nearest to the centre; None unless all shots are straight lines through it."""
    shots, samples = path.shape[:2]
    if shots < 4 or samples < 2 * NEAR:
        return None
    distance = path.norm(dim=-1)
    middle = int(distance.mean(0).argmin())
    step = velocity(path, False)[:, middle]
    unit = step / step.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    across = path[..., 0] * unit[:, None, 1] - path[..., 1] * unit[:, None, 0]
    cell = 1 / max(geometry.fov)
    through = float(distance[:, middle].max()) < cell and float(across.abs().max()) < cell
    inside = NEAR <= middle < samples - NEAR
    crossing = float((unit @ unit.mT).abs().min()) < PARALLEL
    return middle if through and inside and crossing else None


def _fitted(data: Tensor, path: Tensor, middle: int) -> tuple[Tensor, float, float]:
    """``T`` in samples, and the relative mismatch at the crossings before and after."""
    from scipy.optimize import least_squares

    step = velocity(path, False)[:, middle]
    offset = path[:, middle]
    first, second = _pairs(step)
    fine = _interpolated(data, middle)
    size = float(fine.abs().square().mean().sqrt())

    def residual(values: Any) -> Any:
        a, b, c = values
        matrix = step.new_tensor([[a, b], [b, c]])
        start = offset + step @ matrix.mT
        # start_i + u step_i = start_j + v step_j
        system = torch.stack([step[first], -step[second]], -1)
        where = torch.linalg.solve(system, start[second] - start[first])
        where = where.clamp(-REACH, REACH)
        difference = _looked_up(fine, first, where[:, 0]) - _looked_up(fine, second, where[:, 1])
        return torch.view_as_real(difference / size).flatten().numpy()

    found = least_squares(residual, [0.0, 0.0, 0.0], loss="soft_l1", diff_step=1e-3, x_scale=0.1)
    a, b, c = found.x
    before, after = (float((residual(x) ** 2).mean() ** 0.5) for x in ([0.0] * 3, found.x))
    return step.new_tensor([[a, b], [b, c]]), before, after


def _pairs(step: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of spokes that are far from parallel, at most `PAIRS`, the same in each run."""
    unit = step / step.norm(dim=-1, keepdim=True)
    first, second = torch.triu_indices(len(step), len(step), 1)
    crossing = (unit[first] * unit[second]).sum(-1).abs() < PARALLEL
    first, second = first[crossing], second[crossing]
    chosen = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))[:PAIRS]
    return first[chosen], second[chosen]


def _interpolated(data: Tensor, middle: int) -> Tensor:
    """Spokes around their middle, `FINE` points per sample: (coil, shot, point), complex128.

    Band-limited: the profile of a spoke has no more pixels than the spoke has samples.
    """
    near = data[..., middle - NEAR : middle + NEAR].to(torch.complex128)
    window = torch.cos(torch.linspace(-1, 1, 2 * NEAR + 1, dtype=torch.float64)[:-1] * math.pi / 2)
    spectrum = torch.fft.fftshift(torch.fft.fft(near * window, dim=-1), dim=-1)
    extra = NEAR * (FINE - 1)
    padded = torch.nn.functional.pad(spectrum, (extra, extra))
    points = torch.fft.ifft(torch.fft.ifftshift(padded, dim=-1), dim=-1) * FINE
    place = torch.arange(2 * NEAR * FINE, dtype=torch.float64) / (NEAR * FINE) - 1
    return points / torch.cos(place * math.pi / 2).clamp_min(1e-3)


def _looked_up(fine: Tensor, shots: Tensor, where: Tensor) -> Tensor:
    """Values of spokes at places in samples from their middle: (coil, pair)."""
    place = (where + NEAR) * FINE
    index = place.floor().long()
    part = (place - index).to(fine.dtype)
    low, high = fine[:, shots, index], fine[:, shots, index + 1]
    return low + part * (high - low)
