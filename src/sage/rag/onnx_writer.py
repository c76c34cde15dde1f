"""Just enough of the ONNX file format (protocol buffers) to write a graph, so that building one needs no other package.

Field numbers are those of ``onnx.proto`` (IR version 8, opset 18); `sage.rag.minilm` is the only user.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MICROSOFT = "com.microsoft"
"""The domain of the fused operators that onnxruntime brings along."""

_ELEMENT_TYPES = {"float32": 1, "int8": 3, "int32": 6, "int64": 7, "float16": 10}
_IR_VERSION = 8
_OPSET = 18


class GraphWriter:
    """A graph under construction. Values are known by name; `op` adds a node and returns the names of its outputs."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare an input; a text in `shape` is a dimension known only at run time."""
        self._parts.append(_field(11, _value_info(name, dtype, shape)))
        return name

    def output(self, value: str, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Give `value` out of the graph as `name`."""
        self._parts.append(_field(1, _field(1, value) + _field(2, name) + _field(4, "Identity")))
        self._parts.append(_field(12, _value_info(name, dtype, shape)))

    def constant(self, array: Array) -> str:
        """Store `array` in the graph."""
        name = self._name("c")
        dims = b"".join(_number(1, size) for size in array.shape)
        kind = _number(2, _ELEMENT_TYPES[array.dtype.name])
        self._parts.append(_field(5, dims + kind + _field(8, name) + _field(9, array.tobytes(order="C"))))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: int | float) -> str:
        """Add a node with one output."""
        return self.op_many(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def op_many(self, kind: str, *inputs: str, outputs: int, domain: str = "", **attributes: int | float) -> list[str]:
        """Add a node with several outputs. An empty text among `inputs` stands for an optional one left out."""
        names = [self._name("t") for _ in range(outputs)]
        node = b"".join(_field(1, name) for name in inputs) + b"".join(_field(2, name) for name in names)
        node += _field(4, kind) + b"".join(_field(5, _attribute(*item)) for item in attributes.items())
        self._parts.append(_field(1, node + (_field(7, domain) if domain else b"")))
        return names

    def to_bytes(self) -> bytes:
        """The file: a model that holds this graph."""
        opsets = _field(8, _field(1, "") + _number(2, _OPSET)) + _field(8, _field(1, MICROSOFT) + _number(2, 1))
        graph = _field(2, "sage") + b"".join(self._parts)
        return _number(1, _IR_VERSION) + _field(2, "sage") + _field(7, graph) + opsets

    def _name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"


def _value_info(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_field(1, _field(2, d) if isinstance(d, str) else _number(1, d)) for d in shape)
    return _field(1, name) + _field(2, _field(1, _number(1, _ELEMENT_TYPES[dtype]) + _field(2, dims)))


def _attribute(name: str, value: int | float) -> bytes:
    if isinstance(value, float):
        return _field(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + _number(20, 1)
    return _field(1, name) + _number(3, value) + _number(20, 2)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # protocol buffers write a negative number as its 64-bit two's complement
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
