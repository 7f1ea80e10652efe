"""OME-XML: what an OME-TIFF says of the microscope."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from labrecon.instrument import ReaderError
from labrecon_phase.geometry import PhaseGeometry

__all__ = ["fill", "ome_facts", "ome_xml"]

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
IMMERSIONS = {"Air": 1.0, "Water": 1.333, "Glycerol": 1.47, "Oil": 1.515}
#: Lengths in µm.
LENGTHS = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "m": 1e6, "Å": 1e-4}
#: Relative difference from which two statements contradict each other.
CONFLICT = 0.02


def ome_facts(xml: str) -> dict[str, float]:
    """``na``, ``magnification``, ``index``, ``wavelength`` and ``pixel`` at the sample in µm.

    What is not there, or not a positive number, is left out; of several images the first counts.

    Raises:
        ReaderError: it is no XML.
    """
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ReaderError("the OME metadata declare a document type, which OME-XML never does")
    try:
        root = ElementTree.fromstring(xml.encode())
    except ElementTree.ParseError as error:
        raise ReaderError(f"the OME metadata of the TIFF are damaged: {error}") from error
    found: dict[str, float | None] = {}
    for tag, element in _elements(root):
        value = element.get
        if tag == "Objective":
            found.setdefault("na", _positive(value("LensNA")))
            nominal = _positive(value("CalibratedMagnification"))
            nominal = nominal or _positive(value("NominalMagnification"))
            found.setdefault("magnification", nominal)
            found.setdefault("index", IMMERSIONS.get(value("Immersion", "")))
        elif tag == "ObjectiveSettings" and _positive(value("RefractiveIndex")):
            found["index"] = _positive(value("RefractiveIndex"))
        elif tag == "Channel":
            unit = LENGTHS.get(value("EmissionWavelengthUnit", "nm"))
            found.setdefault("wavelength", _positive(value("EmissionWavelength"), unit))
        elif tag == "Pixels":
            unit = LENGTHS.get(value("PhysicalSizeXUnit", "µm"))
            found.setdefault("pixel", _positive(value("PhysicalSizeX"), unit))
    return {name: number for name, number in found.items() if number is not None}


def _elements(root: ElementTree.Element) -> Iterator[tuple[str, ElementTree.Element]]:
    """Elements with their names, whatever version of the schema they are from."""
    for element in root.iter():
        yield element.tag.rpartition("}")[2], element


def _positive(text: str | None, unit: float | None = 1.0) -> float | None:
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number * unit if unit is not None and 0 < number < float("inf") else None


def fill(
    given: dict[str, float | None], facts: dict[str, float], where: str, found: dict[str, str]
) -> dict[str, float | None]:
    """What a sidecar gives (``na``, ``pixel``, …), completed by OME metadata.

    Args:
        given: by the sidecar.
        facts: of `ome_facts`.
        where: name of the sidecar.
        found: is told what OME metadata gave.

    Raises:
        ReaderError: they differ by more than 2 %.
    """
    done = dict(given)
    for name, value in facts.items():
        own = done.get(name)
        if own is None:
            done[name] = value
            found[name] = f"{value:g} (OME metadata)"
        elif abs(own - value) > CONFLICT * value:
            hint = ""
            if name == "pixel":
                hint = "; PhysicalSizeX is the pixel at the sample: camera_pixel_um / magnification"
            raise ReaderError(
                f"{name} is {own:g} in {where} and {value:g} in the TIFF's OME metadata{hint}. "
                "Correct the one that is wrong"
            )
    return done


def ome_xml(geometry: PhaseGeometry, images: int) -> str:
    """OME-XML of a stack of float32 images, one time point each."""
    rows, columns = geometry.shape
    near = [n for n, index in IMMERSIONS.items() if abs(index - geometry.index) < 0.005]
    root = ElementTree.Element("OME", xmlns=NAMESPACE, Creator="labrecon")
    device = ElementTree.SubElement(root, "Instrument", ID="Instrument:0")
    ElementTree.SubElement(
        device,
        "Objective",
        ID="Objective:0",
        LensNA=repr(geometry.na),
        NominalMagnification=repr(geometry.magnification),
        Immersion=near[0] if near else "Other",
    )
    image = ElementTree.SubElement(root, "Image", ID="Image:0")
    ElementTree.SubElement(image, "InstrumentRef", ID="Instrument:0")
    ElementTree.SubElement(
        image, "ObjectiveSettings", ID="Objective:0", RefractiveIndex=repr(geometry.index)
    )
    pixels = ElementTree.SubElement(
        image,
        "Pixels",
        ID="Pixels:0",
        DimensionOrder="XYCZT",
        Type="float",
        SizeX=str(columns),
        SizeY=str(rows),
        SizeC="1",
        SizeZ="1",
        SizeT=str(images),
        PhysicalSizeX=repr(geometry.pixel),
        PhysicalSizeY=repr(geometry.pixel),
    )
    ElementTree.SubElement(
        pixels,
        "Channel",
        ID="Channel:0:0",
        SamplesPerPixel="1",
        EmissionWavelength=repr(1e3 * geometry.wavelength),
    )
    ElementTree.SubElement(pixels, "TiffData", IFD="0", PlaneCount=str(images))
    return '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, encoding="unicode")
