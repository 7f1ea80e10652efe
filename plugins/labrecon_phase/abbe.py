"""AbbeImaging: images of a thin object under many LEDs, bright and dark field."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from labrecon import Operator, Space
from labrecon.design import InfeasibleError
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.microscope import Microscope

__all__ = ["AbbeImaging"]

#: Bytes of the fields of one chunk of LEDs: as much as stays in a processor's cache.
CHUNK = 16 * 2**20
#: Bytes of fields that are kept for a gradient; beyond it they are computed again.
BUDGET = 512 * 2**20


class AbbeImaging(Microscope):
    """``I_j(r) = Σ_l w_jl |F⁻¹{P(ν + ν_l) O(ν)}|² + b_j``, then the camera's pixels.

    Each LED lights the object with a plane wave that shifts its spectrum; the pupil cuts a disc out
    of it. The disc is evaluated where the LED is, not at the nearest sample of a grid, and only the
    window that holds it is transformed. The field of an LED serves all exposures.

    The domain is ``φ`` (y, x); ``(φ, a)`` (component, y, x); or the complex transmission (y, x), as
    ``geometry.sample`` says. The range is (exposure, y, x). A nuisance besides those of
    `Microscope` is ``background``, the stray light ``b_j``.

    Args:
        geometry: the acquisition.
        budget: bytes of fields that are kept for a gradient; beyond it each chunk of LEDs is
            computed again in the backward pass.
        dtype: of the images.

    Raises:
        InfeasibleError: the spectrum under an LED does not fit the object's grid (a given
            ``upsample`` that is too small).
    """

    linear = False
    background: Tensor

    def __init__(
        self,
        geometry: PhaseGeometry,
        *,
        budget: int = BUDGET,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = geometry.object_shape
        kinds = {
            "phase": Space(shape, dtype, ("y", "x")),
            "absorbing": Space((2, *shape), dtype, ("component", "y", "x")),
            "field": Space(shape, dtype.to_complex(), ("y", "x")),
        }
        super().__init__(geometry, kinds[geometry.sample], dtype)
        background = torch.tensor(geometry.background or [0.0] * geometry.exposures, dtype=dtype)
        self.nuisance("background", background)
        self.budget = budget
        reach = geometry.na / geometry.wavelength + self.rim / 2
        self.size = self.window(reach)
        self.grid = tuple(next_fast_len(2 * size - 1, real=False) for size in self.size)
        self._require_room()

    def _require_room(self) -> None:
        shape = self.geometry.object_shape
        with torch.no_grad():
            corner = self._corners(self.frequencies())
        for axis, name in enumerate("yx"):
            low, high = int(corner[:, axis].min()), int(corner[:, axis].max()) + self.size[axis]
            # The last sample of a window is empty unless the disc lies just so.
            if low + 1 < -(shape[axis] // 2) or high - 2 > shape[axis] // 2:
                pixels = math.ceil(2 * max(-low, high) / self.geometry.shape[axis])
                raise InfeasibleError(
                    f"under its outermost LED the spectrum goes beyond the object's grid of "
                    f"{shape[axis]} pixels along {name}: take upsample = {pixels} or leave it out"
                )

    def _corners(self, frequencies: Tensor) -> Tensor:
        """First sample (led, 2) of the window around ``−ν_l``, in spacings."""
        middle = -frequencies.detach() / frequencies.new_tensor(self.spacing)
        half = torch.tensor(self.size, dtype=middle.dtype, device=middle.device) / 2
        return (middle - half).ceil().long()

    def transmission(self, x: Tensor) -> Tensor:
        """``exp(a + iφ)``."""
        if self.geometry.sample == "field":
            return x
        if self.geometry.sample == "phase":
            return torch.polar(torch.ones_like(x), x)
        return torch.polar(x[..., 1, :, :].exp(), x[..., 0, :, :])

    def forward(self, x: Tensor) -> Tensor:
        """Images of objects."""
        spectrum = torch.fft.fft2(self.transmission(x), norm="forward")
        intensity = self.intensities(spectrum, self.patterns)
        return self.on_camera(intensity) + self.background[:, None, None]

    def single(self, x: Tensor) -> Tensor:
        """Images (…, led, y, x) under each LED alone, at brightness 1."""
        spectrum = torch.fft.fft2(self.transmission(x), norm="forward")
        every = torch.eye(len(self.leds), dtype=self.real, device=x.device)
        return self.on_camera(self.intensities(spectrum, every))

    def on_camera(self, intensity: Tensor) -> Tensor:
        """What the camera makes of intensities on their grid."""
        if tuple(self.grid) == self.geometry.shape and not self.geometry.pixel_fill:
            return intensity
        spectrum = torch.fft.fft2(intensity, norm="forward")
        rows, columns = (_ticks(size, spectrum.device) for size in self.size)
        kept = spectrum[..., rows.remainder(self.grid[0]), :][..., columns.remainder(self.grid[1])]
        return self.to_camera(kept, rows, columns)

    def windows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pupil (led, row, column) where it cuts the spectrum, and the samples that it meets."""
        frequencies = self.frequencies()
        corner = self._corners(frequencies)
        axes = []
        for axis, size in enumerate(self.size):
            index = corner[:, axis, None] + torch.arange(size, device=corner.device)
            place = index.double() * self.spacing[axis] + frequencies[:, axis, None]
            axes.append((index, place.to(self.real)))
        (rows, y), (columns, x) = axes
        cut = self.pupil(y[:, :, None], x[:, None, :])
        height, width = self.geometry.object_shape
        return cut, rows.remainder(height), columns.remainder(width)

    def intensities(self, spectrum: Tensor, patterns: Tensor) -> Tensor:
        """``Σ_l w_jl |…|²`` (…, exposure, row, column) on the grid of intensities."""
        cut, rows, columns = self.windows()
        lead = spectrum.shape[:-2]
        size = len(cut) * self._field_bytes(lead)
        tensors = (spectrum, patterns, cut)
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        again = recorded and 2 * size > self.budget
        parts, places = [], []
        for chunk, lit in self.chunks(patterns, lead):
            weights = patterns[lit][:, chunk]
            given = (spectrum, cut[chunk], rows[chunk], columns[chunk], weights)
            if again:
                part = checkpoint(
                    self._chunk, *given, use_reentrant=False, preserve_rng_state=False
                )
                parts.append(part)
            else:
                parts.append(self._chunk(*given))
            places.append(lit)
        if parts and all(len(lit) == len(patterns) for lit in places):
            return sum(parts[1:], parts[0])
        total = patterns.new_zeros(*lead, len(patterns), *self.grid)
        if not parts:
            return total
        return total.index_add(-3, torch.cat(places), torch.cat(parts, -3))

    def _field_bytes(self, lead: tuple[int, ...]) -> int:
        return math.prod(self.grid) * max(1, math.prod(lead)) * 2 * self.real.itemsize

    def chunks(self, patterns: Tensor, lead: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """LEDs to be treated together, and the exposures that light one of them."""
        length = max(1, CHUNK // self._field_bytes(lead))
        every = torch.arange(len(patterns), device=patterns.device)
        if patterns.requires_grad:
            order = torch.arange(patterns.shape[1], device=patterns.device)
            return [(chunk, every) for chunk in order.split(length)]
        lit = patterns.detach() != 0
        found = []
        used = lit.any(0).nonzero()[:, 0]
        for chunk in used.split(length) if len(used) else ():
            found.append((chunk, lit[:, chunk].any(1).nonzero()[:, 0]))
        return found

    def fields(self, spectrum: Tensor, cut: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """``ψ_l`` (…, led, row, column) in the image plane, up to a ramp of the phase."""
        part = spectrum[..., rows[:, :, None], columns[:, None, :]] * cut
        # Where in the transform's grid the window lies turns the phase of the field alone.
        return torch.fft.ifft2(part, s=self.grid, norm="forward")

    def _chunk(
        self, spectrum: Tensor, cut: Tensor, rows: Tensor, columns: Tensor, weights: Tensor
    ) -> Tensor:
        field = self.fields(spectrum, cut, rows, columns)
        power = field.real.square() + field.imag.square()
        lead, grid = power.shape[:-3], power.shape[-2:]
        mixed = torch.matmul(weights, power.reshape(*lead, len(cut), -1))
        return mixed.reshape(*lead, len(weights), *grid)

    def linearize(self, x: Tensor) -> Operator:
        """The Jacobian at ``x``, with the fields kept where they fit the budget."""
        from labrecon_phase.tangent import Tangent

        size = len(self.leds) * self._field_bytes(self.domain.batch(x))
        moves = x.requires_grad or any(value.requires_grad for value in self.parameters())
        if size > 4 * self.budget or (moves and torch.is_grad_enabled()):
            return super().linearize(x)
        return Tangent(self, x)

    def initial(self, y: Tensor) -> Tensor:
        """No phase; for a complex transmission the root of the brightest image."""
        if self.geometry.sample != "field":
            return self.domain.zeros(*self.range.batch(y), device=y.device)
        light = self.empty().clamp_min(1e-6)
        brightest = int(light.argmax())
        image = (y[..., brightest, :, :] / light[brightest]).clamp_min(0).sqrt()
        upsample = self.geometry.upsampling
        spectrum = torch.fft.fftshift(torch.fft.fft2(image, norm="forward"), dim=(-2, -1))
        height, width = self.geometry.shape
        padded = spectrum.new_zeros(*image.shape[:-2], *self.geometry.object_shape)
        top = (height * upsample) // 2 - height // 2
        left = (width * upsample) // 2 - width // 2
        padded[..., top : top + height, left : left + width] = spectrum
        return torch.fft.ifft2(torch.fft.ifftshift(padded, dim=(-2, -1)), norm="forward")

    def empty(self) -> Tensor:
        """Intensity of the empty field in each exposure."""
        with torch.no_grad():
            y, x = self.frequencies().to(self.real).unbind(1)
            return self.patterns.detach() @ self.pupil(y, x).abs().square()


def _ticks(size: int, device: Any) -> Tensor:
    """Frequencies of the product of a window with itself."""
    return torch.arange(-(size - 1), size, device=device)
