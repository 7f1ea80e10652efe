"""X-ray computed tomography for labrecon: parallel, fan and cone beams."""

from __future__ import annotations

from labrecon.plugins import hookimpl

LABRECON_CONTRACT = (1, 0)
LABRECON_REQUIRES = {"astra": "labrecon[ct]"}


@hookimpl
def labrecon_instruments() -> dict[str, str]:
    """The CT scanner; nothing heavy is imported before it is used."""
    return {"ct": "labrecon_ct.instrument:CTInstrument"}
