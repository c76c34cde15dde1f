"""Addresses of queues as plain data."""

import json
import pickle
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.queues import LocalQueue, LocalQueueDescriptor, Place, QueueDescriptor, QueueError, register_kind
from sage.queues.descriptor import MAX_JSON_BYTES

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
SIZES = st.none() | st.integers(1, 2**31 - 1)


def refused(code: str, text: Any, read: Any = QueueDescriptor.from_json) -> None:
    with pytest.raises(QueueError) as raised:
        read(text)
    assert raised.value.code == code
    assert str(raised.value).startswith(code)


@given(queue_id=NAMES, maxsize=SIZES)
def test_the_same_after_any_round_trip(queue_id: str, maxsize: int | None) -> None:
    descriptor = LocalQueueDescriptor(queue_id=queue_id, maxsize=maxsize)
    for copy in (
        QueueDescriptor.from_json(descriptor.to_json()),
        LocalQueueDescriptor.from_dict(descriptor.to_dict()),
        pickle.loads(pickle.dumps(descriptor)),
    ):
        assert copy == descriptor
        assert hash(copy) == hash(descriptor)
        assert type(copy) is LocalQueueDescriptor


def test_it_is_frozen_and_has_an_id_of_its_own() -> None:
    descriptor = LocalQueueDescriptor()
    assert descriptor.queue_id != LocalQueueDescriptor().queue_id
    with pytest.raises(FrozenInstanceError):
        descriptor.maxsize = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "name",
    ["", "a" * 65, "a" * 300, "a/b", "..", ".a", "a\0", "a b", "\u0430bc", "a*", "_sys", "-a", "a\n", None, 5],
)
def test_names_that_are_refused(name: Any) -> None:
    refused("E501", name, lambda name: LocalQueueDescriptor(queue_id=name))


@pytest.mark.parametrize("maxsize", [0, -1, 2**63, 2**31, True, 1.5, "10"])
def test_capacities_that_are_refused(maxsize: Any) -> None:
    refused("E502", maxsize, lambda maxsize: LocalQueueDescriptor(maxsize=maxsize))


GOOD = {"version": 1, "kind": "local", "queue_id": "q", "maxsize": 5, "max_bytes": None, "adaptive": True}


@pytest.mark.parametrize(
    ("code", "data"),
    [
        ("E520", []),
        ("E520", 5),
        ("E520", None),
        ("E524", {}),
        ("E524", GOOD | {"version": 2}),
        ("E524", GOOD | {"version": True}),
        ("E521", GOOD | {"kind": "os:system"}),
        ("E521", GOOD | {"kind": ["local"]}),
        ("E521", {key: value for key, value in GOOD.items() if key != "kind"}),
        ("E522", GOOD | {"__reduce__": "x"}),
        ("E522", {key: value for key, value in GOOD.items() if key != "maxsize"}),
        ("E501", GOOD | {"queue_id": "../x"}),
        ("E502", GOOD | {"maxsize": "5"}),
        ("E522", GOOD | {"adaptive": 1}),
    ],
)
def test_documents_that_are_refused(code: str, data: Any) -> None:
    refused(code, json.dumps(data))
    refused(code, data, QueueDescriptor.from_dict)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        b"\x80\x05\x95",
        b"\xff\xfe",
        "[" * 50_000,
        "x" * (MAX_JSON_BYTES + 1),
        '{"kind": "local", "kind": "local"}',
        '{"maxsize": NaN}',
        '{"maxsize": 1' + "0" * 5_000 + "}",
        pickle.dumps(LocalQueueDescriptor()),
        7,
    ],
    ids=["empty", "begun", "bytes", "no-utf8", "deep", "long", "twice", "nan", "large-number", "pickle", "a-number"],
)
def test_texts_that_are_refused(text: Any) -> None:
    refused("E520", text)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    refused("E520", b"\0" + data)


def test_create_once_and_open_many_times() -> None:
    descriptor = LocalQueueDescriptor(queue_id="jobs", maxsize=5)
    refused("E504", None, lambda _: descriptor.open())
    with descriptor.create() as queue:
        refused("E503", None, lambda _: descriptor.create())
        copy = QueueDescriptor.from_json(descriptor.to_json())
        assert copy.open() is queue
        assert copy.queue_instance is queue
        other = LocalQueueDescriptor(queue_id="jobs", maxsize=6)
        refused("E503", None, lambda _: other.open())
        refused("E503", None, lambda _: other.create())
        queue.detach()
    refused("E504", None, lambda _: descriptor.open())


def test_the_instance_is_there_for_the_asking() -> None:
    queue = LocalQueueDescriptor(maxsize=10).queue_instance
    queue.put("x")
    assert isinstance(queue, LocalQueue)
    assert queue.maxsize == 10
    assert queue.get() == "x"
    queue.detach()


def test_a_descriptor_of_another_kind() -> None:
    @register_kind
    @dataclass(frozen=True, kw_only=True)
    class ElsewhereDescriptor(QueueDescriptor):
        kind: ClassVar[str] = "elsewhere"
        cost: ClassVar[int] = 99
        host: str

        @classmethod
        def refusal(cls, producer: Place, consumer: Place) -> str | None:
            return "it is only for this test"

        def _make(self) -> LocalQueue[Any]:
            return LocalQueue(self.maxsize)

        _attach = _make

    descriptor = ElsewhereDescriptor(host="h", maxsize=None)
    assert QueueDescriptor.from_json(descriptor.to_json()) == descriptor
    refused("E521", descriptor.to_json(), LocalQueueDescriptor.from_json)
    refused("E521", ElsewhereDescriptor, register_kind)
