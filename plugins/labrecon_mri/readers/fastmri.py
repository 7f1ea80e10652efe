"""FastMRI: the HDF5 files of the NYU/FAIR data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labrecon import Gaussian
from labrecon.instrument import ReaderError, Scan
from labrecon_mri.readers.border import (
    check_memory,
    checked_geometry,
    complex_samples,
    is_hdf5,
    minimal_mask,
    open_hdf5,
    sampled,
)
from labrecon_mri.readers.mrd_header import Encoding, header_text, parse_header

if TYPE_CHECKING:
    import h5py

__all__ = ["FastMRIReader"]

NEEDED = ("kspace", "ismrmrd_header")


class FastMRIReader:
    """``kspace`` (slice, coil, readout, phase) or (slice, readout, phase), and ``ismrmrd_header``.

    The image axes are the last two as they are stored, so that images agree with those of the data
    set: **y is the readout** (oversampled), **x the phase-encoding direction**, along which
    ``mask`` runs. Lines of zeros were not measured, whether ``mask`` says so or not. Slices are
    frames. Reconstructions in the file are no truth (cropped, root of sum of squares) and are left
    out. There is no noise scan: the noise level must be estimated.
    """

    def matches(self, path: Path) -> bool:
        """Whether the file is HDF5 with ``kspace`` and ``ismrmrd_header``."""
        if not is_hdf5(path):
            return False
        try:
            with open_hdf5(path) as file:
                return all(name in file for name in NEEDED)
        except (ReaderError, OSError, RuntimeError):
            return False

    def read(self, path: Path) -> Scan:
        """The scan in the file.

        Raises:
            ReaderError: truncated, NaN, or k-space, header and mask that do not fit together.
        """
        with open_hdf5(path) as file:
            return _read(file, path)


def _read(file: h5py.File, path: Path) -> Scan:
    missing = [name for name in NEEDED if name not in file]
    if missing:
        raise ReaderError(f"{' and '.join(missing)} missing, expected a fastMRI file with both")
    shape = file["kspace"].shape
    if len(shape) not in (3, 4):
        raise ReaderError(
            f"kspace is {shape}, expected (slice, coil, readout, phase) or (slice, readout, phase)"
        )
    check_memory(int(np.prod(shape)), f"kspace {shape}")
    header = parse_header(header_text(file["ismrmrd_header"]))
    encoding = header.encodings[0]
    found = dict(header.told)
    assumed = {"noise": "unknown: the format has no noise scan"}
    ignored: dict[str, str] = {}
    values = complex_samples(np.asarray(file["kspace"][()]), "kspace", found)
    data = torch.from_numpy(values if values.ndim == 4 else values[:, None])
    _check_encoding(encoding, (data.shape[-2], data.shape[-1]))
    measured = sampled(data, 2)
    if "mask" in file:
        mask = _mask(np.asarray(file["mask"][()]), measured)
        found["mask"] = f"{int(mask.sum())} of {len(mask)} lines along x"
    frames = {"slice": len(data)} if len(data) > 1 else {}
    # In the header x is the readout, here y.
    geometry = checked_geometry(
        matrix=tuple(data.shape[-2:]),
        fov=encoding.fov[:2],
        coils=data.shape[1],
        frames=frames,
        mask=minimal_mask(measured if frames else measured[0], 2),
    )
    found["k-space"] = (
        f"{len(data)} slices, {data.shape[1]} coils, {data.shape[2]} readout samples (y) by "
        f"{data.shape[3]} phase-encoding steps (x)"
    )
    found |= {"acquisition": str(file.attrs["acquisition"])} if "acquisition" in file.attrs else {}
    ignored |= {
        name: "not needed"
        for name in file
        if name not in (*NEEDED, "mask") and not name.startswith("reconstruction")
    }
    ignored |= {
        name: "a cropped magnitude image, no truth of this scan"
        for name in file
        if name.startswith("reconstruction")
    }
    return Scan(
        data if frames else data[0],
        geometry,
        Gaussian(),
        found=found,
        assumed=assumed,
        ignored=ignored,
        provenance={
            "source": str(path),
            "format": "fastMRI",
            "reader": "labrecon_mri.readers.fastmri:FastMRIReader",
            "recon_matrix": [int(n) for n in encoding.recon_matrix[:2]],
            "recon_fov": [float(a) for a in encoding.recon_fov[:2]],
        },
    )


def _check_encoding(encoding: Encoding, stored: tuple[int, int]) -> None:
    if stored != encoding.matrix[:2]:
        raise ReaderError(
            f"kspace has (readout, phase) = {stored} samples, the header's encodedSpace has (x, y) "
            f"= {encoding.matrix[:2]}: is kspace transposed or cropped, or the header of another "
            "scan?"
        )


def _mask(values: NDArray[Any], measured: Tensor) -> Tensor:
    """The mask along the phase-encoding axis, bool; it may hold lines of zeros, which are padding.

    Raises:
        ReaderError: of another length, or k-space has samples outside of it.
    """
    mask = torch.from_numpy(values.reshape(-1).astype(bool))
    if len(mask) != measured.shape[-1]:
        raise ReaderError(
            f"mask has {len(mask)} entries, expected one for each of the {measured.shape[-1]} "
            "phase-encoding steps (the last axis of kspace)"
        )
    beyond = measured & ~mask
    if bool(beyond.any()):
        first = int(beyond.flatten(0, -2).any(0).nonzero()[0])
        raise ReaderError(
            f"kspace has samples where mask is 0 (first at x = {first}): the mask is of another "
            "undersampling. Multiply kspace by it, or remove it from the file"
        )
    return mask
