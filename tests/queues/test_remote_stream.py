"""Messages arrive once and in order, whatever happens on the way."""

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.errors import QueueError
from sage.queues.remote.messages import Demand, Items, decode, encode
from sage.queues.remote.stream import Header, Sort, Stream, split

SESSION, LIFE = b"session1", b"oflife01"


class Wire:
    """One direction between two ends, on which `chance` decides what happens to each message."""

    def __init__(self, chance: random.Random, harm: float) -> None:
        self._chance = chance
        self.harm = harm
        self._messages: deque[list[bytes]] = deque()

    def send(self, message: list[bytes]) -> None:
        fate = self._chance.random() / self.harm if self.harm else 1.0
        if fate < 0.4:
            return
        self._messages.append(message)
        if fate < 0.6:
            self._messages.append(message)
        if fate < 0.8:
            self._chance.shuffle(self._messages)
        if 0.99 < fate < 1.0:
            self._messages.clear()  # the connection was cut

    def receive(self) -> list[bytes] | None:
        return self._messages.popleft() if self._messages else None


class End:
    """A stream, what it is to send, and what came."""

    def __init__(self, out: Wire) -> None:
        self.stream = Stream(SESSION, LIFE)
        self.came: list[bytes] = []
        self.out = out
        self._sent = 0

    def send(self) -> None:
        self._sent += 1
        self.out.send(self.stream.send(b"%d" % self._sent, [b"buffer"]))

    def take(self, message: list[bytes], now: float) -> None:
        found = split(message[0])
        assert found is not None
        header, body = found
        is_next, replies = self.stream.receive(header, 10, now)
        if is_next:
            self.came.append(bytes(body))
        for reply in replies:
            self.out.send(reply)


@given(
    chance=st.randoms(use_true_random=False),
    harm=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    steps=st.lists(st.sampled_from("aabbABABp"), max_size=200),
)
@settings(max_examples=300)
def test_once_and_in_order(chance: random.Random, harm: float, steps: list[str]) -> None:
    to_b, to_a = Wire(chance, harm), Wire(chance, harm)
    a, b = End(to_b), End(to_a)
    sent = {"a": 0, "b": 0}
    for now, step in enumerate(steps):
        if step in sent:
            sent[step] += 1
            (a if step == "a" else b).send()
        elif step == "p":
            a.out.send(a.stream.ping(now))
        else:
            _carry(*((to_b, b) if step == "A" else (to_a, a)), now, at_most=3)
    assert a.came == _numbers(len(a.came))
    assert b.came == _numbers(len(b.came))
    to_a.harm = to_b.harm = 0.0  # in the end the weather is good, and a heartbeat finds out what is missing
    for now in range(1_000, 1_004):
        a.out.send(a.stream.ping(now))
        b.out.send(b.stream.ping(now))
        while _carry(to_b, b, now) + _carry(to_a, a, now):
            pass
    assert b.came == _numbers(sent["a"])
    assert a.came == _numbers(sent["b"])
    assert not a.stream.pending
    assert not b.stream.pending
    assert a.stream.unacknowledged_bytes == b.stream.unacknowledged_bytes == 0


def _carry(wire: Wire, end: End, now: float, at_most: int = 1_000_000) -> int:
    carried = 0
    while carried < at_most and (message := wire.receive()) is not None:
        end.take(message, now)
        carried += 1
    return carried


def _numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(1, count + 1)]


def test_a_replayed_message_is_dropped() -> None:
    here, there = Stream(SESSION, LIFE), Stream(SESSION, LIFE)
    found = split(here.send(b"pay 100")[0])
    assert found is not None
    assert there.receive(found[0], 1, 0.0)[0]
    assert not there.receive(found[0], 1, 0.0)[0]


def test_a_slow_receiver_is_not_sent_anything_twice() -> None:
    here, there = Stream(SESSION, LIFE), Stream(SESSION, LIFE)
    first, ping = here.send(b"1"), here.ping(1.0)
    here.send(b"2")  # not lost: it is on its way when the answer to the ping comes
    for message in (first, ping):
        found = split(message[0])
        assert found is not None
        _, replies = there.receive(found[0], 1, 1.0)
    (pong,) = replies
    found = split(pong[0])
    assert found is not None
    assert list(here.receive(found[0], 1, 1.5)[1]) == []
    assert here.round_trip_s == 0.5


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_are_no_messages(data: bytes) -> None:
    assert split(data) is None
    with pytest.raises(QueueError) as raised:
        decode(data, ())
    assert raised.value.code == "E526"


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (encode(Items(1, 5, True)), []),  # the parts that it tells of are missing
        (encode(Items(1, 5, True, 2)), [b"", b""]),
        (encode(Demand(1, 5, 0)), [b"a part too many"]),
        (encode([11, 1, -1, 0]), []),
        (encode([11, 1, 2**63, 0]), []),
        (encode([99, 1]), []),
        (encode([5, 1, 0, True]), []),
        (b"\x91" * 4000, []),
        (b"\xdd\xff\xff\xff\xff", []),  # an array of four thousand million
        (b"x" * 5000, []),
    ],
)
def test_messages_that_are_not_in_order(body: bytes, parts: list[bytes]) -> None:
    with pytest.raises(QueueError) as raised:
        decode(body, parts)
    assert raised.value.code == "E526"


def test_another_version_is_not_understood() -> None:
    message = bytearray(Header(Sort.PING, SESSION, LIFE, 1, 0).pack())
    assert split(bytes(message)) is not None
    message[2] += 1
    assert split(bytes(message)) is None
