"""Folders of objects."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from labrecon.errors import ObjectsError
from labrecon.io.objects import object_files, read_objects
from labrecon.space import Space

SPACE = Space((4, 6), axes=("y", "x"))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "objects"
    path.mkdir()
    return path


def ramp(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def test_every_format_gives_the_values_it_holds(folder):
    image = ramp(4, 6)
    Image.fromarray(image.astype(np.uint8)).save(folder / "a.png")
    Image.fromarray(image.astype(np.uint8)).convert("RGB").save(folder / "b.bmp")
    tifffile.imwrite(folder / "c.tif", np.stack([image, image + 1]))
    tifffile.imwrite(folder / "d.TIFF", image.astype(np.uint16))
    np.save(folder / "e.npy", image.astype(">f8"))
    np.savez(folder / "f.npz", only=image)
    with h5py.File(folder / "g.h5", "w") as file:
        file["entry/data"] = image
        file["entry/x"] = np.arange(6.0)
    np.save(folder / "h.npy", image > 3)
    (folder / "notes.txt").write_text("not an object")
    (folder / ".hidden.png").write_text("")
    found = read_objects(folder, SPACE)
    names = ["a.png", "b.bmp", "c.tif", "c.tif", "d.TIFF", "e.npy", "f.npz", "g.h5", "h.npy"]
    assert list(found.sources) == names
    assert found.ignored == ("notes.txt",)
    assert found.objects.dtype == torch.float32
    factors = [255, 255, 1, 1, 65535, 1, 1, 1]
    for x, factor, more in zip(found.objects, factors, [0, 0, 0, 1, 0, 0, 0, 0], strict=False):
        torch.testing.assert_close(x, torch.from_numpy(image + more) / factor)
    assert torch.equal(found.objects[-1], torch.from_numpy(image > 3).float())


def test_a_stack_a_single_file_and_a_scale(folder):
    np.save(folder / "stack.npy", ramp(5, 4, 6))
    assert torch.equal(
        read_objects(folder / "stack.npy", SPACE, scale=2.0).objects,
        2 * torch.from_numpy(ramp(5, 4, 6)),
    )
    assert len(read_objects(folder, SPACE)) == 5


def test_real_values_serve_a_complex_domain_and_not_the_reverse(folder):
    np.save(folder / "a.npy", ramp(4, 6))
    complexes = Space((4, 6), torch.complex64)
    assert torch.equal(
        read_objects(folder, complexes).objects[0].real, torch.from_numpy(ramp(4, 6))
    )
    np.save(folder / "b.npy", 1j * ramp(4, 6))
    with pytest.raises(
        ObjectsError, match=r"b\.npy hold complex values, where objects are float32"
    ):
        read_objects(folder, SPACE)


def test_which_array_of_a_file_is_said(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file["raw"], file["phase"] = ramp(4, 6), 1 + ramp(4, 6)
    with pytest.raises(ObjectsError, match=r"a\.h5: .* it holds phase, raw; .* data\.dataset=NAME"):
        read_objects(folder, SPACE)
    assert float(read_objects(folder, SPACE, dataset="/phase").objects[0, 0, 0]) == 1
    with pytest.raises(ObjectsError, match=r"no array 'fase'; it holds phase, raw"):
        read_objects(folder, SPACE, dataset="fase")


def test_nothing_to_read_is_told(folder, tmp_path):
    with pytest.raises(ObjectsError, match=r"no objects in .*objects: it is empty; expected files"):
        read_objects(folder, SPACE)
    (folder / "a.doc").write_text("")
    (folder / "more").mkdir()
    with pytest.raises(ObjectsError, match=r"it holds a\.doc, more; expected files \.png"):
        read_objects(folder, SPACE)
    with pytest.raises(ObjectsError, match="can not be listed"):
        object_files(tmp_path / "nowhere")


def test_mixed_and_wrong_shapes_name_the_files(folder):
    for i in range(8):
        np.save(folder / f"wide{i}.npy", ramp(4, 8))
    with pytest.raises(
        ObjectsError, match=r"shape 4 × 8 \(wide0.*wide4\.npy and 3 more\).*y=4, x=6"
    ):
        read_objects(folder, SPACE)
    np.save(folder / "right.npy", ramp(4, 6))
    with pytest.raises(ObjectsError, match=r"mixed shapes: 4 × 6: right\.npy; 4 × 8: wide0"):
        read_objects(folder, SPACE)


def test_values_that_are_not_finite_name_the_files(folder):
    np.save(folder / "good.npy", ramp(4, 6))
    np.save(folder / "bad.npy", np.full((4, 6), np.nan))
    with pytest.raises(ObjectsError, match=r"objects: bad\.npy hold values that are NaN"):
        read_objects(folder, SPACE)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.png", b"\x89PNG broken", r"a\.png can not be read: UnidentifiedImageError"),
        ("a.npy", b"\x93NUMPY", r"a\.npy can not be read"),
        ("a.h5", b"nothing", r"a\.h5 can not be read: OSError"),
        ("a.tif", b"II*\x00", r"a\.tif can not be read"),
    ],
)
def test_damaged_files_are_named(folder, name, content, told):
    (folder / name).write_bytes(content)
    with pytest.raises(ObjectsError, match=told):
        read_objects(folder, SPACE)


def test_pickled_objects_are_not_loaded(folder):
    np.save(folder / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ObjectsError, match="allow_pickle=False"):
        read_objects(folder, SPACE)


def test_colour_and_text_are_refused(folder):
    colour = np.zeros((4, 6, 3), np.uint8)
    colour[..., 0] = 200
    Image.fromarray(colour).save(folder / "red.png")
    with pytest.raises(ObjectsError, match=r"red\.png: a colour image, expected grey-scale"):
        read_objects(folder, SPACE)
    (folder / "red.png").unlink()
    np.save(folder / "text.npy", np.array(["a"]))
    with pytest.raises(ObjectsError, match=r"text\.npy holds <U1, expected numbers"):
        read_objects(folder, SPACE)


def test_nifti_needs_its_package(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    (folder / "brain.nii.gz").write_bytes(b"")
    with pytest.raises(ObjectsError, match=r"brain\.nii\.gz: NIfTI needs .* pip install nibabel"):
        read_objects(folder, SPACE)
