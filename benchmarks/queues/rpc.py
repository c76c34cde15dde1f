"""Queues over TCP, encrypted: against pyzmq with CURVE, which carries the same lists."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.queues.channels import ZmqEnd, free_port, zmq_tcp
from benchmarks.queues.harness import (
    GIGABYTES,
    MICROSECONDS,
    RATE,
    Ends,
    Load,
    NotMeasured,
    Row,
    Times,
    compare,
    ends_of,
    flow,
    round_trip_us,
    small_items,
)
from benchmarks.queues.harness import arrays as arrays_of

from sage.errors import QueueError
from sage.queues import QueueDescriptor, RPCQueueDescriptor, new_key

MAXSIZE = 100_000
ARRAY_BYTES = 1_000_000
TRIPS = 2_000
SINGLES = Load(200_000, small_items, warm_up=10_000)
LISTS = Load(2_000_000, small_items, together=100, warm_up=100_000)
ARRAYS = Load(300, partial(arrays_of, ARRAY_BYTES), warm_up=30, mark=ends_of)
PEER = "pyzmq CURVE"
_PATIENCE_S = 30.0


class CurveEnd(ZmqEnd):
    """The same sockets, with CURVE: `keys` are the public and the secret one of the consumer, then of the producer."""

    def __init__(self, address: str, high_water: int, keys: list[bytes], *, consumes: bool, out_of_band: bool) -> None:
        self._keys = keys
        super().__init__(address, high_water, consumes=consumes, out_of_band=out_of_band)

    def secure(self, *, consumes: bool) -> None:
        if consumes:
            self._socket.curve_server = True
            self._socket.curve_secretkey = self._keys[1]
        else:
            self._socket.curve_serverkey = self._keys[0]
            self._socket.curve_publickey, self._socket.curve_secretkey = self._keys[2:]


def curve(high_water: int = 10_000, *, out_of_band: bool = False) -> Ends:
    if importlib.util.find_spec("zmq") is None:
        raise NotMeasured("pyzmq is not installed")
    import zmq

    keys = [*zmq.curve_keypair(), *zmq.curve_keypair()]
    end = partial(CurveEnd, f"tcp://127.0.0.1:{free_port()}", high_water, keys, out_of_band=out_of_band)
    return Ends(partial(end, consumes=False), partial(end, consumes=True))


class OurEnd:
    """One end of our queue. The consumer is its owner: what its process has not got ends with it."""

    def __init__(self, address: str, *, consumes: bool) -> None:
        descriptor: Any = QueueDescriptor.from_json(address)
        queue: Any = descriptor.create() if consumes else _opened(descriptor)
        self.put, self.get, self.put_list = queue.put, queue.get, queue.put_batch
        self.get_list = partial(queue.get_batch, LISTS.together)
        self._queue = queue

    def end(self) -> None:
        self._queue.wait_for_pending_puts()
        self._queue.detach()


def _opened(descriptor: QueueDescriptor) -> Any:
    """The queue, as soon as its owner has made it."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return descriptor.open()
        except QueueError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def ours() -> Ends:
    end = partial(OurEnd, RPCQueueDescriptor(port=free_port(), key=new_key(), maxsize=MAXSIZE).to_json())
    return Ends(partial(end, consumes=False), partial(end, consumes=True))


def rows(rounds: int) -> Iterator[Row]:
    plain = "pyzmq tcp, not encrypted"
    yield from compare("one by one", RATE, _flows(SINGLES, {PEER: curve}), [], rounds)
    yield from compare("lists of 100", RATE, _flows(LISTS, {PEER: curve, plain: zmq_tcp}), [Times(0.8, PEER)], rounds)
    peers = {PEER: partial(curve, 64, out_of_band=True)}
    arrays = {name: _gigabytes(flow) for name, flow in _flows(ARRAYS, peers).items()}
    yield from compare("arrays of 1 MB", GIGABYTES, arrays, [Times(0.8, PEER)], rounds)
    trips = {name: partial(_trips, make) for name, make in {"SAGE": ours, PEER: curve}.items()}
    yield from compare("round trip", MICROSECONDS, trips, [], rounds)


def _flows(load: Load, peers: dict[str, Callable[[], Ends]]) -> dict[str, Callable[[], float]]:
    return {name: partial(_flow, make, load) for name, make in {"SAGE": ours, **peers}.items()}


def _flow(make: Callable[[], Ends], load: Load) -> float:
    return flow(make(), load)


def _trips(make: Callable[[], Ends]) -> float:
    return round_trip_us(make(), make(), TRIPS)


def _gigabytes(measure: Callable[[], Any]) -> Callable[[], float]:
    return lambda: measure() * ARRAY_BYTES / 1e9
