"""Compile the C model, check the instrument, catch a broken adjoint, reconstruct a scan.

Run it: ``python examples/external_instrument/run.py out/``. It needs a C compiler (``cc``).
"""

import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
import torch

from labrecon import Problem, solve
from labrecon.plugins import host
from labrecon.testing import check_instrument

HERE = Path(__file__).parent


def build() -> None:
    """The shared library beside its source."""
    source, library = HERE / "coded_aperture.c", HERE / "coded_aperture.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)


def break_the_adjoint(spectrometer) -> None:
    """What `check` says of an index that is off by one."""
    right = spectrometer.backproject
    spectrometer.backproject = lambda y, code: np.roll(right(y, code), 1, axis=1)
    report = check_instrument(
        spectrometer.Spectrometer(), only=("adjoint", "gradient"), raises=False
    )
    for outcome in report.outcomes:
        for finding in outcome.findings:
            if finding.status == "failed":
                print(f"✗ {outcome.check}: {finding}\n    → {finding.advice}")
    assert not report.passed
    spectrometer.backproject = right


def main(out: Path) -> None:
    build()
    sys.path.insert(0, str(HERE))
    import spectrometer

    lab = spectrometer.Spectrometer()
    report = check_instrument(lab)
    print(", ".join(f"{count} {status}" for status, count in report.counts().items()))
    break_the_adjoint(spectrometer)

    scan = lab.simulate(lab.example(), torch.Generator().manual_seed(3))
    operator = lab.operator(scan.geometry)
    problem = Problem(operator, scan.data, scan.noise)
    prior = host().get("priors", "tv")(weight=20.0, nonneg=True)
    solution = solve(host().get("solvers", "fista")(prior=prior), problem, iterations=400)
    direct = operator.initial(scan.data)
    for name, x in (("back-projection", direct), ("total variation", solution.x)):
        error = float(
            torch.linalg.vector_norm(x - scan.truth) / torch.linalg.vector_norm(scan.truth)
        )
        print(f"{name}: relative error {error:.3f}")

    out.mkdir(parents=True, exist_ok=True)
    figure = matplotlib.figure.Figure(figsize=(9.5, 5.4), layout="constrained")
    images = {
        "scene: spectrum at each position": scan.truth,
        "measured: 16 steps of the disc": scan.data,
        "back-projected": direct,
        "total variation": solution.x,
    }
    axes = figure.subplots(2, 2).flat
    for axis, (title, image) in zip(axes, images.items(), strict=True):
        axis.imshow(image, cmap="magma", aspect="auto", vmin=0)
        measured = image is scan.data
        axis.set(
            title=title,
            xlabel="detector pixel" if measured else "spectral band",
            ylabel="step" if measured else "position",
        )
    figure.savefig(out / "external_instrument.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
