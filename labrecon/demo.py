"""The demonstration: every installed instrument simulated, reconstructed and shown."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from labrecon import plugins
from labrecon.clock import Watcher
from labrecon.errors import LabreconError, RecipeError
from labrecon.instrument import Instrument
from labrecon.io.atomic import new_folder, write_text
from labrecon.plan import find_instrument
from labrecon.plugins import Host
from labrecon.recon import reconstruct_scan
from labrecon.results import Result

__all__ = ["Entry", "demonstrate", "free_folder"]


@dataclass(frozen=True)
class Entry:
    """One instrument of the demonstration.

    Attributes:
        instrument: its name.
        title: its title.
        status: "done", "failed", or "not available".
        detail: where the report is, or why there is none.
        report: path of the report relative to the index.
        reconstructions: the numbers of each reconstruction.
        picture: data URI of the reconstruction.
        truth: data URI of the simulated object.
        seconds: wall time.
    """

    instrument: str
    title: str
    status: str
    detail: str
    report: str = ""
    reconstructions: tuple[dict[str, Any], ...] = ()
    picture: str = ""
    truth: str = ""
    seconds: float = 0.0

    def told(self) -> dict[str, Any]:
        """The entry without its pictures, for ``--json``."""
        return {k: v for k, v in asdict(self).items() if k not in ("picture", "truth")}


def free_folder(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3``, … that does not exist."""
    numbered = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


def demonstrate(
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    watcher: Watcher | None = None,
    host: Host | None = None,
) -> list[Entry]:
    """Simulate, reconstruct and report for each installed instrument; write an index page.

    An instrument that fails, or whose packages are not installed, is listed with the reason.

    Args:
        out: folder to make.
        seed: of the simulated objects and noise.
        device: a torch device, or ``"auto"``.
        watcher: is told of the progress.
        host: plugin host; the process's own by default.
    """
    host = host or plugins.host()
    with new_folder(out) as folder:
        entries = [
            _entry(name, out, folder, seed, device, watcher, host)
            for name in host.names("instruments")
        ]
        write_text(folder / "index.html", _page(entries))
    return entries


def _entry(
    name: str,
    out: Path,
    folder: Path,
    seed: int,
    device: str,
    watcher: Watcher | None,
    host: Host,
) -> Entry:
    try:
        instrument = find_instrument(name, host)
    except RecipeError as error:
        return Entry(name, "", "not available", str(error))
    try:
        generator = torch.Generator().manual_seed(seed)
        scan = instrument.simulate(instrument.example(), generator)
        result = reconstruct_scan(
            instrument,
            scan,
            folder / name,
            recipe=instrument.recipes().get("demo", _default_recipe(instrument)),
            device=device,
            watcher=watcher,
            host=host,
        )
    except (LabreconError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        return Entry(name, instrument.title, "failed", str(error) or type(error).__name__)
    pictures = _thumbnails(result, scan.truth)
    return Entry(
        name,
        instrument.title,
        "done",
        str(out / name / "report.html"),
        f"{name}/report.html",
        tuple(result.summary["reconstructions"]),
        *pictures,
        seconds=sum(result.summary["timings_seconds"].values()),
    )


def _default_recipe(instrument: Instrument) -> dict[str, Any]:
    """Prepared as usual: total variation beside the direct inversion.

    Nonlinear operators get only the latter: what else suits them, their instrument knows.
    """
    operator = instrument.operator(instrument.example())
    usual = instrument.recipes().get("recon", {})
    prepared = {key: usual[key] for key in ("prepare", "operator") if key in usual}
    if not operator.linear:
        return {**prepared, "solver": {"name": "direct"}}
    axes = min(operator.domain.ndim, 2)
    return {
        **prepared,
        "solver": {"name": "fista", "iterations": 150, "tolerance": 1e-4},
        "prior": {"name": "tv", "relative_weight": 0.002, "ndim": axes},
        "compare": [{"title": "direct", "solver": {"name": "direct"}}],
    }


def _thumbnails(result: Result, truth: torch.Tensor | None) -> tuple[str, str]:
    from labrecon.report.pictures import picture, planes, window_of

    images: list[Any] = []
    for volume in (result.volume, truth):
        if volume is None or volume.ndim < 2:
            return "", ""
        axes = [f"axis {i}" for i in range(volume.ndim)]
        images.append(planes(volume, axes, None)[0][1])
    window = window_of(images[1:])
    estimate, known = (picture("", image, window).source for image in images)
    return estimate, known


def _page(entries: list[Entry]) -> str:
    from labrecon.report.page import environment

    return environment().get_template("index.html.j2").render(entries=entries)
