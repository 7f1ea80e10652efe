"""Dictionaries of patches: of cosines, or learned from images; and their files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from labrecon.io.atomic import write_file
from labrecon.options import number, whole
from labrecon.prior import PriorError
from labrecon.priors.patches import Patches
from labrecon.priors.sparse_coding import matching_pursuit

__all__ = [
    "cosine_dictionary",
    "learn_dictionary",
    "read_dictionary",
    "save_dictionary",
    "updated_atoms",
]


def cosine_dictionary(patch: Sequence[int], atoms: int) -> Tensor:
    """An overcomplete DCT ``(atom, *patch)``: the lowest frequencies, without mean, of norm 1.

    Args:
        patch: shape of a patch.
        atoms: how many.

    Raises:
        PriorError: a number is wrong.
    """
    atoms = whole("atoms", atoms, error=PriorError)
    per_axis = 2
    while per_axis ** len(patch) - 1 < atoms:
        per_axis += 1
    waves = []
    for n in patch:
        angles = torch.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / per_axis
        waves.append((torch.arange(per_axis)[:, None] * angles).cos())
    numbers = sorted(itertools.product(range(per_axis), repeat=len(patch)), key=lambda k: sum(k))
    made = []
    for frequencies in numbers[1 : atoms + 1]:
        atom = torch.ones((), dtype=torch.float64)
        for wave, k in zip(waves, frequencies, strict=True):
            atom = atom[..., None] * wave[k]
        made.append(atom - atom.mean())
    return _of_norm_one(torch.stack(made)).float()


def learn_dictionary(
    images: Tensor,
    *,
    noise_level: float,
    patch: Sequence[int] = (8, 8),
    atoms: int = 256,
    iterations: int = 10,
    patches: int = 20_000,
    fit: float = 1.15,
    most: int | None = None,
    seed: int = 0,
) -> Tensor:
    """A dictionary ``(atom, *patch)`` in which patches of these images are sparse.

    Codes by orthogonal matching pursuit and atoms by `updated_atoms`, in turns, from cosines; an
    atom that no patch uses becomes the patch that is described worst. That is the scheme of K-SVD
    (Aharon, Elad and Bruckstein 2006) with the dictionary step of Mairal, Bach, Ponce and Sapiro
    (2009). The images may be noisy, such as the one to be denoised (Elad and Aharon 2006).

    Args:
        images: ``(*batch, *image)``, real; of as many image axes as ``patch`` has.
        noise_level: ``σ`` of their noise in their unit; of clean ones, the error that may be made.
        patch: shape of a patch.
        atoms: how many.
        iterations: of codes and atoms.
        patches: drawn at random to learn from, at most.
        fit: a patch is described to ``fit · σ`` per pixel.
        most: atoms of one patch; None for half its pixels.
        seed: of the draw.

    Raises:
        PriorError: images are complex or smaller than a patch, or a number is wrong.
    """
    if images.is_complex():
        raise PriorError("a dictionary is learned from real images: give real and imaginary parts")
    if not images.is_floating_point() or not bool(images.isfinite().all()):
        raise PriorError(
            f"a dictionary is learned from images of finite floating-point numbers, got "
            f"{images.dtype}: convert them, and fill what is not a number"
        )
    noise_level = number("noise_level", noise_level, above=0, error=PriorError)
    whole("iterations", iterations, at_least=0, error=PriorError)
    whole("patches", patches, error=PriorError)
    number("fit", fit, above=0, error=PriorError)
    if most is not None:
        whole("most", most, error=PriorError)
    signals = _drawn(images, patch, patches, seed)
    signals = signals - signals.mean(-1, keepdim=True)
    found = cosine_dictionary(patch, atoms).flatten(1).to(signals)
    limit = (fit * noise_level) ** 2 * signals.shape[1]
    most = max(1, signals.shape[1] // 2) if most is None else most
    with torch.no_grad():
        for _ in range(iterations):
            codes = matching_pursuit(signals, found, residual=limit, most=most)
            found = updated_atoms(signals, codes, found)
            unused = (codes != 0).sum(0) == 0
            if bool(unused.any()):
                errors = (signals - codes @ found).square().sum(-1)
                worst = errors.topk(min(int(unused.sum()), len(errors))).indices
                at = unused.nonzero()[: len(worst), 0]
                fresh = signals[worst]
                # A patch without contrast makes no atom.
                told = fresh.square().sum(-1) > 0
                found[at[told]] = fresh[told]
            found = _of_norm_one(found)
    return found.reshape(atoms, *patch)


def updated_atoms(signals: Tensor, codes: Tensor, atoms: Tensor) -> Tensor:
    """Atoms of norm at most 1 that describe the signals better with the same codes.

    One pass of block-coordinate descent on ``½‖X − C D‖²``, which it never raises (Mairal et al.
    2009, algorithm 2).

    Args:
        signals: ``X (signal, sample)``.
        codes: ``C (signal, atom)``.
        atoms: ``D (atom, sample)``.
    """
    gram, pulled = codes.mT @ codes, codes.mT @ signals
    new = atoms.clone()
    for j in range(len(new)):
        if gram[j, j] > 0:
            moved = new[j] + (pulled[j] - gram[j] @ new) / gram[j, j]
            new[j] = moved / torch.linalg.vector_norm(moved).clamp_min(1)
    return new


def save_dictionary(atoms: Tensor, path: Path | str, *, force: bool = False) -> None:
    """Write a dictionary ``(atom, *patch)`` as safetensors.

    Raises:
        OutputError: the file exists and ``force`` is off, or it can not be written.
    """
    content = save({"atoms": atoms.detach().cpu().contiguous()})
    write_file(Path(path), content, force=force)


def read_dictionary(path: Path | str) -> Tensor:
    """A dictionary that `save_dictionary` wrote.

    Raises:
        PriorError: the file is missing, or holds no dictionary.
    """
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PriorError(f"the dictionary {path} can not be read: {error}") from error
    if "atoms" not in stored:
        raise PriorError(
            f"{path} is no dictionary: it holds {', '.join(sorted(stored)) or 'nothing'}, expected "
            "atoms (atom, *patch)"
        )
    return stored["atoms"]


def _drawn(images: Tensor, patch: Sequence[int], most: int, seed: int) -> Tensor:
    """Patches (patch, sample) from all over the images."""
    axes = len(patch)
    if images.ndim < axes:
        raise PriorError(f"patches of {tuple(patch)} samples of images {tuple(images.shape)}")
    shape = images.shape[images.ndim - axes :]
    grid = Patches(shape, patch)
    flat = images.reshape(-1, *shape).flatten(1)
    total = len(flat) * len(grid.index)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(total, generator=generator)[:most]
    image, number = chosen // len(grid.index), chosen % len(grid.index)
    return flat[image[:, None], grid.index[number]]


def _of_norm_one(atoms: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(atoms.flatten(1), dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    return atoms / norms.reshape(-1, *(1,) * (atoms.ndim - 1))
