"""Coronagraph: from the wave before the telescope to the image, linear in the wave."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labrecon_coronagraph.chunks import in_chunks
from labrecon_coronagraph.focal_masks import FocalMask
from labrecon_coronagraph.fourier import Grid, MatrixFourier

__all__ = ["Coronagraph", "intensity", "plane_wave"]


class Coronagraph(nn.Module):
    """Pupil, apodizer, focal-plane mask, Lyot stop, image.

    ``E_A = A Φ E``, ``E_C = L · C{E_A}`` and ``E(u) = F{E_C}``, where ``E`` is the incoming wave on
    the samples of the pupil, 1 for a star on the axis of a perfect telescope. The mask makes
    ``C``; for an opaque disc ``C{E} = E − F⁻¹{(1 − M) F{E}}``. All is computed in the precision of
    the wave. Wavelengths are relative to the reference ``λ0``; angles in λ0/D.

    Args:
        pupil: transmission ``A`` of the telescope (y, x), 0 to 1, square.
        mask: in the focal plane.
        image: grid of the image, in λ0/D.
        apodizer: ``Φ`` (y, x), real or complex amplitude; gradients flow through it.
        lyot_stop: ``L`` (y, x), real or complex amplitude; the pupil where not given; gradients
            flow through it.
        wavelengths: ``λ/λ0`` of the images that `images` makes.

    Raises:
        ValueError: shapes that do not agree, NaN, a pupil outside 0…1 or empty, wavelengths that
            are not above 0.

    Example:
        >>> from labrecon_coronagraph.focal_masks import Vortex
        >>> from labrecon_coronagraph.pupils import circular
        >>> pupil = circular(64)
        >>> optics = Coronagraph(pupil, Vortex(2), image=Grid.centred(32, 0.5))
        >>> star = optics.off_axis(torch.zeros(2, dtype=torch.float64))
        >>> planet = optics.off_axis(torch.tensor([0.0, 5.0], dtype=torch.float64))
        >>> bool(star.max() < 1e-2 * planet.max())
        True
    """

    pupil: Tensor
    apodizer: Tensor
    lyot_stop: Tensor

    def __init__(
        self,
        pupil: Tensor,
        mask: FocalMask,
        *,
        image: Grid,
        apodizer: Tensor | None = None,
        lyot_stop: Tensor | None = None,
        wavelengths: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        _check_pupil(pupil)
        apodizer = torch.ones_like(pupil) if apodizer is None else apodizer
        lyot_stop = pupil if lyot_stop is None else lyot_stop
        for name, value in (("apodizer", apodizer), ("Lyot stop", lyot_stop)):
            _check_amplitude(name, value, pupil)
        if not wavelengths or not all(0 < value < math.inf for value in wavelengths):
            raise ValueError(
                f"wavelengths {tuple(wavelengths)}, expected numbers above 0 in units of λ0"
            )
        self.register_buffer("pupil", pupil)
        self._place("apodizer", apodizer)
        self._place("lyot_stop", lyot_stop)
        self.mask = mask
        self.image = image
        self.wavelengths = tuple(float(value) for value in wavelengths)
        self._masked = mask.propagation(len(pupil))
        self._to_image: dict[float, MatrixFourier] = {}

    def _place(self, name: str, value: Tensor) -> None:
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)

    def replaced(
        self,
        *,
        apodizer: Tensor | None = None,
        lyot_stop: Tensor | None = None,
        mask: FocalMask | None = None,
    ) -> Coronagraph:
        """The same coronagraph with other optics; matrices are shared, gradients flow.

        Raises:
            ValueError: an apodizer or Lyot stop of another shape, or with NaN.
        """
        other = copy.copy(self)
        other._parameters, other._buffers = dict(self._parameters), dict(self._buffers)
        given = (("apodizer", "apodizer", apodizer), ("lyot_stop", "Lyot stop", lyot_stop))
        for name, label, value in given:
            if value is not None:
                _check_amplitude(label, value, self.pupil)
                delattr(other, name)
                other._place(name, value)
        if mask is not None:
            other.mask, other._masked = mask, mask.propagation(len(self.pupil))
        return other

    # -- fields, linear in the wave ------------------------------------------------------------

    def lyot_field(self, wave: Tensor, wavelength: float = 1.0) -> Tensor:
        """``E_C`` (…, y, x) behind the Lyot stop, of a complex wave (…, y, x).

        Raises:
            TypeError: a real wave.
            ValueError: another shape than the pupil's.
        """
        self._check_wave(wave)
        entered = wave * (self.pupil * self.apodizer).to(wave.dtype)
        return self._masked(entered, 1 / wavelength).mul_(self.lyot_stop.to(wave.dtype))

    def image_field(self, wave: Tensor, wavelength: float = 1.0) -> Tensor:
        """``E(u)`` (…, v, u) on the grid of the image, of a complex wave (…, y, x).

        Raises:
            TypeError: a real wave.
            ValueError: another shape than the pupil's.
        """
        return self._transform(wavelength).forward(self.lyot_field(wave, wavelength))

    def _transform(self, wavelength: float) -> MatrixFourier:
        if wavelength not in self._to_image:
            plane = Grid.pupil(len(self.pupil))
            self._to_image[wavelength] = MatrixFourier(plane, self.image, 1 / wavelength)
        return self._to_image[wavelength]

    def _check_wave(self, wave: Tensor) -> None:
        if not wave.is_complex():
            raise TypeError(f"the wave is {wave.dtype}, expected a complex one: wave + 0j")
        if wave.shape[-2:] != self.pupil.shape:
            raise ValueError(
                f"the wave has shape {tuple(wave.shape)}, expected (…, y, x) with (y, x) = "
                f"{tuple(self.pupil.shape)}, the samples of the pupil"
            )

    # -- intensities ---------------------------------------------------------------------------

    def images(self, opd: Tensor, *, chunk: int = 8) -> Tensor:
        """``|E(u)|²`` (…, wavelength, v, u) of optical path differences ``W`` (…, y, x).

        The wave is ``exp(2πi W/λ)``. ``W`` is in units of λ0: divide one in metres by λ0.

        Args:
            opd: ``W``, real.
            chunk: frames to be treated together; where a gradient is recorded, each chunk is
                computed again in the backward pass, so that memory is that of one chunk.

        Raises:
            TypeError: a complex OPD.
            ValueError: another shape than the pupil's.
        """
        if opd.is_complex():
            raise TypeError(f"the OPD is {opd.dtype}, expected a real one, in units of λ0")
        if opd.shape[-2:] != self.pupil.shape:
            raise ValueError(
                f"the OPD has shape {tuple(opd.shape)}, expected (…, y, x) with (y, x) = "
                f"{tuple(self.pupil.shape)}, the samples of the pupil"
            )
        frames = opd.reshape(-1, *opd.shape[-2:])
        colours = []
        for wavelength in self.wavelengths:

            def image(part: Tensor, wavelength: float = wavelength) -> Tensor:
                phase = part * (2 * math.pi / wavelength)
                wave = torch.polar(torch.ones_like(phase), phase)
                return intensity(self.image_field(wave, wavelength))

            colours.append(torch.cat(in_chunks(image, (frames,), chunk)))
        return torch.stack(colours, 1).reshape(*opd.shape[:-2], -1, *self.image.shape)

    def off_axis(self, offset: Tensor, wavelength: float = 1.0, *, chunk: int = 8) -> Tensor:
        """Image (…, v, u) of a star at ``offset`` (…, 2), along (y, x) in λ0/D.

        Raises:
            ValueError: offsets that are not pairs.
        """
        _check_offset(offset)
        n = len(self.pupil)

        def image(part: Tensor) -> Tensor:
            return intensity(self.image_field(plane_wave(part, n, wavelength), wavelength))

        parts = in_chunks(image, (offset.reshape(-1, 2),), chunk)
        return torch.cat(parts).reshape(*offset.shape[:-1], *self.image.shape)

    def peak(self, wavelength: float = 1.0) -> Tensor:
        """The brightest pixel of a star far from the mask: ``contrast = images / peak``.

        That of a star without focal-plane mask behind the same apodizer and Lyot stop, on a grid
        that holds the axis and has 16 samples per λ0/D, as far out as the image reaches. Where it
        is not on the axis, as behind a grating, it may be missed by 0.5 %.
        """
        reach = max(
            abs(c) + n * self.image.step / 2
            for c, n in zip(self.image.centre, self.image.shape, strict=True)
        )
        fine = Grid.centred(2 * math.ceil(16 * reach) + 1, 1 / 16)
        clear = self.pupil * self.apodizer * self.lyot_stop
        wave = clear.to(clear.dtype.to_complex())
        plane = Grid.pupil(len(self.pupil))
        return intensity(MatrixFourier(plane, fine, 1 / wavelength).forward(wave)).amax()


def intensity(field: Tensor) -> Tensor:
    """``|E|²``, with a gradient everywhere."""
    return field.real.square() + field.imag.square()


def plane_wave(offset: Tensor, n: int, wavelength: float = 1.0) -> Tensor:
    """``exp(2πi α·x λ0/λ)`` (…, y, x): the wave of a star at ``offset`` (…, 2) in λ0/D.

    Args:
        offset: ``α`` along (y, x), real.
        n: samples of the pupil along each axis.
        wavelength: ``λ/λ0``.

    Raises:
        ValueError: offsets that are not pairs.
    """
    _check_offset(offset)
    axis = Grid.pupil(n).axis(0).to(offset.device, offset.dtype)
    phase = offset[..., None] * axis * (2 * math.pi / wavelength)
    along_y, along_x = torch.polar(torch.ones_like(phase), phase).unbind(-2)
    return along_y[..., :, None] * along_x[..., None, :]


def _check_offset(offset: Tensor) -> None:
    if offset.shape[-1:] != (2,):
        raise ValueError(
            f"offsets of shape {tuple(offset.shape)}, expected (…, 2): along (y, x) in λ0/D"
        )


def _check_pupil(pupil: Tensor) -> None:
    if pupil.ndim != 2 or pupil.shape[0] != pupil.shape[1] or not pupil.is_floating_point():
        raise ValueError(
            f"a pupil of {pupil.dtype} with shape {tuple(pupil.shape)}, expected real (y, x), "
            "square"
        )
    if not bool(((pupil >= 0) & (pupil <= 1)).all()) or not bool((pupil > 0).any()):
        raise ValueError("the pupil's transmission is not within 0…1 (or NaN), or 0 everywhere")


def _check_amplitude(name: str, value: Tensor, pupil: Tensor) -> None:
    if value.shape != pupil.shape:
        raise ValueError(
            f"the {name} has shape {tuple(value.shape)}, expected that of the pupil, "
            f"{tuple(pupil.shape)}"
        )
    if not bool(torch.isfinite(value.detach()).all()):
        raise ValueError(f"the {name} holds NaN or infinite values")
