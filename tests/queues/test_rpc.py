"""RPC queues, between real processes."""

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from processes import Other

from patience import DEADLINE_S
from ports import free_port
from sage.errors import MissingDependency, QueueBroken, QueueClosed, QueueError
from sage.queues import (
    Full,
    Place,
    Queue,
    QueueDescriptor,
    RPCQueueDescriptor,
    new_key,
)

Wait = Callable[[Callable[[], object]], None]


def described(**fields: Any) -> RPCQueueDescriptor:
    return RPCQueueDescriptor(**{"port": free_port(), "key": new_key(), **fields})


@pytest.fixture
def descriptor() -> RPCQueueDescriptor:
    return described(maxsize=100)


@pytest.fixture
def owned(descriptor: RPCQueueDescriptor) -> Iterator[Queue[Any]]:
    """A queue whose owner is this process."""
    queue = descriptor.create()
    yield queue
    queue.detach()


def test_host_port_and_key_suffice() -> None:
    whole = described()
    short = RPCQueueDescriptor(port=whole.port, key=whole.key)
    assert short.queue_id == whole.queue_id == f"rpc-{whole.port}"
    assert QueueDescriptor.from_json(whole.to_json()) == whole
    assert whole.key not in repr(whole)
    assert whole.key in whole.to_json()


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 0},
        {"port": 70_000},
        {"port": "80"},
        {"key": ""},
        {"key": "Z" * 64},
        {"key": "ab"},
        {"host": "a b"},
        {"host": ""},
        {"bind": "*"},
        {"patience_s": 0},
        {"patience_s": float("nan")},
    ],
)
def test_what_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(QueueError, match="E502") as raised:
        described(**fields)
    assert "Z" * 64 not in str(raised.value)


def test_it_reaches_everywhere_with_pyzmq(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = Place.here(), Place("another-machine", 1)
    assert RPCQueueDescriptor.refusal(here, there) is None
    monkeypatch.setitem(sys.modules, "zmq", None)
    assert "pyzmq" in str(RPCQueueDescriptor.refusal(here, there))
    with pytest.raises(MissingDependency, match="pyzmq"):
        described().create()


def test_nobody_is_there() -> None:
    with pytest.raises(QueueError, match="E504"):
        described().open()


def test_the_port_is_taken() -> None:
    descriptor = described()
    with socket.create_server(("127.0.0.1", descriptor.port)), pytest.raises(QueueError, match="E503"):
        descriptor.create()


def test_another_process_puts_and_gets(owned: Any, descriptor: RPCQueueDescriptor) -> None:
    program = "q = descriptor.open(); q.put_batch([1, 2]); q.put(q.get() + 10); say(q.qsize())"
    with Other(descriptor, program) as other:
        assert other.hear() == "2"
        assert owned.get_batch() == [2, 11]


def test_interpreter_exit_flushes(owned: Any, descriptor: RPCQueueDescriptor) -> None:
    program = "q = descriptor.open(); q.linger_ms = 60_000\nfor number in range(50): q.put(number)"
    with Other(descriptor, program) as other:
        assert [owned.get(timeout=DEADLINE_S) for _ in range(50)] == list(range(50))
        assert other.process.wait(DEADLINE_S) == 0


def test_items_that_were_put_before_close_are_all_got(owned: Any, descriptor: RPCQueueDescriptor) -> None:
    program = "q = descriptor.open(); q.linger_ms = 60_000\nfor number in range(50): q.put(number)\nq.close()\nhear()"
    with Other(descriptor, program):
        assert list(owned) == list(range(50))


def test_close_by_the_owner_reaches_everybody(owned: Any, descriptor: RPCQueueDescriptor) -> None:
    program = """
q = descriptor.open()
say(q.get())
try:
    q.get()
except QueueClosed:
    say("closed")
try:
    q.put(1)
except QueueClosed:
    say("refused")
"""
    with Other(descriptor, program) as other:
        owned.put("first")
        assert other.hear() == "first"
        owned.close()
        assert other.hear() == "closed"
        assert other.hear() == "refused"


def test_a_killed_owner_breaks_the_queue() -> None:
    descriptor = described(maxsize=1)
    with Other(descriptor, "q = descriptor.create(); say('made'); hear()") as owner:
        assert owner.hear() == "made"
        queue = descriptor.open()
        queue.put(1)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(queue.put, 2)
            owner.kill()
            with pytest.raises(QueueBroken) as raised:
                waiting.result(DEADLINE_S)
        assert list(raised.value.items)[-1] == 2
        with pytest.raises(QueueBroken):
            queue.get()
        queue.detach()


def test_a_stopped_owner_is_waited_for_as_long_as_patience_lasts() -> None:
    descriptor = described(patience_s=1.0)
    with Other(descriptor, "q = descriptor.create(); say('made'); hear()") as owner:
        assert owner.hear() == "made"
        queue = descriptor.open()
        owner.send(signal.SIGSTOP)
        with pytest.raises(QueueBroken):
            queue.get()
        queue.detach()


def test_an_owner_that_ends_tells_the_others() -> None:
    descriptor = described(patience_s=60.0)
    with Other(descriptor, "q = descriptor.create(); say('made'); hear()") as owner:
        assert owner.hear() == "made"
        queue = descriptor.open()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(queue.get)
            owner.say("end")
            with pytest.raises((QueueBroken, QueueClosed)):
                waiting.result(DEADLINE_S)
        queue.detach()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_client_held_is_free_again(wait_until: Wait, number: signal.Signals) -> None:
    """The end of a connection tells that a client is gone, however long the patience with a silent one."""
    descriptor = described(maxsize=100, patience_s=1.0 if number == signal.SIGSTOP else 10_000.0)
    owned: Any = descriptor.create()
    program = "q = descriptor.open(); q.put(0); q.wait_for_pending_puts(); say('put'); hear()"
    with Other(descriptor, program) as other:
        assert other.hear() == "put"
        other.send(number)
        assert owned.get() == 0
        wait_until(lambda: _puts(owned) or owned.qsize() == 100)
        with pytest.raises(Full):
            owned.put_nowait("one too many")
    owned.detach()


def _puts(queue: Any) -> bool:
    try:
        queue.put_nowait("filling")
    except Full:
        return False
    return queue.qsize() == 100  # type: ignore[no-any-return]


def test_a_killed_consumer_takes_only_what_was_sent_to_it(owned: Any, descriptor: RPCQueueDescriptor) -> None:
    with Other(descriptor, "q = descriptor.open(); say(q.get()); hear()") as other:
        owned.put("for the one who dies")
        assert other.hear() == "for the one who dies"
        owned.put_batch([1, 2, 3])
        other.kill()
        assert [owned.get(timeout=DEADLINE_S) for _ in range(3)] == [1, 2, 3]


def test_two_processes_share_the_work(owned: Any, descriptor: RPCQueueDescriptor) -> None:
    program = """
q = descriptor.open()
count = 0
for item in q:
    count += 1
say(count)
"""
    with Other(descriptor, program) as first, Other(descriptor, program) as second:
        for number in range(5_000):
            owned.put(number)
        owned.close()
        assert int(first.hear()) + int(second.hear()) == 5_000
