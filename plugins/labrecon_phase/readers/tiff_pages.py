"""Images of a TIFF stack: a multipage file, or a folder of files sorted by number."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from labrecon.instrument import ReaderError
from labrecon_phase.readers.border import check_finite, grey, stacked

__all__ = ["is_tiff", "ome_of", "pages", "tiff_files", "tiff_stack"]

ENDINGS = (".tif", ".tiff")
#: First bytes of TIFF and BigTIFF, both byte orders.
HEADS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def is_tiff(path: Path) -> bool:
    """Whether a file has a TIFF's name and begins as one."""
    if path.suffix.lower() not in ENDINGS or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in HEADS


def tiff_files(folder: Path, without: Collection[str] = ()) -> list[Path]:
    """TIFF files of a folder in the order of the numbers in their names."""
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in ENDINGS and file.name not in without
    ]
    return sorted(files, key=lambda f: ([int(n) for n in re.findall(r"\d+", f.stem)], f.name))


def pages(files: list[Path]) -> int:
    """How many images there are, by a look at the files' directories."""
    return sum(_opened(file, _count) for file in files)


def ome_of(file: Path) -> str | None:
    """OME-XML of a file, or None."""
    found: str | None = _opened(file, lambda tiff: tiff.ome_metadata)
    return found


def tiff_stack(files: list[Path], what: str) -> Tensor:
    """All images as float32 (image, y, x), finite.

    Raises:
        ReaderError: truncated, coloured, of different sizes, or NaN.
    """
    images, names = [], []
    for file in files:
        for k, image in enumerate(_opened(file, _images)):
            names.append(f"{file.name}, image {k}")
            images.append(grey(image, names[-1]))
    if not images:
        raise ReaderError(f"{what} holds no images")
    data = stacked(images, names)
    check_finite(data, what)
    return data


def _count(tiff: Any) -> int:
    """Images of a file; three or four images that a writer took for planes of one are that many."""
    return sum(page.shape[0] if _planar(page) else 1 for page in tiff.pages)


def _images(tiff: Any) -> list[NDArray[Any]]:
    images: list[NDArray[Any]] = []
    for page in tiff.pages:
        image = page.asarray()
        images += list(image) if _planar(page) else [image]
    return images


def _planar(page: Any) -> bool:
    """Whether a page holds separate planes (plane, y, x), as tifffile writes a stack of four."""
    return page.ndim == 3 and page.axes == "SYX"


def _opened(file: Path, ask: Callable[[Any], Any]) -> Any:
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            return ask(tiff)
    except Exception as error:  # tifffile raises whatever damaged bytes lead to
        raise ReaderError(
            f"{file.name} is truncated or not a TIFF stack ({error}); copy it again"
        ) from error
