"""The XML header of ISMRMRD and fastMRI files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from labrecon.instrument import ReaderError

if TYPE_CHECKING:
    import h5py

__all__ = ["Encoding", "Header", "Limits", "header_text", "parse_header"]

Element = ElementTree.Element


@dataclass(frozen=True)
class Limits:
    """First and last encoding step, and the one at the centre of k-space."""

    minimum: int
    maximum: int
    centre: int


@dataclass(frozen=True)
class Encoding:
    """One encoding: sizes along (x, y, z), lengths in m.

    Attributes:
        matrix: encoded pixels.
        fov: encoded field of view.
        recon_matrix: pixels of the reconstruction.
        recon_fov: field of view of the reconstruction.
        trajectory: ``"cartesian"``, ``"epi"``, ``"radial"`` …
        limits: of counters, by their names in the header.
    """

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]
    recon_matrix: tuple[int, int, int]
    recon_fov: tuple[float, float, float]
    trajectory: str = "cartesian"
    limits: dict[str, Limits] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """What labrecon needs of the header.

    Attributes:
        encodings: in the order of the file.
        noise_bandwidth: ``relativeReceiverNoiseBandwidth``.
        told: facts in words, for the report.
    """

    encodings: tuple[Encoding, ...]
    noise_bandwidth: float | None = None
    told: dict[str, str] = field(default_factory=dict)


def header_text(dataset: h5py.Dataset) -> bytes | str:
    """The text in an HDF5 dataset, scalar or with one entry.

    Raises:
        ReaderError: it holds something else.
    """
    value = dataset[()]
    text = value.flat[0] if isinstance(value, np.ndarray) and value.size else value
    if not isinstance(text, bytes | str):
        raise ReaderError(f"the header {dataset.name} is {type(text).__name__}, expected text")
    return text


def parse_header(text: bytes | str) -> Header:
    """The header in the text.

    Raises:
        ReaderError: no XML, not a header of ISMRMRD, or sizes that are missing or impossible.
    """
    raw = text.encode() if isinstance(text, str) else text
    try:
        root = ElementTree.fromstring(raw.strip(b"\0 \r\n\t"))
    except (ElementTree.ParseError, ValueError) as error:
        raise ReaderError(
            f"the XML header is damaged ({error}); convert the scan again from the scanner's file"
        ) from error
    encodings = tuple(_encoding(each) for each in _children(root, "encoding"))
    if _name(root) != "ismrmrdHeader" or not encodings:
        raise ReaderError(
            f"the header is <{_name(root)}> with {len(encodings)} encodings, expected an "
            "<ismrmrdHeader> with at least one <encoding>"
        )
    bandwidth = _find(root, "acquisitionSystemInformation/relativeReceiverNoiseBandwidth")
    value = None if bandwidth is None else _number(bandwidth)
    if value is not None and not value > 0:
        raise ReaderError(f"relativeReceiverNoiseBandwidth is {value}, expected about 0.8 to 1")
    return Header(encodings, value, _told(root))


def _told(root: Element) -> dict[str, str]:
    facts = {
        "field strength": ("acquisitionSystemInformation/systemFieldStrength_T", " T"),
        "scanner": ("acquisitionSystemInformation/systemModel", ""),
        "protocol": ("measurementInformation/protocolName", ""),
        "echo time": ("sequenceParameters/TE", " ms"),
        "repetition time": ("sequenceParameters/TR", " ms"),
    }
    found = {name: (_find(root, path), unit) for name, (path, unit) in facts.items()}
    return {
        name: f"{(element.text or '').strip()}{unit}"
        for name, (element, unit) in found.items()
        if element is not None and (element.text or "").strip()
    }


def _encoding(element: Element) -> Encoding:
    sizes: dict[str, tuple[int, int, int]] = {}
    lengths: dict[str, tuple[float, float, float]] = {}
    for space in ("encodedSpace", "reconSpace"):
        size = [_along(element, f"{space}/matrixSize", axis) for axis in "xyz"]
        length = [_along(element, f"{space}/fieldOfView_mm", axis) for axis in "xyz"]
        if any(n < 1 or n != int(n) for n in size) or any(not a > 0 for a in length[:2]):
            raise ReaderError(
                f"{space} of the header has the matrix {size} and the field of view {length} mm, "
                "expected whole numbers from 1 on and lengths above 0 along (x, y, z)"
            )
        # 2D scans often have no thickness.
        length[2] = length[2] if length[2] > 0 else 1.0
        sizes[space] = (int(size[0]), int(size[1]), int(size[2]))
        # Divided, not multiplied: 220 mm is exactly 0.22 m then.
        lengths[space] = (length[0] / 1000, length[1] / 1000, length[2] / 1000)
    kind = _find(element, "trajectory")
    limits = {
        _name(each): _limits(each) for part in _children(element, "encodingLimits") for each in part
    }
    return Encoding(
        sizes["encodedSpace"],
        lengths["encodedSpace"],
        sizes["reconSpace"],
        lengths["reconSpace"],
        "cartesian" if kind is None else (kind.text or "").strip().lower(),
        limits,
    )


def _limits(element: Element) -> Limits:
    values = [int(_along(element, "", name)) for name in ("minimum", "maximum", "center")]
    return Limits(*values)


def _along(element: Element, path: str, name: str) -> float:
    place = f"{path}/{name}".lstrip("/")
    found = _find(element, place)
    if found is None:
        raise ReaderError(f"the header has no <{place}> in <{_name(element)}>")
    return _number(found)


def _number(element: Element) -> float:
    try:
        value = float(element.text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ReaderError(f"<{_name(element)}> of the header is {element.text!r}, not a number")
    return value


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _children(element: Element, name: str) -> list[Element]:
    return [child for child in element if _name(child) == name]


def _find(element: Element, path: str) -> Element | None:
    for name in path.split("/"):
        found = _children(element, name)
        if not found:
            return None
        element = found[0]
    return element
