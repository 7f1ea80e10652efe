"""Images of a TIFF stack: a folder of files, or the pages of one."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import ReaderError

__all__ = ["TiffPages", "images_in", "open_stack"]

ENDINGS = (".tif", ".tiff")


def images_in(folder: Path) -> list[Path]:
    """TIFF files in the order of the numbers in their names."""
    if not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS]
    return sorted(files, key=lambda f: [int(n) for n in re.findall(r"\d+", f.stem)] or [0])


def open_stack(path: Path) -> TiffPages:
    """The images of a folder or of a multipage file, in order.

    Raises:
        ReaderError: the folder has none, or the first one is damaged.
    """
    files = images_in(path) if path.is_dir() else [path]
    if not files:
        raise ReaderError(f"the folder {path.name} holds no TIFF images")
    return TiffPages(files, path.name)


class TiffPages:
    """Images of a stack, read when they are asked for; one file is open at a time.

    ``pages[frames]`` and ``pages[frames, rows]`` take slices.

    Raises:
        ReaderError: a file is truncated or no TIFF; images or files are not alike.
    """

    def __init__(self, files: list[Path], name: str) -> None:
        import tifffile

        self.name = name
        try:
            with tifffile.TiffFile(files[0]) as tiff:
                first, self.pages = tiff.pages[0].aspage(), len(tiff.pages)
        except (tifffile.TiffFileError, IndexError, ValueError, OSError) as error:
            raise self._damaged(error) from error
        self.places = [(file, page) for file in files for page in range(self.pages)]
        self.shape = (len(self.places), *first.shape)
        self.dtype = np.dtype(first.dtype)

    def __getitem__(self, index: slice | tuple[slice, slice]) -> NDArray[Any]:
        import tifffile

        frames, rows = index if isinstance(index, tuple) else (index, slice(None))
        try:
            return self._read(frames, rows)
        except (tifffile.TiffFileError, IndexError, ValueError, OSError) as error:
            if isinstance(error, ReaderError):
                raise
            raise self._damaged(error) from error

    def _read(self, frames: slice, rows: slice) -> NDArray[Any]:
        import tifffile

        images = []
        for file, places in itertools.groupby(self.places[frames], key=lambda place: place[0]):
            with tifffile.TiffFile(file) as tiff:
                if len(tiff.pages) != self.pages:
                    raise ReaderError(
                        f"{file.name} holds {len(tiff.pages)} images, the first file {self.pages}"
                    )
                for _, page in places:
                    image = tiff.pages[page].asarray()
                    if image.shape != self.shape[1:]:
                        raise ReaderError(
                            f"the images differ in size, expected {self.shape[1:]} in all"
                        )
                    # A copy: a view would hold the whole image.
                    images.append(image[rows].copy())
        return np.stack(images)

    def _damaged(self, error: Exception) -> ReaderError:
        return ReaderError(f"{self.name} is truncated or not a TIFF stack ({error}); copy it again")
