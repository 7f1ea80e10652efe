"""Lines that a lab would measure."""

from __future__ import annotations

import pytest
import torch

from labrecon_mri.instrument import MRIInstrument

MRI = MRIInstrument()


def test_usual_lines_have_equal_budget_and_a_centre() -> None:
    few = MRI.with_acquisitions(MRI.example(), 16)
    found = MRI.baselines(few, "sampling.mask", torch.Generator().manual_seed(0))
    assert set(found) == {"equispaced", "random"}
    for mask in found.values():
        assert int(mask.sum()) == 16
        assert bool((mask[28:36] == 1).all())
    operator = MRI.operator(few, centre=8)
    feasible = operator.designs["sampling.mask"]
    assert not any(feasible.violations(mask) for mask in found.values())
    assert MRI.budget(few, {"sampling.mask": found["random"]})["acceleration"] == "4"


def test_a_learned_mask_is_a_geometry() -> None:
    few = MRI.with_acquisitions(MRI.example(), 16)
    mask = MRI.baselines(few, "sampling.mask", torch.Generator().manual_seed(1))["random"]
    made = MRI.designed(few, {"sampling.mask": mask})
    assert torch.equal(made.mask.tensor(torch.float32), mask)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="64 lines, not 65"):
        MRI.with_acquisitions(MRI.example(), 65)
