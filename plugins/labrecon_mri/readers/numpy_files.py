"""Opening .npy and .npz files: truncation, and objects that are not read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon.instrument import ReaderError

__all__ = ["load"]

Values = NDArray[Any]


def load(path: Path) -> dict[str, Values]:
    """All arrays of a ``.npy`` (by the name ``array``) or ``.npz`` file.

    Raises:
        ReaderError: it is truncated, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"array": loaded}
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            why = "it holds Python objects, which could run code and are not read"
        else:
            why = f"it is truncated or damaged ({error})"
        raise ReaderError(
            f"{path.name} can not be read: {why}. Store plain arrays with numpy.savez, or copy it "
            "again"
        ) from error
    except Exception as error:  # zlib's errors, and sizes of another file
        raise ReaderError(f"{path.name} is damaged: {type(error).__name__}: {error}") from error
