"""What every reader checks before images enter labrecon: numbers, light, counts, geometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from labrecon.instrument import ReaderError
from labrecon_phase.geometry import PhaseGeometry

__all__ = [
    "check_finite",
    "check_frames",
    "check_light",
    "checked_geometry",
    "grey",
    "in_words",
    "stacked",
]


def grey(image: NDArray[Any], what: str) -> NDArray[np.float32]:
    """A grey image (y, x) of real numbers as float32, without a change of its values.

    Raises:
        ReaderError: colours, complex numbers or text.
    """
    if image.ndim != 2:
        raise ReaderError(
            f"{what} has shape {image.shape}, expected a grey image (y, x): export each camera "
            "image as one channel"
        )
    if image.dtype.kind not in "fiub":
        raise ReaderError(f"{what} holds {image.dtype}, expected real counts")
    values: NDArray[np.float32] = image.astype(np.float32)
    return values


def stacked(images: Sequence[NDArray[np.float32]], names: Sequence[str]) -> Tensor:
    """Images of one size as (exposure, y, x).

    Raises:
        ReaderError: they differ in size.
    """
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            raise ReaderError(
                f"{name} is {image.shape} pixels, {names[0]} {images[0].shape}: all exposures must "
                "come from the same camera region"
            )
    return torch.from_numpy(np.stack(images))


def check_finite(images: Tensor, what: str) -> None:
    """Raise `ReaderError` on NaN or infinite pixels."""
    finite = torch.isfinite(images)
    if bool(finite.all()):
        return
    first = tuple((~finite).nonzero()[0].tolist())
    raise ReaderError(
        f"{int((~finite).sum())} of {images.numel()} pixels of {what} are NaN or infinite (first "
        f"at {first}): replace them by their neighbours' mean in the file"
    )


def check_light(images: Tensor, what: str) -> None:
    """Raise `ReaderError` where more than 3 in 4 pixels of an exposure are below zero.

    Noise alone brings half of them there; a wrong offset all.
    """
    below = (images < 0).float().mean((-2, -1))
    worst = int(below.argmax())
    if float(below[worst]) > 0.75:
        raise ReaderError(
            f"{100 * float(below[worst]):.0f} % of the pixels of exposure {worst} of {what} are "
            "negative: is offset_dn, or the dark image, larger than the camera's offset?"
        )


def check_frames(images: int, exposures: int, where: str) -> None:
    """Raise `ReaderError` unless there is one image per exposure."""
    if images != exposures:
        raise ReaderError(
            f"{where} holds {images} images for {exposures} exposures, expected one per exposure: "
            "is a file truncated or missing, or is this the description of another acquisition?"
        )


def checked_geometry(**fields: Any) -> PhaseGeometry:
    """The geometry, with what is impossible in it as a `ReaderError`."""
    try:
        return PhaseGeometry.model_validate(fields)
    except ValidationError as error:
        raise ReaderError(f"impossible geometry: {in_words(error)}") from error


def in_words(error: ValidationError) -> str:
    """What pydantic found, in one line: where, what, and what was given."""
    told = []
    for one in error.errors()[:6]:
        place = ".".join(str(part) for part in one["loc"])
        given = repr(one["input"])
        shown = f" (got {given})" if len(given) < 60 and one["type"] != "missing" else ""
        told.append(f"{place}: {one['msg']}{shown}" if place else one["msg"])
    rest = error.error_count() - len(told)
    return "; ".join(told) + (f"; and {rest} more" if rest > 0 else "")
