"""The page of a batch: ``index.html``, the data it shows, and a page for each failed scan."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from labrecon.io.atomic import write_file
from labrecon.io.plain import plain
from labrecon.report.page import environment
from labrecon.report.svg import Plot

__all__ = ["failure_page", "write_data", "write_page"]

#: What a row is told of on the page of its own only.
_LEFT_OUT = ("trace", "timings", "page", "thumbnail", "recipe", "acquired")
#: What to do about each kind of failure.
_ADVICE = {
    "reader": "The file is damaged, incomplete, or of another kind. Look whether it was written to "
    "its end, copy it anew, and retry.",
    "reconstruction": "The recipe does not suit this scan. Reconstruct it alone with another "
    "recipe, or mend the recipe for all.",
    "crash": "The worker died: memory, a driver, or a fault in a library. The end of what it wrote "
    "is in the log. Retry; if it dies again, reconstruct the scan alone and watch it.",
    "time limit": "The scan took longer than was allowed. Look whether it is larger than the "
    "others; raise the time limit, or lower the iterations.",
    "memory limit": "The scan needed more memory than was allowed. Use fewer workers with more "
    "memory each, or bin the data.",
    "output": "The result could not be written. Look for what is in the way, and at the free "
    "space on the disk; then retry.",
    "veto": "A plugin left this scan out on purpose.",
    "unexpected": "This is a fault in labrecon or in a plugin. Please report it with the "
    "traceback on the page of the scan.",
}
#: Of the plots of what is watched.
_BLUE, _ORANGE, _RED = "#3b82f6", "#f08a24", "#e5484d"
#: Lines of fewer points have a dot at each.
_DOTTED = 60
_NO_ADVICE = "Look at the page of the scan."


def write_page(out: Path) -> None:
    """Write ``index.html``; it shows what `write_data` writes, and looks for news by itself.

    Raises:
        OutputError: it can not be written.
    """
    page = environment().get_template("gallery.html.j2").render(advice=_ADVICE)
    write_file(out / "index.html", page, force=True)


def write_data(out: Path, batch: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``scans.js``, from which ``index.html`` takes what it shows.

    Args:
        out: folder of the batch.
        batch: title, instrument, recipe, state, started, updated, counts, seconds_per_scan,
            estimated_end, workers, output, labrecon, messages, drift.
        rows: the scans, as ``labrecon status --json`` prints them.

    Raises:
        OutputError: it can not be written.
    """
    drift = [_plotted(group) for group in batch.get("drift", ())]
    told = {"batch": {**batch, "drift": drift}, "scans": [_shown(row) for row in rows]}
    # Not JSON but a script, which knows NaN and Infinity.
    text = json.dumps(told, ensure_ascii=False, default=plain)
    # Inside a script, "</script>" and U+2028 would end what they must not end.
    for unsafe in "<\u2028\u2029":
        text = text.replace(unsafe, f"\\u{ord(unsafe):04x}")
    write_file(out / "scans.js", _encoded(f"labrecon_batch({text});\n"), force=True)


def failure_page(row: Mapping[str, Any], batch: Mapping[str, Any]) -> str:
    """The page of a failed scan: the reason, what to do, and the traceback.

    Args:
        row: of the scan; its page lies in ``failed/``, at its name.
        batch: as in `write_data`.
    """
    up = "../" * (1 + str(row["name"]).count("/"))
    page = (
        environment()
        .get_template("failure.html.j2")
        .render(
            row=row,
            batch=batch,
            advice=_ADVICE.get(row["kind"], ""),
            retry=f"labrecon retry {shlex.quote(batch['output'])} {shlex.quote(row['name'])}",
            back=f"{up}index.html",
        )
    )
    return _encoded(page).decode()


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key not in _LEFT_OUT and value != ""}
    for key in ("page", "thumbnail"):
        if row.get(key):
            # The bytes of the name, whatever they are: "%", "#", and what is no UTF-8.
            kept[key] = quote(os.fsencode(row[key]))
    return kept


def _plotted(group: Mapping[str, Any]) -> dict[str, Any]:
    """What is watched for drift, with a plot of each statistic in place of its values."""
    alarms = {alarm["statistic"]: alarm for alarm in group["alarms"]}
    plots = {}
    for name, curve in group["curves"].items():
        plot = Plot("scan, in the order of acquisition", name, whole=True)
        plot.line(curve["scan"], curve["value"], _BLUE, dots=len(curve["scan"]) < _DOTTED)
        if name in alarms:
            plot.mark(alarms[name]["since_number"], "since", _ORANGE)
            plot.mark(alarms[name]["number"], "alarm", _RED)
        plots[name] = plot.svg()
    return {**group, "curves": None, "plots": plots}


def _encoded(text: str) -> bytes:
    """As UTF-8; bytes of a file's name that are none are shown as escapes."""
    return text.encode("utf-8", "backslashreplace")
