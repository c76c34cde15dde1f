"""The codec: what is written comes back as what it was, and nothing else is taken."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import enum
import json
import math
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.codec import MAX_DEPTH, canonical, decode, encode
from sage.errors import RecordError, StorageError

numpy = pytest.importorskip("numpy")

texts = st.text(st.characters(codec=None), max_size=8)  # lone surrogates too
zones = st.none() | st.integers(-86_399, 86_399).map(lambda offset_s: dt.timezone(dt.timedelta(seconds=offset_s)))
hashable_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-100, 100).map(lambda n: n << 1995)
    | st.floats(allow_nan=False)
    | texts
    | st.sampled_from(["$", "$dict", "$bytes", "$tuple", "\ud83d\ude00", "\\u0024", "\ud800"])
    | st.binary(max_size=8)
    | st.datetimes(timezones=zones).map(lambda moment: moment.replace(fold=0))
    | st.dates()
    | st.times().map(lambda time: time.replace(fold=0))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
hashables = st.recursive(
    hashable_leaves,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    hashable_leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashables, max_size=4)
        | st.frozensets(hashables, max_size=4)
        | st.dictionaries(texts | hashables, inner, max_size=4)
    ),
    max_leaves=20,
)


def shape(value: Any) -> Any:
    """`value` with the exact type of every part, so that 1, 1.0 and True differ."""
    kind = type(value)
    if kind is dict:
        return kind, [(shape(key), shape(item)) for key, item in value.items()]
    if kind in (list, tuple):
        return kind, [shape(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(repr(shape(item)) for item in value)
    if kind is dt.datetime:
        return kind, value.replace(tzinfo=None), value.utcoffset()
    if kind is int:
        return kind, hex(value)  # repr has a limit
    return kind, repr(value)


@given(values)
def test_what_is_encoded_comes_back(value: Any) -> None:
    data = encode(value)
    assert shape(decode(data)) == shape(value)
    assert b"\n" not in data
    json.loads(data)


@given(values)
def test_canonical_form_is_stable_and_can_be_decoded(value: Any) -> None:
    data = canonical(value)
    again = decode(data)
    assert again == value
    assert canonical(again) == data


@given(st.dictionaries(texts | hashables, st.integers(), max_size=6))
def test_canonical_form_does_not_depend_on_the_order_of_keys(value: dict[Any, int]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical({"outer": [value]}) == canonical({"outer": [turned]})


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: ('{"$' + text).encode()))
def test_anything_else_is_refused_or_is_a_value(data: bytes) -> None:
    with contextlib.suppress(StorageError):
        decode(data)


def test_plain_values_are_plain_json() -> None:
    value = {"id": 7, "text": "ä\n", "score": 0.5, "tags": ["a", None, True], "$schema": 1, "nested": {"a": {}}}
    assert encode(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_special_values_can_be_read() -> None:
    assert encode({"raw": b"abc"}) == b'{"raw":{"$bytes":"YWJj"}}'
    assert encode((1, math.inf)) == b'{"$tuple":[1,{"$float":"inf"}]}'
    assert encode({"$bytes": "YWJj"}) == b'{"$dict":[["$bytes","YWJj"]]}'
    assert encode({2: "two"}) == b'{"$dict":[[2,"two"]]}'
    assert encode(dt.timedelta(days=1, microseconds=5)) == b'{"$timedelta":[1,0,5]}'
    assert encode({3, 1, 2}) == b'{"$set":[1,2,3]}'
    assert encode(2**64) == b"18446744073709551616"
    assert encode(-(2**20_000)) == b'{"$int":"-0x1' + b"0" * 5000 + b'"}'
    assert decode(encode(-(2**20_000))) == -(2**20_000)
    assert encode("\ud800a") == b'{"$str":"\\\\ud800a"}'
    assert (
        encode([Decimal("1.50"), UUID(int=1)])
        == b'[{"$decimal":"1.50"},{"$uuid":"00000000-0000-0000-0000-000000000001"}]'
    )


def test_nan_comes_back() -> None:
    found = decode(encode([math.nan, -0.0, Decimal("NaN")]))
    assert math.isnan(found[0])
    assert math.copysign(1, found[1]) == -1
    assert found[2].is_nan()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "|u1", "|b1", "<c16", "<U3", "|S3", "<M8[ms]", "<m8[25s]"])
def test_arrays_come_back(dtype: str) -> None:
    array = (
        numpy.arange(6).astype(dtype, copy=False).reshape(2, 3) if dtype[1] not in "M" else numpy.zeros((2, 3), dtype)
    )
    for value in (array, array.T, array[:0], array[0, 0], numpy.asfortranarray(array)):
        found = decode(encode({"v": value}))["v"]
        assert type(found) is type(value)
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert numpy.array_equal(found, value)
    found = decode(encode(array))
    found[0, 0] = array[1, 1]  # not read-only


class Colour(enum.IntEnum):
    RED = 1


@dataclasses.dataclass
class Answer:
    text: str


@pytest.mark.parametrize(
    ("value", "at", "got"),
    [
        ({"a": [1, Answer("x")]}, "$.a[1]", "Answer"),
        ([Colour.RED], "$[0]", "Colour"),
        ({"a": collections.OrderedDict()}, "$.a", "collections.OrderedDict"),
        ({1: object}, "$[1]", "builtins.type"),
        ({(1, Colour.RED): 1}, "$ (key)[1]", "Colour"),
        ({"a": {frozenset({print})}}, "$.a{}{}", "builtins.builtin_function_or_method"),
        ({2**20_000: print}, "$[<int, whose repr raised ValueError>]", "builtins.builtin_function_or_method"),
        ({"a": (1, {"b": print})}, "$.a[1].b", "builtins.builtin_function_or_method"),
        (numpy.array([object()]), "$", "numpy.ndarray"),
        (numpy.zeros(2, dtype=[("x", "i4")]), "$", "numpy.ndarray"),
        (dt.time(tzinfo=dt.timezone(dt.timedelta(microseconds=1))), "$", "datetime.time"),
        (bytearray(b"x"), "$", "builtins.bytearray"),
    ],
)
def test_what_cannot_be_encoded_is_named(value: Any, at: str, got: str) -> None:
    for function in (encode, canonical):
        with pytest.raises(RecordError) as raised:
            function(value)
        assert raised.value.code == "E407"
        assert raised.value.at == at
        assert str(raised.value.got).endswith(got)


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: {1: v}, lambda v: (v,)])
def test_depth_is_limited(wrap: Any) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert decode(encode(value)) == value
    assert decode(canonical(value)) == value
    with pytest.raises(RecordError, match="E407 the value is nested too deeply"):
        encode(wrap(value))


def test_size_is_limited() -> None:
    with pytest.raises(RecordError, match="E407 the value is too large to be stored: got 102 bytes, expected 101"):
        encode("x" * 100, max_bytes=101)
    with pytest.raises(StorageError, match="E604 a stored value is too large"):
        decode(b"1" * 11, max_bytes=10)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"NaN",
        b"[" * 100_000,
        b'{"$":1}',
        b'{"$pickle":"gASVAAAA"}',
        b'{"$bytes":"?"}',
        b'{"$bytes":1}',
        b'{"$int":"ten"}',
        b'{"$int":10}',
        b'{"$float":"1.0"}',
        b'{"$set":[[1]]}',
        b'{"$dict":[[1]]}',
        b'{"$dict":[[[],1]]}',
        b'{"$datetime":"yesterday"}',
        b'{"$decimal":"one"}',
        b'{"$uuid":"1"}',
        b'{"$timedelta":[1e400]}',
        b'{"$timedelta":[999999999999,0,0]}',
        b'{"$array":["O",[1],"AAAAAAAAAAA="]}',
        b'{"$array":["<f4",[3],"AAAA"]}',
        b'{"$array":["<f4",[-1,0],""]}',
        b'{"$array":["<U999999999",[1],""]}',
        b'{"\\u0024bytes":"?"}',
        b'{"a":{"$tuple":{"b":1}}, "b":{"$str":"\\u00e4"}}',
        b'{"$str":"\\\\N{nothing}"}',
        b'{"$scalar":["<f4",""]}',
    ],
)
def test_what_was_not_encoded_is_refused(data: bytes) -> None:
    with pytest.raises(StorageError, match="E604"):
        decode(data)


def test_numpy_is_not_imported_for_values_without_it() -> None:
    script = "import sys; from sage.codec import *; decode(encode({1: b'x'})); print('numpy' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(Path(__file__).parents[1] / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "False\n"
