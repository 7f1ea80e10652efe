"""Find planets beside a star: from a FITS cube to positions, contrasts and a contrast curve.

A night is simulated as the instrument would write it (a vortex coronagraph whose optics drift,
photons, read noise; the sky turns), read again, and prepared by the steps of the recipe ``recon``.
Three maps are made of it: median and PCA differential imaging, and the flux of a planet fitted
beside the star's speckles. Run it: ``python examples/find_planets.py out/``.
"""

import sys
from pathlib import Path

import matplotlib.figure
import torch

from labrecon import Scan
from labrecon.noise import PoissonGaussian, Scaled
from labrecon_coronagraph.adi import median_adi, pca_adi
from labrecon_coronagraph.apertures import full_width
from labrecon_coronagraph.contrast import contrast_curve
from labrecon_coronagraph.detection import detections, snr_map
from labrecon_coronagraph.injection import Planet, inject
from labrecon_coronagraph.instrument import CoronagraphInstrument
from labrecon_coronagraph.matched_filter import matched_filter
from labrecon_coronagraph.readers.fits_cube import FitsCubeReader
from labrecon_coronagraph.star_cube import star_cube
from labrecon_coronagraph.steps.speckles import speckles

PLANETS = [Planet(0.40, 70.0, 80.0), Planet(0.55, 200.0, 20.0)]


def main(out: Path) -> None:
    """Simulate, read, prepare, map, measure."""
    out.mkdir(parents=True, exist_ok=True)
    instrument = CoronagraphInstrument()
    night = instrument.example()
    generator = torch.Generator().manual_seed(4)
    star = night.star_flux * star_cube(night, generator).float()
    detector = Scaled(PoissonGaussian(night.read_noise), night.gain)
    data = detector.sample(inject(star, night, PLANETS).clamp_min(0), generator)
    FitsCubeReader().write(Scan(data, night), out / "night.fits")

    scan = FitsCubeReader().read(out / "night.fits")
    geometry = scan.geometry
    prepared = speckles(scan, modes=5)
    flux, sigma = matched_filter(prepared)
    ratio = torch.where(sigma > 0, flux / sigma.clamp_min(1e-30), 0.0)
    diameter = full_width(geometry.psf.tensor(torch.float64))
    maps = {
        "median": snr_map(median_adi(scan.data, geometry), diameter),
        "PCA, 5 components": snr_map(pca_adi(scan.data, geometry, modes=5), diameter),
        "fitted beside speckles": snr_map(ratio, diameter, summed=False),
    }
    for one in detections(ratio, diameter, geometry.pixel_scale, threshold=3.0, summed=False):
        print(
            f'{one.separation:.3f}" at {one.position_angle:5.1f}°: S/N {one.snr:4.1f}, '
            f"{one.significance:.1f} sigma"
        )

    known = [Planet(p.separation, p.position_angle, -p.flux) for p in PLANETS]
    empty = inject(scan.data, geometry, known)
    separations = [0.2, 0.3, 0.4, 0.5]

    def pca(data, at):
        return pca_adi(data, at, modes=5)

    def fitted(data, at):
        return matched_filter(speckles(scan.replace(data=data, geometry=at), modes=5))[0]

    curves = {
        "median": contrast_curve(empty, geometry, median_adi, separations),
        "PCA, 5 components": contrast_curve(empty, geometry, pca, separations),
        "fitted beside speckles": contrast_curve(
            empty, geometry, fitted, separations, summed=False
        ),
    }
    for title, curve in curves.items():
        told = ", ".join(f"{c:.1e}" for c in curve.contrasts)
        print(f"5 sigma, {title}: {told}")

    figure = matplotlib.figure.Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplot_mosaic([["frame", *list(maps)[:2]], [list(maps)[2], "curve", "curve"]])
    ny, nx = geometry.field_shape
    scale = geometry.pixel_scale / 1000
    extent = [side * scale / 2 for side in (-nx, nx, -ny, ny)]
    axes["frame"].imshow(scan.data[0].clamp_min(1).log10(), origin="lower", cmap="gray")
    axes["frame"].set(title="one frame (log)", xticks=[], yticks=[])
    for title, values in maps.items():
        axes[title].imshow(values, origin="lower", extent=extent, cmap="inferno", vmin=-2, vmax=6)
        axes[title].set(title=f"S/N: {title}", xlabel="arcsec")
    for title, curve in curves.items():
        axes["curve"].semilogy(curve.separations, curve.contrasts, "o-", label=title)
    for planet in PLANETS:
        axes["curve"].plot(planet.separation, planet.flux / geometry.star_flux, "k*", ms=12)
    axes["curve"].set(xlabel="separation in arcsec", ylabel="5σ contrast; planets as stars")
    axes["curve"].legend()
    figure.savefig(out / "find_planets.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "find_planets_out"))
