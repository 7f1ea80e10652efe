"""WeakObject: the first order of partially coherent imaging, and its closed-form inverse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon import Space
from labrecon.design import InfeasibleError
from labrecon.functional import Map
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.microscope import Microscope

__all__ = ["WeakObject"]

#: Numbers of the kernels of single LEDs that are kept, rather than computed anew.
KEPT = 2**26


class WeakObject(Microscope):
    """``I / I₀ − 1 = F⁻¹{H_φ φ̂ + H_a â}``: contrast of weak objects under each exposure.

    With ``S`` the pattern, ``s`` running over the LEDs within the aperture and
    ``I₀ = Σ S |P(s)|²``:

    ``H_a(ν) = Σ_s S(s) [P*(s) P(s + ν) + P(s) P*(s − ν)] / I₀``

    ``H_φ(ν) = i Σ_s S(s) [P*(s) P(s + ν) − P(s) P*(s − ν)] / I₀``

    the exact derivative of `AbbeImaging` at an empty field (Streibl 1985; Tian and Waller 2015, who
    have the opposite sign of ``H_φ``). For phases up to some 0.3 rad: see the table in the page of
    the instrument. The domain is ``φ`` (y, x) or ``(φ, a)`` (component, y, x).

    Args:
        geometry: the acquisition.
        tikhonov: ``ρ`` of `initial`, which is ``argmin ½‖Hx − y‖² + ½ρ‖x‖²`` in closed form.
        dtype: of the images.

    Raises:
        InfeasibleError: an exposure lights no LED within the aperture, or the sample is a field, or
            a given ``upsample`` is too small.
    """

    linear = True

    def __init__(
        self,
        geometry: PhaseGeometry,
        *,
        tikhonov: float = 1e-2,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = geometry.object_shape
        kinds = {
            "phase": Space(shape, dtype, ("y", "x")),
            "absorbing": Space((2, *shape), dtype, ("component", "y", "x")),
        }
        if geometry.sample not in kinds:
            raise InfeasibleError(
                "the model of weak objects has a phase, or phase and absorption, as unknown: set "
                "sample to 'phase' or 'absorbing', not 'field'"
            )
        super().__init__(geometry, kinds[geometry.sample], dtype)
        self.tikhonov = float(tikhonov)
        self._kernels: tuple[Tensor, Tensor, Tensor] | None = None
        self._of: tuple[Tensor, ...] = ()
        self._made: tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]] | None = None
        dark = (geometry.patterns.tensor() * self._bright(geometry.na)).sum(1) == 0
        if bool(dark.any()):
            raise InfeasibleError(
                f"exposures {dark.nonzero()[:, 0].tolist()} light no LED within the aperture: dark "
                "fields have no contrast of first order; leave them out, or take data as "
                "intensities (the model 'abbe')"
            )
        self._require_room()

    def _require_room(self) -> None:
        """Raise where transfer functions reach beyond the object's grid, where they would wrap."""
        geometry = self.geometry
        with torch.no_grad():
            inside = self.frequencies()[self._inside()].abs().amax(0).tolist()
        for own, spacing in zip(inside, self.spacing, strict=True):
            reach = own + geometry.na / geometry.wavelength
            if reach > 1 / (2 * geometry.object_pixel) + spacing:
                needed = math.ceil(2 * geometry.pixel * reach)
                raise InfeasibleError(
                    f"transfer functions reach to {reach:.4g}/µm, the object's grid to "
                    f"{1 / (2 * geometry.object_pixel):.4g}/µm: take upsample = {needed}, or leave "
                    "it out"
                )

    # -- transfer functions --------------------------------------------------------------------

    def _grid(self) -> tuple[Tensor, Tensor]:
        rows, columns = self.geometry.object_shape
        device = self.leds.device
        y = torch.fft.fftfreq(rows, 1 / rows, dtype=torch.float64, device=device)
        x = torch.fft.fftfreq(columns, 1 / columns, dtype=torch.float64, device=device)
        return y * self.spacing[0], x * self.spacing[1]

    def _pair(self, frequencies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``P*(s) P(s + ν)``, ``P(s) P*(s − ν)`` and ``|P(s)|²`` of LEDs."""
        y, x = self._grid()
        at_y, at_x = frequencies[:, 0, None, None], frequencies[:, 1, None, None]
        own = self.pupil(at_y.to(self.real), at_x.to(self.real))
        plus = self.pupil((at_y + y[:, None]).to(self.real), (at_x + x).to(self.real))
        minus = self.pupil((at_y - y[:, None]).to(self.real), (at_x - x).to(self.real))
        return own.conj() * plus, own * minus.conj(), own.abs().square()[:, 0, 0]

    def _bright_kernels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Those of all LEDs within the aperture; kept while the nuisances stay as they are."""
        moved = self._moved()
        learned = any(value.requires_grad for value in moved)
        same = _same(self._of, moved)
        if self._kernels is not None and same and not learned:
            return self._kernels
        made = self._pair(self.frequencies()[self._inside()])
        if not learned and 2 * made[0].numel() <= KEPT:
            self._of = tuple(value.detach().clone() for value in moved)
            self._kernels = made
        return made

    def _inside(self) -> Tensor:
        with torch.no_grad():
            radius = torch.linalg.vector_norm(self.frequencies(), dim=1)
        cut = self.geometry.na / self.geometry.wavelength
        return radius <= cut * (1 + 4e-7) + self.rim / 2

    def transfer(self) -> tuple[Tensor, Tensor]:
        """``H_φ`` and ``H_a`` (exposure, y, x), in the order of `torch.fft.fft2`.

        Kept while patterns and nuisances stay as they are and nothing asks for their gradients.
        """
        given = (self.patterns, *self._moved())
        if any(value.requires_grad for value in given):
            return self._transfer()
        known = self._made
        if known is None or not _same(known[0], given):
            known = tuple(value.detach().clone() for value in given), self._transfer()
            self._made = known
        return known[1]

    def _moved(self) -> tuple[Tensor, ...]:
        return self.leds, self.led_shift, self.led_rotation, self.led_height, self.zernike

    def _transfer(self) -> tuple[Tensor, Tensor]:
        inside = self._inside()
        weights = self.patterns[:, inside]
        count = int(inside.sum())
        points = self.geometry.object_shape[0] * self.geometry.object_shape[1]
        if 2 * count * points <= KEPT:
            plus, minus, light = self._bright_kernels()
            first, second, power = _mixed(weights, plus, minus, light)
        elif self._on_grid(inside):
            first, second, power = self._correlated(inside, weights)
        else:
            frequencies = self.frequencies()[inside]
            length = max(1, KEPT // (8 * points))
            parts = zip(frequencies.split(length), weights.split(length, 1), strict=True)
            sums = [_mixed(w, *self._pair(f)) for f, w in parts]
            first, second, power = (sum(part[1:], part[0]) for part in zip(*sums, strict=True))
        power = power[:, None, None]
        return 1j * (first - second) / power, (first + second) / power

    def _steps(self, inside: Tensor) -> Tensor:
        spacing = torch.tensor(self.spacing, dtype=torch.float64, device=self.leds.device)
        return self.frequencies()[inside] / spacing

    def _on_grid(self, inside: Tensor) -> bool:
        """Whether all LEDs lie on the spectrum's grid, so that sums are correlations."""
        steps = self._steps(inside)
        if steps.requires_grad:  # rounding would lose the derivative
            return False
        return bool(((steps - steps.round()).abs() < 1e-6).all())

    def _correlated(self, inside: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns = self.geometry.object_shape
        steps = self._steps(inside).round().long()
        place = steps[:, 0].remainder(rows) * columns + steps[:, 1].remainder(columns)
        source = weights.new_zeros(len(weights), rows * columns).index_add(1, place, weights)
        source = source.reshape(-1, rows, columns)
        y, x = self._grid()
        lens = self.pupil(y.to(self.real)[:, None], x.to(self.real))
        lit, through = torch.fft.fft2(source * lens), torch.fft.fft2(lens)
        first = torch.fft.ifft2(lit.conj() * through)
        second = torch.fft.ifft2(lit * through.conj())
        return first, second, (source * lens.abs().square()).sum((-2, -1))

    # -- the map -------------------------------------------------------------------------------

    def _kernel(self) -> Tensor:
        """(exposure, component, y, x)."""
        phase, absorption = self.transfer()
        if self.geometry.sample == "phase":
            return phase[:, None]
        return torch.stack([phase, absorption], 1)

    def _whole(self) -> tuple[Tensor, Tensor]:
        rows, columns = self.geometry.object_shape
        device = self.leds.device
        y = torch.fft.fftfreq(rows, 1 / rows, device=device).round().long()
        x = torch.fft.fftfreq(columns, 1 / columns, device=device).round().long()
        return y, x

    def _components(self, x: Tensor) -> Tensor:
        return x if self.geometry.sample == "absorbing" else x.unsqueeze(-3)

    def forward(self, x: Tensor) -> Tensor:
        """Contrast of objects."""
        spectrum = torch.fft.fft2(self._components(x), norm="forward")
        made = (self._kernel() * spectrum.unsqueeze(-4)).sum(-3)
        return self.to_camera(made, *self._whole())

    def adjoint(self, y: Tensor) -> Tensor:
        """``Hᴴ y``."""
        rows, columns = self._whole()
        height, width = self.geometry.shape
        spectrum = torch.fft.fft2(y)[..., rows.remainder(height), :]
        spectrum = spectrum[..., columns.remainder(width)] * self._blur(rows, columns)
        back = (self._kernel().conj() * spectrum.unsqueeze(-3)).sum(-4)
        made = torch.fft.ifft2(back).real
        return made if self.geometry.sample == "absorbing" else made.squeeze(-3)

    @property
    def folds(self) -> bool:
        """Whether the camera samples too coarsely, so that frequencies fold onto others."""
        return self.geometry.upsampling > 1 and any(
            size > pixels + 1
            for size, pixels in zip(
                self.window(2 * self.geometry.na / self.geometry.wavelength + self.rim),
                self.geometry.shape,
                strict=True,
            )
        )

    def _diagonal(self) -> Tensor:
        """Kernel with the camera's pixels in it (exposure, component, y, x)."""
        rows, columns = self._whole()
        height, width = self.geometry.shape
        scale = (height * width / (len(rows) * len(columns))) ** 0.5
        return self._kernel() * (scale * self._blur(rows, columns))

    def _matrix(self, weights: Tensor | None) -> Tensor | None:
        """``HᴴWH`` for each frequency (y, x, component, component), or None where they mix."""
        each = _per_exposure(weights, self.range)
        if self.folds or each is None:
            return None
        kernel = self._diagonal()
        lit = kernel if weights is None else kernel * each.to(kernel)[:, None, None, None]
        return torch.einsum("ecyx,edyx->yxcd", kernel.conj(), lit)

    def normal_map(self, weights: Tensor | None = None) -> Map:
        """``x ↦ HᴴWH x``, with the transfer functions computed once."""
        matrix = self._matrix(weights)
        if matrix is None:
            return super().normal_map(weights)

        def apply(x: Tensor) -> Tensor:
            right = torch.fft.fft2(self._components(x)).movedim(-3, -1).unsqueeze(-1)
            made = torch.fft.ifft2((matrix @ right).squeeze(-1).movedim(-1, -3)).real
            return made if self.geometry.sample == "absorbing" else made.squeeze(-3)

        return apply

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``HᴴWH x``."""
        if self._matrix(weights) is None:
            return super().normal(x, weights)
        return self.normal_map(weights)(x)

    def solve(
        self,
        rhs: Tensor,
        rho: Tensor | float,
        *,
        weights: Tensor | None = None,
        x0: Tensor | None = None,
        iterations: int = 30,
        tolerance: float = 1e-6,
    ) -> Tensor:
        """``(HᴴWH + ρ)⁻¹ rhs``: a system of one or two unknowns for each frequency.

        By conjugate gradients where frequencies fold, or where weights differ within an image.
        """
        matrix = self._matrix(weights)
        if matrix is None:
            return super().solve(
                rhs, rho, weights=weights, x0=x0, iterations=iterations, tolerance=tolerance
            )
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        right = torch.fft.fft2(self._components(rhs)).movedim(-3, -1).unsqueeze(-1)
        regular = torch.as_tensor(rho, dtype=self.real, device=rhs.device)
        while 0 < regular.ndim < rhs.ndim:
            regular = regular.unsqueeze(-1)
        if regular.ndim:
            regular = regular.reshape(*regular.shape[: right.ndim - 4], 1, 1, 1, 1)
        found = torch.linalg.solve(matrix + regular * eye, right).squeeze(-1).movedim(-1, -3)
        made = torch.fft.ifft2(found).real
        return made if self.geometry.sample == "absorbing" else made.squeeze(-3)

    def initial(self, y: Tensor) -> Tensor:
        """Tikhonov's solution, in closed form where frequencies do not fold."""
        return self.solve(self.adjoint(y), self.tikhonov)


def _same(known: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> bool:
    return len(known) == len(given) and all(
        a.shape == b.shape and a.device == b.device and torch.equal(a, b)
        for a, b in zip(known, given, strict=True)
    )


def _mixed(
    weights: Tensor, plus: Tensor, minus: Tensor, light: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    lead, shape = weights.to(plus.dtype), plus.shape[1:]
    first = (lead @ plus.flatten(1)).reshape(-1, *shape)
    second = (lead @ minus.flatten(1)).reshape(-1, *shape)
    return first, second, weights @ light


def _per_exposure(weights: Tensor | None, space: Space) -> Tensor | None:
    """One weight per exposure, or None where they differ within an image."""
    if weights is None:
        return torch.ones(space.shape[0])
    spread = torch.broadcast_to(weights, space.shape) if weights.ndim <= 3 else None
    if spread is None or bool((spread.amax((-2, -1)) != spread.amin((-2, -1))).any()):
        return None
    return spread[:, 0, 0]
