"""A section of the report: the aberrations that were found, by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from labrecon_coronagraph.optics_geometry import OpticsGeometry

__all__ = ["aberrations_found"]

#: Names of Noll's modes from tip on.
NAMES = (
    "tip (along x)",
    "tilt (along y)",
    "defocus",
    "oblique astigmatism",
    "vertical astigmatism",
    "vertical coma",
    "horizontal coma",
    "vertical trefoil",
    "oblique trefoil",
    "spherical",
)
FRAMES = 6


def aberrations_found(data: Any) -> str:
    """HTML: coefficients in nm rms of each mode, the first frames side by side.

    Nothing for other instruments.

    Args:
        data: `labrecon.report.ReportData`.
    """
    if not isinstance(data.scan.geometry, OpticsGeometry):
        return ""
    found: Tensor = data.main.solution.x.detach().cpu().double()
    found = found.reshape(-1, *found.shape[-2:])[0]
    truth = data.scan.truth
    shown = found[:FRAMES]
    head = "".join(f"<th>frame {t}</th>" for t in range(len(shown)))
    known = truth is not None and truth.shape == found.shape
    head += "<th>truth of frame 0</th>" if known else ""
    rows = []
    for mode in range(found.shape[1]):
        name = NAMES[mode] if mode < len(NAMES) else ""
        cells = [f"{float(x):.3g}" for x in shown[:, mode]]
        cells += [f"{float(truth[0, mode]):.3g}"] if known and truth is not None else []
        body = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><td>{mode + 2}</td><td>{name}</td>{body}</tr>")
    whole = float(found.square().sum(1).mean().sqrt())
    return (
        f"<p>Zernike coefficients in nm rms by Noll's index; {whole:.3g} nm rms in all, the mean "
        f"of {len(found)} frames.</p>"
        f'<div class="table"><table><tr><th>j</th><th></th>{head}</tr>{"".join(rows)}</table></div>'
    )
