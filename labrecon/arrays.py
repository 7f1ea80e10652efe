"""Array: a measured or planned array as a field of a geometry."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema
from torch import Tensor

__all__ = ["Array"]

_KINDS = "biufc"
_KEYS = {"dtype", "shape", "zlib"}


class Array:
    """An immutable array that compares by content and survives JSON: a geometry's field.

    For what is too large for tuples: trajectories, coil sensitivities, field maps, a measured PSF.
    It takes tensors, NumPy arrays and nested lists; JSON holds dtype, shape and the compressed
    bytes in base64.

    Args:
        values: numbers, real or complex.

    Raises:
        ValueError: they are not numbers of one shape, or not finite.

    Example:
        >>> from pydantic import BaseModel
        >>> class Geometry(BaseModel):
        ...     psf: Array
        >>> geometry = Geometry(psf=torch.eye(2))
        >>> Geometry.model_validate_json(geometry.model_dump_json()) == geometry
        True
    """

    def __init__(self, values: Any) -> None:
        if isinstance(values, Tensor):
            values = values.detach().cpu().resolve_conj().resolve_neg().numpy()
        array = np.array(values)
        if array.dtype.kind not in _KINDS or not array.size:
            raise ValueError(f"expected an array of numbers, got {array.dtype} {array.shape}")
        bad = int((~np.isfinite(array)).sum())
        if bad:
            raise ValueError(f"{bad} of {array.size} numbers are NaN or infinite")
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
        array.flags.writeable = False
        self.values: NDArray[Any] = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.values.ndim

    def tensor(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """A copy as a tensor."""
        return torch.tensor(self.values, dtype=dtype, device=device)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Array)
            and self.values.dtype == other.values.dtype
            and np.array_equal(self.values, other.values)
        )

    def __hash__(self) -> int:
        return hash((str(self.values.dtype), self.shape, self.digest()))

    def __repr__(self) -> str:
        return f"Array({self.values.dtype}, shape={self.shape}, sha256={self.digest()[:8]})"

    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.values.tobytes()).hexdigest()

    # -- JSON ----------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """``{"dtype": …, "shape": …, "zlib": …}``."""
        little = self.values.astype(self.values.dtype.newbyteorder("<"), copy=False)
        return {
            "dtype": self.values.dtype.name,
            "shape": list(self.shape),
            "zlib": base64.b64encode(zlib.compress(little.tobytes(), 1)).decode("ascii"),
        }

    @staticmethod
    def is_json(value: object) -> bool:
        """Whether a value is what `to_json` gives."""
        return isinstance(value, dict) and value.keys() == _KEYS

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The array that `to_json` gave.

        Raises:
            ValueError: the bytes are damaged, or not as many as dtype and shape say.
        """
        dtype, shape = np.dtype(str(value["dtype"])), tuple(int(n) for n in value["shape"])
        if dtype.kind not in _KINDS:
            raise ValueError(f"an array of {dtype} is no array of numbers")
        size = int(np.prod(shape)) * dtype.itemsize
        # No more is unpacked than the shape says, however much the file promises.
        unpack = zlib.decompressobj()
        try:
            packed = base64.b64decode(value["zlib"], validate=True)
            data = unpack.decompress(packed, size + 1)
        except (zlib.error, ValueError, TypeError) as error:
            raise ValueError(f"the bytes of an array are damaged: {error}") from error
        if len(data) != size:
            raise ValueError(f"an array {dtype} {shape} has {size} bytes, got {len(data)}")
        return cls(np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape))

    @classmethod
    def _validated(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        return cls.from_json(value) if cls.is_json(value) else cls(value)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validated,
            serialization=core_schema.plain_serializer_function_ser_schema(
                cls.to_json, when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": ["array", "object"], "description": "numbers, nested by axis"}
