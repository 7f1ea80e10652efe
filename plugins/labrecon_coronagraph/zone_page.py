"""The page of a dark zone: a picture and tables in one file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labrecon_coronagraph.learned_zone import LearnedZone, Optics

__all__ = ["compared", "zone_page"]

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:2em auto;padding:0 1.5em;"
    "color:#1b1f26}table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .9em;"
    "border-bottom:1px solid #e3e6eb;text-align:left}img{max-width:100%}.note{color:#667085}"
)


def compared(learned: LearnedZone) -> list[tuple[str, ...]]:
    """Rows of the table, the first with titles: given and learned optics."""
    head = ("", "contrast", "worst draw", "perfect optics", "throughput", "inner working angle")
    return [head, _row("given", learned.before), _row("learned", learned.after)]


def _row(title: str, optics: Optics) -> tuple[str, ...]:
    return (
        title,
        f"{float(optics.contrast.mean()):.3g}",
        f"{float(optics.contrast.max()):.3g}",
        f"{optics.perfect:.3g}",
        f"{optics.throughput:.4f}",
        "none within 20 λ/D" if optics.angle is None else f"{optics.angle:.2f} λ/D",
    )


def zone_page(learned: LearnedZone, told: Mapping[str, Any]) -> str:
    """HTML: what was learned, before and after, limits that are broken, how it was made.

    Args:
        learned: the optics.
        told: options and what else belongs to it, in words.
    """
    from labrecon_coronagraph.zone_picture import draw_zone

    buffer = io.BytesIO()
    draw_zone(learned).savefig(buffer, format="png", dpi=90)
    picture = base64.b64encode(buffer.getvalue()).decode()
    warnings = "".join(f"<p><b>{html.escape(warning)}</b></p>" for warning in learned.warnings)
    limits = "" if learned.broken else "<p>The learned designs keep all limits of the hardware.</p>"
    draws = len(learned.after.contrast)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Dark zone</title>'
        f"<style>{_STYLE}</style></head><body><h1>Dark zone</h1>"
        f'<p class="note">Means over {draws} draws of aberrations that were not learned from, '
        "relative to the peak of a planet far from the mask. Throughput is that peak relative to "
        "the star's without mask and apodizer; at the inner working angle a planet has half of "
        "it.</p>"
        + _table(compared(learned))
        + f'<img alt="designs, images, contrasts" src="data:image/png;base64,{picture}">'
        + warnings
        + limits
        + "<h2>How it was made</h2>"
        + _table([("", ""), *((str(key), str(value)) for key, value in told.items())])
        + "</body></html>"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows[1:])
    return f"<table><tr>{cells(rows[0], 'th')}</tr>{body}</table>"
