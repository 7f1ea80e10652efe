"""Learn a dictionary of patches from a noisy image itself, and denoise the image with it.

The scene is woven of four cloths. Its atoms are learned from the noisy image, without any other;
beside them stand a dictionary of cosines and total variation of the weight that is best here. The
dictionary is written to a file that a recipe names.
Run it: ``python examples/learn_dictionary.py out/``.
"""

import sys
from pathlib import Path

import matplotlib.figure
import torch
from torch import Tensor

from labrecon.metrics import psnr
from labrecon.noise import Gaussian
from labrecon.priors import TV
from labrecon.priors.dictionary_learning import learn_dictionary, save_dictionary
from labrecon.priors.patch_dictionary import PatchDictionary

SIDE, SIGMA = 96, 0.15


def woven_scene() -> Tensor:
    """Four cloths, each with a weave of its own, in [0, 1]."""
    at = torch.arange(SIDE, dtype=torch.float32)
    y, x = at[:, None], at
    waves = [
        (0.9 * x + 0.45 * y).sin(),
        (1.2 * y - 0.3 * x).sin(),
        (0.8 * x).sin() * (0.8 * y).sin(),
        (0.5 * (x - y)).sin().sign(),
    ]
    middle = SIDE / 2
    left, top = x < middle + 12 * (0.06 * y).sin(), y < middle + 10 * (0.05 * x).cos()
    areas = [left & top, ~left & top, left & ~top, ~left & ~top]
    return 0.5 + 0.35 * sum(a * w for a, w in zip(areas, waves, strict=True))


def main(out: Path) -> None:
    """Learn, denoise three ways, draw scene, data, results and atoms."""
    out.mkdir(parents=True, exist_ok=True)
    scene = woven_scene()
    noisy = Gaussian(SIGMA).sample(scene, torch.Generator().manual_seed(0))

    atoms = learn_dictionary(noisy, noise_level=SIGMA, patch=(8, 8), atoms=128, patches=4000)
    save_dictionary(atoms, out / "dictionary.safetensors", force=True)

    results = {}
    for title, dictionary in (("cosines", None), ("learned", out / "dictionary.safetensors")):
        results[title] = PatchDictionary(dictionary, noise_level=SIGMA).prox(noisy, 1.0)
    candidates = [TV(w * SIGMA).prox(noisy, 1.0) for w in (0.2, 0.3, 0.5, 0.8)]
    results["TV"] = max(candidates, key=lambda x: psnr(x, scene))

    shown = {"scene": scene, "noisy": noisy, **results}
    for title, image in shown.items():
        print(f"{title:16} {psnr(image, scene):.1f} dB")
    figure = matplotlib.figure.Figure(figsize=(9, 2.1), layout="constrained")
    axes = figure.subplots(1, 6)
    for axis, (title, image) in zip(axes, shown.items(), strict=False):
        told = "" if title == "scene" else f"\n{psnr(image, scene):.1f} dB"
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis.set(title=title + told, xticks=[], yticks=[])
    tiles = torch.nn.functional.pad(atoms[:64], (0, 1, 0, 1)).reshape(8, 8, 9, 9)
    axes[-1].imshow(tiles.transpose(1, 2).reshape(72, 72), cmap="gray", vmin=-0.35, vmax=0.35)
    axes[-1].set(title="atoms,\nlearned", xticks=[], yticks=[])
    figure.savefig(out / "learn_dictionary.png", dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
