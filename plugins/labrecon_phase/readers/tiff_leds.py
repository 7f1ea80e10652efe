"""TIFF stacks with a JSON file of LEDs and exposures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon.errors import OutputError
from labrecon.instrument import ReaderError, Scan
from labrecon.io.atomic import write_file
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.instrument import PhaseInstrument
from labrecon_phase.readers.border import check_frames, check_light, checked_geometry
from labrecon_phase.readers.ome import fill, ome_facts, ome_xml
from labrecon_phase.readers.sidecar import LedSidecar, described, minimal, read_sidecar
from labrecon_phase.readers.tiff_pages import is_tiff, ome_of, pages, tiff_files, tiff_stack

__all__ = ["TiffLedReader"]

SIDECAR = "leds.json"


class TiffLedReader:
    """``NAME.tif`` (or OME-TIFF), an image per exposure, with ``NAME.json``.

    Or a folder of TIFF files, sorted by the numbers in their names, with ``leds.json``. The JSON
    file (`labrecon_phase.readers.sidecar.LedSidecar`) says where LEDs are, in the style of Waller's
    lab, and which of them are on in which exposure. What it does not say of the microscope comes
    from OME metadata. Pixels become intensities, ``(DN − offset) / white_dn``.
    """

    suffix = ".tif"

    def matches(self, path: Path) -> bool:
        """Whether it is a TIFF file, or a folder that holds some."""
        try:
            return bool(tiff_files(path)) if path.is_dir() else is_tiff(path)
        except OSError:
            return False

    def read(self, path: Path) -> Scan:
        """The scan in the file or folder.

        Raises:
            ReaderError: there is no JSON file, it contradicts the images or their metadata, or
                images are damaged.
        """
        sidecar = _sidecar_of(path)
        beside = path if path.is_dir() else path.parent
        told = read_sidecar(sidecar)
        others = {name for name in (told.dark, told.background) if name}
        files = tiff_files(path, others) if path.is_dir() else [path]
        count = pages(files)
        check_frames(count, len(told.exposures), path.name)
        found: dict[str, str] = {}
        assumed: dict[str, str] = {}
        ignored: dict[str, str] = {}
        optics = _optics(told, files[0], sidecar.name, found, assumed)
        patterns = told.patterns(ignored)
        raw = tiff_stack(files, path.name)
        saturated = None if told.full_scale_dn is None else raw >= told.full_scale_dn
        geometry = checked_geometry(
            shape=tuple(raw.shape[1:]), patterns=patterns, **optics, **_rest(told)
        )
        dark = _dark(told, beside, geometry.shape)
        data = _less(raw, dark)
        calibration = {}
        if told.quantity == "intensity":
            check_light(data, path.name)
            white = _white(told, data, geometry, found, assumed)
            electrons = told.electrons
            if told.electrons_per_dn is not None:
                electrons = told.electrons_per_dn * white
            geometry = geometry.changed(electrons=electrons)
            data = data if white == 1 else data / white
            if told.background is not None:
                empty = _beside(beside, told.background, count, geometry.shape)
                calibration["background"] = _less(empty, dark) / white
        # Of a folder, everything in it belongs to the scan.
        opened = [path] if path.is_dir() else [path, sidecar, *(beside / n for n in sorted(others))]
        weights = None
        if saturated is not None and bool(saturated.any()):
            weights = (~saturated).to(data.dtype)
            found["saturated pixels"] = f"{int(saturated.sum())} of {raw.numel()}, of weight 0"
        return Scan(
            data,
            geometry,
            PhaseInstrument().noise(geometry),
            weights=weights,
            calibration=calibration,
            found={
                "images": f"{count} of {raw.shape[1]} × {raw.shape[2]} pixels",
                "LEDs": f"{len(told.led_list)} in {sidecar.name}",
                **found,
            },
            assumed=assumed,
            ignored=ignored,
            provenance={
                "source": str(path),
                "sidecar": str(sidecar),
                "format": "TIFF with LEDs",
                "files": [str(file) for file in opened],
                "reader": "labrecon_phase.readers.tiff_leds:TiffLedReader",
            },
        )

    def write(self, scan: Scan, path: Path) -> None:
        """Write an OME-TIFF of float32 and the JSON file beside it.

        Raises:
            OutputError: it is no scan of an LED-array microscope.
        """
        geometry = scan.geometry
        if not isinstance(geometry, PhaseGeometry):
            raise OutputError(f"expected an LED-array scan, got {type(geometry).__name__}")
        expected = (geometry.exposures, *geometry.shape)
        if tuple(scan.data.shape) != expected:
            raise OutputError(
                f"data are (exposure, y, x) = {expected}, got {tuple(scan.data.shape)}"
            )
        more: dict[str, Any] = {}
        if geometry.quantity == "intensity":
            more["white_dn"] = 1.0
            empty = scan.calibration.get("background")
            if empty is not None:
                more["background"] = f"{path.stem}_background.tif"
                _write_tiff(empty, geometry, path.with_name(more["background"]))
        shots = []
        for row, light in enumerate(geometry.patterns.values.tolist()):
            shot: dict[str, Any] = {
                "leds": [{"index": i, "brightness": w} for i, w in enumerate(light) if w]
            }
            if geometry.background is not None:
                shot["stray_light"] = geometry.background[row]
            if geometry.bands is not None:
                shot["band"] = geometry.bands[row]
            shots.append(shot)
        _write_tiff(scan.data, geometry, path)
        write_file(path.with_suffix(".json"), described(geometry, shots, **more), force=True)


def _sidecar_of(path: Path) -> Path:
    names = [path.with_suffix(".json"), path.with_name(f"{path.stem.removesuffix('.ome')}.json")]
    if path.is_dir():
        names = [path / SIDECAR]
    for name in names:
        if name.is_file():
            return name
    count = pages(tiff_files(path) if path.is_dir() else [path])
    raise ReaderError(
        f"there is no {names[-1].name} {'in' if path.is_dir() else 'beside'} {path.name}, which "
        f"says where LEDs are and which are lit. The least it says: {minimal(count)}"
    )


def _optics(
    told: LedSidecar, first: Path, where: str, found: dict[str, str], assumed: dict[str, str]
) -> dict[str, float]:
    """Wavelength, NA, magnification, camera pixel and index, from the JSON file or from OME."""
    pixel = None
    if told.camera_pixel_um is not None and told.magnification is not None:
        pixel = told.camera_pixel_um / told.magnification
    given: dict[str, float | None] = {
        "wavelength": told.wavelength_um,
        "na": told.na,
        "magnification": told.magnification,
        "index": told.index,
        "pixel": pixel,
    }
    xml = ome_of(first)
    done = fill(given, ome_facts(xml) if xml else {}, where, found)
    if done["index"] is None:
        assumed["immersion"] = "air"
        done["index"] = 1.0
    camera = told.camera_pixel_um
    if camera is None and done["pixel"] is not None and done["magnification"] is not None:
        camera = done["pixel"] * done["magnification"]
        assumed["camera pixel"] = f"{camera:g} µm: OME's PhysicalSizeX is that at the sample"
    made = {
        "wavelength": done["wavelength"],
        "na": done["na"],
        "magnification": done["magnification"],
        "camera_pixel": camera,
        "index": done["index"],
    }
    keys = {"wavelength": "wavelength_um", "camera_pixel": "camera_pixel_um"}
    missing = [keys.get(name, name) for name, value in made.items() if value is None]
    if missing:
        raise ReaderError(
            f"neither {where} nor OME metadata say {', '.join(missing)}: add them to {where}"
        )
    return {name: value for name, value in made.items() if value is not None}


def _rest(told: LedSidecar) -> dict[str, Any]:
    """Fields of the geometry that the JSON file alone says."""
    return {
        "leds": torch.tensor([[p.x, p.y, p.z] for p in told.led_list], dtype=torch.float64),
        "defocus": told.defocus_um,
        "led_shift": told.shift_mm,
        "led_rotation": told.rotation_deg,
        "led_height": told.height_mm,
        "flip_illumination": told.flip_illumination,
        "sample": told.sample,
        "quantity": told.quantity,
        "levels": told.levels,
        "aberration": told.aberration_rad,
        "edge": told.edge,
        "pixel_fill": told.pixel_fill,
        "upsample": told.upsample,
        "sigma": told.sigma,
        "electrons": told.electrons,
        "read_noise": told.read_noise_e,
        "bands": told.each("band"),
        "background": told.each("stray_light"),
    }


def _dark(told: LedSidecar, folder: Path, shape: tuple[int, int]) -> Tensor | float:
    """What the camera gives without light, in DN."""
    camera = {
        "dark": told.dark,
        "white_dn": told.white_dn,
        "background": told.background,
        "electrons_per_dn": told.electrons_per_dn,
        "offset_dn": told.offset_dn or None,
    }
    set_ = [name for name, value in camera.items() if value is not None]
    if told.quantity == "contrast" and set_:
        raise ReaderError(f"images are contrast, I / I₀ − 1, and have no {set_[0]}: leave it out")
    if told.electrons is not None and told.electrons_per_dn is not None:
        raise ReaderError("both electrons and electrons_per_dn are given: leave one out")
    if told.dark is None:
        return told.offset_dn
    if told.offset_dn:
        raise ReaderError("both dark and offset_dn are given: leave one out")
    return _beside(folder, told.dark, None, shape).mean(0)


def _less(images: Tensor, dark: Tensor | float) -> Tensor:
    return images if isinstance(dark, float) and dark == 0 else images - dark


def _beside(folder: Path, name: str, count: int | None, shape: tuple[int, int]) -> Tensor:
    """Another stack of the same camera region."""
    file = folder / name
    if not file.is_file():
        raise ReaderError(f"the sidecar names {name}, which is not in {folder}: copy it there")
    if count is not None:
        check_frames(pages([file]), count, name)
    images = tiff_stack([file], name)
    if tuple(images.shape[1:]) != shape:
        raise ReaderError(f"{name} is {tuple(images.shape[1:])} pixels, the exposures are {shape}")
    return images


def _white(
    told: LedSidecar,
    data: Tensor,
    geometry: PhaseGeometry,
    found: dict[str, str],
    assumed: dict[str, str],
) -> float:
    """Signal of the empty field at a light of 1, in DN."""
    if told.white_dn is not None:
        found["unit of intensity"] = f"white_dn = {told.white_dn:g}"
        return told.white_dn
    from labrecon_phase.abbe import AbbeImaging

    means = data.mean((-2, -1), dtype=torch.float64)
    brightest = int(means.argmax())
    light = float(AbbeImaging(geometry).empty()[brightest])
    if not light > 0 or not float(means[brightest]) > 0:
        raise ReaderError(
            f"exposure {brightest}, the brightest, lights no LED within the aperture, so that the "
            "signal of the empty field is not known: give white_dn"
        )
    white = float(means[brightest]) / light
    assumed["unit of intensity"] = (
        f"white_dn = {white:.6g}: the mean of exposure {brightest} is taken as the empty field"
    )
    return white


def _write_tiff(images: Tensor, geometry: PhaseGeometry, path: Path) -> None:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        images.detach().cpu().to(torch.float32).numpy(),
        photometric="minisblack",
        description=ome_xml(geometry, len(images)),
        metadata=None,
    )
    write_file(path, buffer.getvalue(), force=True)
