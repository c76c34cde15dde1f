"""Which kind of queue is chosen, and a job's descriptors as one document."""

import json
import logging
import pickle
from typing import Any

import pytest

from sage.queues import (
    CheapestKind,
    Choice,
    LocalQueueDescriptor,
    Place,
    QueueDescriptorPool,
    QueueError,
    RPCQueueDescriptor,
    SharedMemoryQueueDescriptor,
    new_key,
)

HERE = Place.here()
NEXT_DOOR = Place(HERE.machine, HERE.process + 1)
FAR_AWAY = Place("elsewhere.invalid", 1)


def test_the_kind_follows_from_where_the_ends_are(caplog: pytest.LogCaptureFixture) -> None:
    strategy = CheapestKind()
    with caplog.at_level(logging.INFO):
        local = strategy.choose(HERE, HERE, queue_id="a", maxsize=5)
        shared = strategy.choose(HERE, NEXT_DOOR, queue_id="b", maxsize=6)
    assert local == Choice(LocalQueueDescriptor(queue_id="a", maxsize=5), "local")
    assert isinstance(shared.descriptor, SharedMemoryQueueDescriptor)
    assert (shared.descriptor.queue_id, shared.descriptor.maxsize) == ("b", 6)
    assert shared.reason == "shared_memory; not local: the ends are in different processes"
    assert caplog.messages == ["queue a: local", f"queue b: {shared.reason}"]


def test_places_that_nothing_joins() -> None:
    with pytest.raises(QueueError, match=r"E508 .*shared_memory: the ends are on different machines"):
        CheapestKind().choose(HERE, FAR_AWAY)


def test_other_machines_are_reached_where_a_port_and_a_key_are_given() -> None:
    key = new_key()
    choice = CheapestKind().choose(HERE, FAR_AWAY, maxsize=5, port=40_001, key=key)
    assert choice.descriptor == RPCQueueDescriptor(maxsize=5, port=40_001, key=key)
    assert "shared_memory: the ends are on different machines" in choice.reason
    assert CheapestKind().choose(HERE, HERE, maxsize=5, port=40_001, key=key).descriptor.kind == "local"
    with pytest.raises(QueueError, match="rpc: it needs port and key"):
        CheapestKind().choose(HERE, FAR_AWAY)


def test_a_pool_is_one_document() -> None:
    pool = QueueDescriptorPool({"a -> b": LocalQueueDescriptor(), "b -> c": SharedMemoryQueueDescriptor(maxsize=None)})
    for copy in (QueueDescriptorPool.from_json(pool.to_json()), pickle.loads(pickle.dumps(pool))):
        assert copy == pool
        assert hash(copy) == hash(pool)
        assert list(copy) == ["a -> b", "b -> c"]
        assert copy["b -> c"] == pool["b -> c"]


def test_what_cannot_leave_its_process_is_replaced() -> None:
    local = LocalQueueDescriptor(maxsize=7, max_bytes=9_000, adaptive=False)
    pool = QueueDescriptorPool({"a": local, "b": SharedMemoryQueueDescriptor(), "c": LocalQueueDescriptor()})
    sent = pool.for_other_processes()
    assert isinstance(sent["a"], SharedMemoryQueueDescriptor)
    assert (sent["a"].queue_id, sent["a"].maxsize, sent["a"].max_bytes) == (local.queue_id, 7, 9_000)
    assert not sent["a"].adaptive
    assert isinstance(sent["c"], SharedMemoryQueueDescriptor)
    assert sent["b"] is pool["b"]


def test_what_is_in_use_here_is_refused() -> None:
    descriptor = LocalQueueDescriptor(queue_id="busy")
    queue = descriptor.create()
    with pytest.raises(QueueError, match=r"E523 .*queue busy \(edge\)"):
        QueueDescriptorPool({"edge": descriptor}).for_other_processes()
    queue.detach()


def test_the_strategy_can_be_replaced() -> None:
    class Always:
        def choose(self, producer: Place, consumer: Place, **fields: Any) -> Choice:
            return Choice(SharedMemoryQueueDescriptor(max_bytes=1_000, **fields), "for this test")

    sent = QueueDescriptorPool({"a": LocalQueueDescriptor()}).for_other_processes(Always())
    assert isinstance(sent["a"], SharedMemoryQueueDescriptor)
    assert sent["a"].max_bytes == 1_000


@pytest.mark.parametrize(
    ("code", "data"),
    [
        ("E520", []),
        ("E520", {"queues": {}}),
        ("E520", {"version": 1, "queues": []}),
        ("E524", {"version": 2, "queues": {}}),
        ("E521", {"version": 1, "queues": {"a": {"version": 1, "kind": "os:system"}}}),
        ("E520", {"version": 1, "queues": {"a": None}}),
    ],
)
def test_documents_that_are_refused(code: str, data: Any) -> None:
    with pytest.raises(QueueError, match=code):
        QueueDescriptorPool.from_json(json.dumps(data))


def test_the_queue_at_fault_is_named() -> None:
    entry = {"version": 1, "kind": "nothing", "queue_id": "q", "maxsize": 1}
    with pytest.raises(QueueError, match=r"at \$\.queues\.edge\.kind"):
        QueueDescriptorPool.from_dict({"version": 1, "queues": {"edge": entry}})
