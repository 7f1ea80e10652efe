"""Learn an apodizer that keeps the star dark although the optics drift.

An apodized-pupil Lyot coronagraph behind the pupil of the VLT, with 30 nm of static aberrations
that nobody knows and 4 mas of jitter. The prolate apodizer is learned on, on random aberrations,
for the mean contrast from 3 to 8 λ/D at the throughput that it has, and written as FITS. Run it:
``python examples/dark_zone.py out/``; ``labrecon dark-zone -o out`` does the same with a report.
"""

import sys
from pathlib import Path

from labrecon_coronagraph.learned_zone import drifting_telescope, learn_dark_zone
from labrecon_coronagraph.optics_fits import export_optics
from labrecon_coronagraph.zone_picture import draw_zone


def main(out: Path) -> None:
    """Learn, compare on other aberrations, export, draw."""
    out.mkdir(parents=True, exist_ok=True)
    optics = drifting_telescope()
    learned = learn_dark_zone(optics, designs=["apodizer"], inner=3, outer=8)
    for title, told in (("prolate", learned.before), ("learned", learned.after)):
        print(
            f"{title}: contrast {told.contrast.mean():.2e}, {told.perfect:.1e} without "
            f"aberrations, throughput {told.throughput:.3f}, inner working angle "
            f"{told.angle:.2f} λ/D"
        )
    assert not learned.warnings
    export_optics(optics, learned.after.designs, out / "apodizer")
    draw_zone(learned).savefig(out / "dark_zone.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dark_zone_out"))
