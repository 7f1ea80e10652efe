"""Filtered back-projection: FBP for parallel and fan beams, FDK for cones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from labrecon_ct.redundancy import missing_columns, view_weights

if TYPE_CHECKING:
    from labrecon_ct.geometry import CTGeometry
    from labrecon_ct.projector import CTProjector

__all__ = ["FILTERS", "filtered_backprojection", "ramp"]

#: Voxels that are reconstructed at once.
BLOCK = 2**23
FILTERS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")


def ramp(columns: int, pitch: float, window: str = "ramp") -> Tensor:
    """Transfer function of the ramp filter for zero-padded rows, float64.

    Made from the band-limited kernel ``h[0] = 1/4d²``, ``h[odd n] = −1/(π n d)²`` (Kak and Slaney
    1988, eq. 61), so that the mean is right, times a window.

    Raises:
        ValueError: the window is not one of `FILTERS`.
    """
    if window not in FILTERS:
        raise ValueError(f"filter is one of {', '.join(FILTERS)}, got {window!r}")
    size = 2 ** math.ceil(math.log2(max(64, 2 * columns)))
    n = torch.arange(size, dtype=torch.float64)
    n = torch.minimum(n, size - n)
    kernel = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp_min(1) * pitch) ** 2, 0.0)
    kernel[0] = 1 / (4 * pitch**2)
    transfer = torch.fft.rfft(kernel).real * pitch
    f = torch.fft.rfftfreq(size, dtype=torch.float64)
    shape = {
        "ramp": torch.ones_like(f),
        "shepp-logan": torch.sinc(f),
        "cosine": torch.cos(math.pi * f),
        "hamming": 0.54 + 0.46 * torch.cos(2 * math.pi * f),
        "hann": 0.5 + 0.5 * torch.cos(2 * math.pi * f),
    }
    return transfer * shape[window]


def filtered_backprojection(operator: CTProjector, y: Tensor, window: str = "ramp") -> Tensor:
    """``(*batch, *range)`` to ``(*batch, *domain)`` in 1/mm.

    Views are weighted by their angular spacing, and rays measured twice share their weight: full
    turns, short scans (Noo's form of Parker's weights) and offset detectors (half acquisition) need
    no option. Less than a short scan is summed as it is and shows the missing wedge. A tilted
    detector's data are turned upright first. Gradients by angles and centre leave out the weights.
    """
    geometry = operator.flat
    batch = operator.range.batch(y)
    data = y.reshape(-1, *geometry.data_shape)
    # Slices are worked on in blocks: some copies of a block are needed, not of the volume.
    size = max(1, BLOCK // math.prod(geometry.volume_shape))
    image = data.new_empty(len(data), *geometry.volume_shape)
    for low in range(0, len(data), size):
        image[low : low + size] = _inverse(operator, data[low : low + size], window)
    return image.reshape(*batch, *operator.domain.shape)


def _inverse(operator: CTProjector, data: Tensor, window: str) -> Tensor:
    """``(batch, *data)`` to ``(batch, *volume)`` for the geometry of one slice, or of a cone."""
    geometry = operator.flat
    angles = operator.angles.to(torch.float64)
    centre = operator.centre.to(torch.float64)
    weights = view_weights(geometry, angles.detach(), centre.detach()).to(data)
    columns = geometry.columns
    pitch = geometry.column_pitch / geometry.magnification
    device = data.device
    u = torch.arange(columns, dtype=torch.float64, device=device) - (columns - 1) / 2
    u = (u - centre.to(device)) * pitch
    if geometry.detector_tilt:
        data = _upright(geometry, data)
    data = data * weights
    if geometry.beam == "cone":
        data = data * _cosines(geometry, u, device).to(data)
    left, right = _beyond(geometry, float(centre.detach()))
    data = torch.nn.functional.pad(data, (left, right))
    columns += left + right
    transfer = ramp(columns, pitch, window).to(data)
    size = 2 * (len(transfer) - 1)
    data = torch.fft.irfft(torch.fft.rfft(data, n=size) * transfer, n=size)[..., :columns]
    middle = (geometry.columns - 1) / 2 + centre.to(device) + left
    return _backproject(geometry, data, angles.to(device), middle)


def _beyond(geometry: CTGeometry, centre: float) -> tuple[int, int]:
    """Columns left and right of the detector onto which the filtered rays are continued.

    They reach to the corners of the grid, where an object that fits on the detector then is zero as
    it should be, and onto the side that an offset detector does not see.
    """
    *_, ny, nx = geometry.volume_shape
    radius = 0.5 * math.hypot(ny, nx) * geometry.voxel[-1]
    if geometry.source_origin:
        # The ray that touches the circle; a source within the circle has none.
        radius /= math.sqrt(max(1 - (radius / geometry.source_origin) ** 2, 0.1))
    reach = radius * geometry.magnification / geometry.column_pitch + 1
    half = 0.5 * (geometry.columns - 1)
    wanted = math.ceil(reach - half - centre), math.ceil(reach - half + centre)
    lacking = missing_columns(geometry, torch.tensor(centre))
    left, right = (max(pair) for pair in zip(wanted, lacking, strict=True))
    return left, right


def _upright(geometry: CTGeometry, data: Tensor) -> Tensor:
    """Data ``(batch, row, angle, column)`` as a detector without tilt would have them."""
    rows, columns = geometry.rows or 1, geometry.columns
    steps = geometry.row_pitch or 1.0, geometry.column_pitch
    middle = 0.5 * (rows - 1), 0.5 * (columns - 1)
    v = ((torch.arange(rows) - middle[0] - geometry.row_offset) * steps[0])[:, None]
    u = (torch.arange(columns) - middle[1]) * steps[1]
    cos_t, sin_t = math.cos(geometry.detector_tilt), math.sin(geometry.detector_tilt)
    column = (u * cos_t + v * sin_t) / steps[1] / max(middle[1], 0.5)
    row = ((v * cos_t - u * sin_t) / steps[0] + geometry.row_offset) / max(middle[0], 0.5)
    grid = torch.stack([column, row], -1).to(data)
    panels = data.transpose(1, 2).flatten(0, 1)[:, None]
    turned = torch.nn.functional.grid_sample(
        panels, grid.expand(len(panels), -1, -1, -1), align_corners=True
    )
    return turned[:, 0].unflatten(0, (len(data), -1)).transpose(1, 2)


def _cosines(geometry: CTGeometry, u: Tensor, device: torch.device) -> Tensor:
    """``D / √(D² + u² + v²)`` with the detector scaled to the rotation axis."""
    distance = geometry.source_origin or 0.0
    square = distance**2 + u.square()
    if geometry.ndim == 2:
        return distance / square.sqrt()
    v = _rows(geometry, device)
    return distance / (square + v.square()[:, None, None]).sqrt()


def _rows(geometry: CTGeometry, device: torch.device) -> Tensor:
    rows = geometry.rows or 1
    v = torch.arange(rows, dtype=torch.float64, device=device) - (rows - 1) / 2
    v = v - geometry.row_offset
    return v * (geometry.row_pitch or 1.0) / geometry.magnification


def _backproject(geometry: CTGeometry, data: Tensor, angles: Tensor, middle: Tensor) -> Tensor:
    """Pixel-driven sum over views with linear interpolation, weighted ``1/U²`` for cones.

    ``middle`` is the column of the rotation axis.
    """
    *_, ny, nx = geometry.volume_shape
    size = geometry.voxel[-1]
    options: dict[str, Any] = {"dtype": torch.float64, "device": data.device}
    x = (torch.arange(nx, **options) - (nx - 1) / 2) * size
    y = (((ny - 1) / 2 - torch.arange(ny, **options)) * size)[:, None]
    pitch = geometry.column_pitch / geometry.magnification
    image = torch.zeros(len(data), *geometry.volume_shape, dtype=data.dtype, device=data.device)
    for view, theta in enumerate(angles):
        s = x * theta.cos() + y * theta.sin()
        if geometry.beam == "parallel":
            depth, column = torch.ones_like(s), s / pitch + middle
            panel = data[..., view, :]
            flat = geometry.ndim == 2
            seen = _column(panel, column) if flat else _cone(geometry, panel, column, depth)
            image = image + seen
            continue
        distance = geometry.source_origin or 0.0
        # Depth below the source along the central ray, over the source-axis distance.
        depth = (distance - (x * theta.sin() - y * theta.cos())) / distance
        column = s / depth / pitch + middle
        scale = (1 / depth.square()).to(data.dtype)
        if geometry.ndim == 2:
            image = image + scale * _column(data[..., view, :], column)
        else:
            image = image + scale * _cone(geometry, data[..., view, :], column, depth)
    return image


def _column(line: Tensor, place: Tensor) -> Tensor:
    """Linear interpolation of ``(batch, columns)`` at ``place (ny, nx)``, 0 outside."""
    columns = line.shape[-1]
    low = place.detach().floor()
    fraction = (place - low).to(line.dtype)
    index = low.long()
    padded = torch.nn.functional.pad(line, (2, 2))
    index = (index + 2).clamp(0, columns + 2)
    values = padded[:, index]
    return values + fraction * (padded[:, index + 1] - values)


def _cone(geometry: CTGeometry, panel: Tensor, column: Tensor, depth: Tensor) -> Tensor:
    """Bilinear interpolation of ``(batch, rows, columns)`` for all slices: ``(batch, z, y, x)``."""
    nz = geometry.volume_shape[0]
    rows = geometry.rows or 1
    z = torch.arange(nz, dtype=torch.float64, device=panel.device) - (nz - 1) / 2
    z = z * geometry.voxel[0] + geometry.slice_offset
    spacing = (geometry.row_pitch or 1.0) / geometry.magnification
    at_columns = torch.nn.functional.pad(panel, (2, 2, 2, 2)).flatten(0, 1)
    inside = column.detach().floor().long().add(2).clamp(0, panel.shape[-1] + 2)
    across = (column - column.detach().floor()).to(panel.dtype)
    values = at_columns[:, inside]
    values = values + across * (at_columns[:, inside + 1] - values)
    values = values.reshape(len(panel), rows + 4, -1)
    place = z[:, None] / depth.flatten() / spacing + (rows - 1) / 2 + geometry.row_offset
    low = place.detach().floor()
    up = (place - low).to(panel.dtype)
    index = (low.long() + 2).clamp(0, rows + 2)
    below = values.gather(1, index.expand(len(panel), -1, -1))
    above = values.gather(1, (index + 1).expand(len(panel), -1, -1))
    return (below + up * (above - below)).reshape(len(panel), *geometry.volume_shape)
