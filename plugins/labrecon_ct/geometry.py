"""The geometry of a CT acquisition: what was where in each view."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["CTGeometry"]

Vector = tuple[float, ...]


class CTGeometry(BaseModel):
    """One CT acquisition, lengths in mm and angles in rad.

    Frame: x to the right, y up, z along the rotation axis. At angle θ a parallel ray travels along
    ``(sin θ, −cos θ)``, the detector's column axis is ``(cos θ, sin θ)``; a cone's source stands at
    ``source_origin · (sin θ, −cos θ)``. Image row 0 is at ``y = +max``, slice 0 at ``z = −max``,
    detector row 0 at ``v = −max``. Sample ``i`` of ``n`` is at ``(i − (n − 1)/2) · pitch``; the
    volume may be higher by ``slice_offset``, and the detector lower by ``row_offset`` rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    beam: Literal["parallel", "cone"] = Field(
        "parallel", description="parallel rays, or a point source (2D: a fan; 3D: a cone)"
    )
    angles: tuple[float, ...] = Field(min_length=1, description="rotation of each view in rad")
    columns: int = Field(ge=1, description="detector columns, across the rotation axis")
    column_pitch: float = Field(1.0, gt=0, description="distance of columns in mm")
    rows: int | None = Field(None, ge=1, description="detector rows; none for a 2D geometry")
    row_pitch: float | None = Field(None, gt=0, description="distance of rows in mm")
    source_origin: float | None = Field(None, gt=0, description="source to rotation axis in mm")
    origin_detector: float | None = Field(None, ge=0, description="rotation axis to detector in mm")
    centre_offset: float = Field(
        0.0,
        description="rotation axis on the detector, in columns from its middle: "
        "centre column − (columns − 1)/2",
    )
    row_offset: float = Field(
        0.0,
        description="plane of the source on the detector, in rows from its middle: its row − "
        "(rows − 1)/2 (3D only)",
    )
    detector_tilt: float = Field(
        0.0, description="rotation of the detector in its plane in rad (3D only)"
    )
    vectors: tuple[Vector, ...] | None = Field(
        None,
        description="pose of each view in mm instead of angles and distances: ray direction "
        "(parallel) or source position (cone), detector centre, column step, row step; "
        "6 numbers in 2D, 12 in 3D",
    )
    dose: tuple[float, ...] | None = Field(
        None, description="relative dose of each view (1: the open-beam counts)"
    )
    open_beam: float | None = Field(None, gt=0, description="open-beam counts per pixel and view")
    volume_shape: tuple[int, ...] = Field(
        (), description="voxels along (y, x) or (z, y, x); as many as the detector sees by default"
    )
    voxel_size: float | None = Field(
        None, gt=0, description="in-plane voxel size in mm; the magnified column pitch by default"
    )
    slice_thickness: float | None = Field(
        None, gt=0, description="voxel size along z in mm; the magnified row pitch by default"
    )

    slice_offset: float = Field(
        0.0, description="middle of the volume above the plane of the source in mm (3D only)"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: object) -> object:
        """Fill the volume grid from the detector, before the model is frozen."""
        if not isinstance(values, dict) or "columns" not in values:
            return values
        values = dict(values)
        pitch = values.get("column_pitch", 1.0)
        rows, row_pitch = values.get("rows"), values.get("row_pitch")
        lengths = [values.get("source_origin", 1.0), values.get("origin_detector", 0.0), pitch]
        if row_pitch is not None:
            lengths.append(row_pitch)
        if not all(isinstance(a, int | float) for a in lengths) or not lengths[0] > 0:
            return values  # the fields' own checks say what is wrong
        cone = values.get("beam", "parallel") == "cone"
        magnification = (lengths[0] + lengths[1]) / lengths[0] if cone else 1.0
        if rows is not None:
            if row_pitch is None:
                row_pitch = values["row_pitch"] = pitch
            if values.get("slice_thickness") is None:
                values["slice_thickness"] = row_pitch / magnification
        if values.get("voxel_size") is None:
            values["voxel_size"] = pitch / magnification
        if not values.get("volume_shape"):
            n = values["columns"]
            values["volume_shape"] = (n, n) if rows is None else (rows, n, n)
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        views = len(self.angles)
        if max(abs(a) for a in self.angles) > 4 * math.pi:
            warnings.warn(
                f"angles reach {max(self.angles, key=abs):.4g} rad, more than two turns: were "
                "degrees given as radians?",
                stacklevel=2,
            )
        placed = self.source_origin is not None and self.origin_detector is not None
        if self.beam == "cone" and self.vectors is None and not placed:
            raise ValueError("a cone beam needs source_origin and origin_detector in mm")
        if len(self.volume_shape) != self.ndim or min(self.volume_shape) < 1:
            raise ValueError(
                f"volume_shape needs {self.ndim} positive sizes for "
                f"{'a 2D' if self.rows is None else 'a 3D'} geometry, got {self.volume_shape}"
            )
        if self.detector_tilt and self.rows is None:
            raise ValueError("a detector tilt needs detector rows (a 3D geometry)")
        shifted = bool(self.row_offset or self.slice_offset)
        if shifted and self.rows is None:
            raise ValueError("row_offset and slice_offset need detector rows (a 3D geometry)")
        if shifted and self.vectors is not None:
            raise ValueError("vectors say where the detector is: leave out row_offset and "
                             "slice_offset")  # fmt: skip
        if self.vectors is not None:
            size = 6 if self.rows is None else 12
            if len(self.vectors) != views or any(len(v) != size for v in self.vectors):
                raise ValueError(f"vectors needs {views} poses of {size} numbers, one per angle")
        if self.dose is not None and (len(self.dose) != views or min(self.dose) <= 0):
            raise ValueError(f"dose needs {views} positive numbers, one per angle")
        return self

    @property
    def ndim(self) -> int:
        """2 without detector rows, else 3."""
        return 2 if self.rows is None else 3

    @property
    def kind(self) -> str:
        """parallel, fan, parallel3d, cone, or one of them with "-vectors"."""
        name = {
            ("parallel", 2): "parallel",
            ("cone", 2): "fan",
            ("parallel", 3): "parallel3d",
            ("cone", 3): "cone",
        }[self.beam, self.ndim]
        return name if self.vectors is None else f"{name}-vectors"

    @property
    def magnification(self) -> float:
        """Source–detector over source–axis distance; 1 for parallel rays."""
        if self.beam == "parallel" or None in (self.source_origin, self.origin_detector):
            return 1.0
        assert self.source_origin is not None
        return 1.0 + (self.origin_detector or 0.0) / self.source_origin

    @property
    def voxel(self) -> tuple[float, ...]:
        """Voxel size along each volume axis in mm."""
        size = self.voxel_size or self.column_pitch
        return (size, size) if self.ndim == 2 else (self.slice_thickness or size, size, size)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """``(angle, detector)`` or ``(row, angle, column)``."""
        views = len(self.angles)
        return (views, self.columns) if self.rows is None else (self.rows, views, self.columns)

    @property
    def centre_column(self) -> float:
        """Detector column, counted from 0, onto which the rotation axis projects."""
        return (self.columns - 1) / 2 + self.centre_offset

    @property
    def slicewise(self) -> bool:
        """Whether each detector row sees exactly one slice: parallel, untilted, equal pitch."""
        return (
            self.ndim == 3
            and self.beam == "parallel"
            and self.vectors is None
            and self.detector_tilt == 0
            and self.row_offset == self.slice_offset == 0
            and self.rows == self.volume_shape[0]
            and math.isclose(self.row_pitch or 0, self.slice_thickness or 0, rel_tol=1e-9)
        )

    def slice_geometry(self) -> CTGeometry:
        """The 2D geometry of one row of a slicewise 3D geometry."""
        return self.model_copy(
            update={
                "rows": None,
                "row_pitch": None,
                "slice_thickness": None,
                "volume_shape": self.volume_shape[1:],
            }
        )

    def moved(
        self, angles: Sequence[float], centre_offset: float, detector_tilt: float
    ) -> CTGeometry:
        """The same acquisition with other angles, rotation axis and tilt (rad) of the detector."""
        update = {"centre_offset": centre_offset, "detector_tilt": detector_tilt}
        return self.model_copy(update={"angles": tuple(angles), **update})

    def select(self, views: Sequence[int]) -> CTGeometry:
        """The same acquisition with some of the views."""
        update: dict[str, object] = {"angles": tuple(self.angles[i] for i in views)}
        if self.vectors is not None:
            update["vectors"] = tuple(self.vectors[i] for i in views)
        if self.dose is not None:
            update["dose"] = tuple(self.dose[i] for i in views)
        return self.model_copy(update=update)

    def fingerprint(self) -> str:
        """A hash of everything that shapes the projection (not of dose)."""
        text = self.model_dump_json(exclude={"dose", "open_beam"})
        return hashlib.sha256(text.encode()).hexdigest()[:24]
