"""Reading a safetensors file: a length, a JSON header, and raw numbers. Nothing in it is ever executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sage.errors import StorageError

if TYPE_CHECKING:
    import numpy as np

_MAX_HEADER_BYTES = 1 << 20


class _Tensor(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_tensors(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The float32 tensors of `file` by name."""
    import numpy as np

    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    if size > min(_MAX_HEADER_BYTES, len(raw) - 8):
        raise StorageError("E660", "not a safetensors file", at=str(file), got=f"a header of {size} bytes")
    header = msgspec.json.decode(raw[8 : 8 + size], type=dict[str, msgspec.Raw])
    header.pop("__metadata__", None)
    data = memoryview(raw)[8 + size :]
    tensors = {}
    for name, entry in header.items():
        tensor = msgspec.json.decode(entry, type=_Tensor)
        if tensor.dtype == "F32":
            first, last = tensor.data_offsets
            tensors[name] = np.frombuffer(data[first:last], np.float32).reshape(tensor.shape)
    return tensors
