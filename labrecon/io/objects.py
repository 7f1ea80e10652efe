"""Folders of objects to train on: images, HDF5, TIFF, NumPy and NIfTI files as one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon.errors import ObjectsError
from labrecon.space import Space

__all__ = ["ObjectSet", "object_files", "read_array", "read_objects"]

Array = NDArray[Any]
#: As many files are named in a message; the rest are counted.
_NAMED = 5


@dataclass(frozen=True)
class ObjectSet:
    """Objects, and where each comes from.

    Attributes:
        objects: ``(n, *domain.shape)``.
        sources: for each object the file it comes from. Slices of one volume are too alike to be
            kept apart as training and validation: whoever splits the set keeps a file together.
        ignored: names in the folder that hold no objects.
    """

    objects: Tensor
    sources: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.objects)


def object_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of a folder that can be read, sorted by name, and the names of the others.

    Hidden files and sub-folders are left alone. A single file stands for itself.

    Raises:
        ObjectsError: there is no such folder, or nothing to read in it.
    """
    if folder.is_file():
        found, others = [folder], []
    else:
        try:
            listed = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise ObjectsError(f"the objects {folder} can not be listed: {error}") from error
        found = [path for path in listed if path.is_file() and _suffix(path) in READERS]
        others = [path.name for path in listed if path not in found]
    if not found:
        held = f"it holds {_named(others)}" if others else "it is empty"
        raise ObjectsError(
            f"there are no objects in {folder}: {held}; expected files {', '.join(READERS)}"
        )
    return found, others


def read_objects(
    folder: Path, domain: Space, *, dataset: str | None = None, scale: float = 1.0
) -> ObjectSet:
    """All objects in a folder, in the order of the file names.

    A file holds one object of shape ``domain.shape``, or a stack ``(n, *domain.shape)``. Values
    are taken as they are, integers divided by the largest of their type (255, 65535): what 1 then
    means in the instrument's unit is said by ``scale``. Nothing is cropped or resized. Real values
    become complex ones without imaginary part where the domain is complex; the reverse is refused.

    Args:
        folder: of files, or a single file.
        domain: of the operator.
        dataset: which array of an HDF5 or ``.npz`` file, where it holds several.
        scale: the values are multiplied by it.

    Raises:
        ObjectsError: no files, files of mixed or wrong shape, complex values for a real domain,
            values that are not finite, or a file that can not be read; the message names them.
    """
    paths, ignored = object_files(folder)
    arrays = {path.name: read_array(path, dataset) for path in paths}
    _require_shapes(folder, arrays, domain)
    _refuse(
        folder,
        (n for n, a in arrays.items() if np.iscomplexobj(a) and not domain.dtype.is_complex),
        f"complex values, where objects are {_dtype(domain.dtype)}; save the part that is meant",
    )
    _refuse(
        folder,
        (n for n, a in arrays.items() if not np.isfinite(a).all()),
        "values that are NaN or infinite; mend or remove them",
    )
    stacks = {
        name: torch.from_numpy(np.ascontiguousarray(array))
        .to(domain.dtype)
        .reshape(-1, *domain.shape)
        for name, array in arrays.items()
    }
    objects = torch.cat(list(stacks.values()))
    sources = tuple(name for name, stack in stacks.items() for _ in range(len(stack)))
    return ObjectSet(objects if scale == 1.0 else scale * objects, sources, tuple(ignored))


def read_array(path: Path, dataset: str | None = None) -> Array:
    """The values in a file, integers divided by the largest of their type.

    Raises:
        ObjectsError: it can not be read, or holds no numbers.
    """
    suffix = _suffix(path)
    if suffix not in READERS:
        raise ObjectsError(f"{path}: expected a file {', '.join(READERS)}")
    try:
        array = READERS[suffix](path, dataset)
    except ObjectsError as error:
        raise ObjectsError(f"{path}: {error}") from error
    except Exception as error:
        # A damaged file can break any library in its own way.
        raise ObjectsError(f"{path} can not be read: {type(error).__name__}: {error}") from error
    if array.dtype.kind == "b":
        return array.astype(np.float32)
    if array.dtype.kind in "iu":
        return array / np.iinfo(array.dtype).max
    if array.dtype.kind not in "fc":
        raise ObjectsError(f"{path} holds {array.dtype}, expected numbers")
    # torch knows one byte order only.
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _image(path: Path, _: str | None) -> Array:
    from PIL import Image

    with Image.open(path) as image:
        palette = image.mode == "P"
        return _grey(np.asarray(image.convert("RGB") if palette else image))


def _grey(array: Array) -> Array:
    """Channels that are all alike as one; anything else is no grey-scale image."""
    if array.ndim == 3 and array.shape[-1] in (2, 3, 4):
        colours = array[..., : 1 if array.shape[-1] == 2 else 3]
        if not (colours == colours[..., :1]).all():
            raise ObjectsError("a colour image, expected grey-scale; convert it")
        return colours[..., 0]
    return array


def _tiff(path: Path, _: str | None) -> Array:
    import tifffile

    return np.asarray(tifffile.imread(path))


def _npy(path: Path, _: str | None) -> Array:
    return np.asarray(np.load(path, allow_pickle=False))


def _npz(path: Path, dataset: str | None) -> Array:
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file[_choose(file.files, dataset)])


def _hdf5(path: Path, dataset: str | None) -> Array:
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        # Scalars and one-dimensional ones are axes and settings beside the array.
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iufcb" and item.ndim > 1:
            names.append(name)

    with h5py.File(path) as file:
        if dataset is not None and dataset.strip("/") in file:
            return np.asarray(file[dataset.strip("/")][()])
        file.visititems(note)
        return np.asarray(file[_choose(names, dataset)][()])


def _choose(names: list[str], wanted: str | None) -> str:
    if wanted is not None and wanted.strip("/") in names:
        return wanted.strip("/")
    told = ", ".join(names) or "none"
    if wanted is not None:
        raise ObjectsError(f"there is no array {wanted!r}; it holds {told}")
    if len(names) != 1:
        raise ObjectsError(
            f"expected one array, it holds {told}; say which with --set data.dataset=NAME"
        )
    return names[0]


def _nifti(path: Path, _: str | None) -> Array:
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise ObjectsError("NIfTI needs the package nibabel: pip install nibabel") from error
    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj)


#: By suffix.
READERS: Mapping[str, Callable[[Path, str | None], Array]] = {
    ".png": _image,
    ".jpg": _image,
    ".jpeg": _image,
    ".bmp": _image,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".npy": _npy,
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".nii": _nifti,
    ".nii.gz": _nifti,
}


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def _require_shapes(folder: Path, arrays: Mapping[str, Array], domain: Space) -> None:
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, array in arrays.items():
        stacked = array.ndim == domain.ndim + 1
        groups.setdefault(array.shape[1:] if stacked else array.shape, []).append(name)
    if set(groups) == {domain.shape}:
        return
    expected = ", ".join(f"{axis}={n}" for axis, n in zip(domain.axes, domain.shape, strict=True))
    if len(groups) > 1:
        told = "; ".join(f"{_shape(shape)}: {_named(names)}" for shape, names in groups.items())
        raise ObjectsError(
            f"the objects in {folder} have mixed shapes: {told}; expected {expected}"
        )
    [(shape, names)] = groups.items()
    raise ObjectsError(
        f"the objects in {folder} have shape {_shape(shape)} ({_named(names)}), expected "
        f"{expected}: crop or resample them, or give the geometry that fits them"
    )


def _refuse(folder: Path, names: Iterable[str], why: str) -> None:
    found = list(names)
    if found:
        raise ObjectsError(f"the objects in {folder}: {_named(found)} hold {why}")


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _named(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
