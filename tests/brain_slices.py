"""Brain slices of a published test set as objects of a multi-coil scan."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labrecon.operators.fourier import centred_fft, centred_ifft

__all__ = ["brain_slices", "relative_error"]


def brain_slices(folder: Path, n: int) -> Tensor:
    """The slices in a folder of PNG files at ``n²`` pixels, each with a smooth phase of its own."""
    generator = torch.Generator().manual_seed(0)
    u = torch.linspace(-1, 1, n)
    made = []
    for path in sorted(folder.glob("*.png")):
        values = torch.from_numpy(np.asarray(Image.open(path).convert("L"), dtype=np.float32)) / 255
        size = len(values)
        low = (size - n) // 2
        k = centred_fft(values.to(torch.complex64), (-2, -1))[low : low + n, low : low + n]
        image = centred_ifft(k, (-2, -1)).abs() * n / size
        a, b, c = (2 * torch.rand(3, generator=generator) - 1).tolist()
        phase = a * u[:, None] + b * u + c * (u[:, None] ** 2 + u**2)
        made.append(torch.polar(image, phase))
    return torch.stack(made)


def relative_error(x: Tensor, truth: Tensor) -> float:
    """``‖x − t‖ / ‖t‖``, the mean over images."""
    error = (x - truth).abs().square().sum((-2, -1)) / truth.abs().square().sum((-2, -1))
    return float(error.sqrt().mean())
