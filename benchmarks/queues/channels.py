"""SAGE's queues and their peers under the same names: each function makes one channel, whose two ends can be sent."""

from __future__ import annotations

import importlib.util
import pickle
import secrets
import socket
import struct
import time
from functools import partial
from typing import Any

from benchmarks.queues.harness import CONTEXT, Ends, NotMeasured

from sage.queues import QueueDescriptor


class Sage:
    """One end of any kind of queue, by its address."""

    def __init__(self, address: str, together: int) -> None:
        queue: Any = QueueDescriptor.from_json(address).queue_instance
        self.put, self.get, self.put_list, self.end = queue.put, queue.get, queue.put_batch, queue.detach
        self.get_list = partial(queue.get_batch, together)


def sage(descriptor: QueueDescriptor, together: int = 100) -> Ends:
    """The queue that `descriptor` describes; whoever is first creates it."""
    end = partial(Sage, descriptor.to_json(), together)
    return Ends(end, end)


class Plain:
    """One end of anything with `put` and `get`; lists are items."""

    def __init__(self, queue: Any) -> None:
        self.put, self.get, self.put_list, self.get_list = queue.put, queue.get, queue.put, queue.get
        self.end = lambda: None


def plain(queue: Any) -> Ends:
    """`queue.Queue`, `multiprocessing.Queue` and the like."""
    end = partial(Plain, queue)
    return Ends(end, end)


class PipeEnd:
    """One end of `multiprocessing.Pipe`."""

    def __init__(self, connection: Any) -> None:
        self.put, self.get, self.put_list, self.get_list = (
            connection.send, connection.recv, connection.send, connection.recv,
        )  # fmt: skip
        self.end = connection.close


def pipe() -> Ends:
    """`multiprocessing.Pipe` in one direction."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    return Ends(partial(PipeEnd, writer), partial(PipeEnd, reader))


class SocketEnd:
    """One end of a Unix socket: pickles behind their lengths."""

    def __init__(self, address: str, *, consumes: bool) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        if consumes:
            self._socket.bind(address)
            self._socket.listen()
            listener, (self._socket, _) = self._socket, self._socket.accept()
            listener.close()
        else:
            _connect(self._socket, address)
        self._file = self._socket.makefile("rb", 1 << 20)
        self.put_list, self.get_list = self.put, self.get

    def put(self, item: Any) -> None:
        data = pickle.dumps(item, 5)
        self._socket.sendall(struct.pack("<Q", len(data)) + data)

    def get(self) -> Any:
        return pickle.loads(self._file.read(struct.unpack("<Q", self._file.read(8))[0]))

    def end(self) -> None:
        self._file.close()
        self._socket.close()


def unix_socket() -> Ends:
    """A Unix socket with frames of its own."""
    address = f"\0sage-bench-{secrets.token_hex(8)}"
    return Ends(partial(SocketEnd, address, consumes=False), partial(SocketEnd, address, consumes=True))


def _connect(ours: socket.socket, address: str) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            ours.connect(address)
            return
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.001)


class ZmqEnd:
    """One end of a PUSH and PULL pair; what can travel out of band does, if asked for."""

    def __init__(self, address: str, high_water: int, *, consumes: bool, out_of_band: bool) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL if consumes else zmq.PUSH)
        self._socket.set_hwm(high_water)
        self.secure(consumes=consumes)
        (self._socket.bind if consumes else self._socket.connect)(address)
        if out_of_band:
            self.put, self.get = self._put_parts, self._get_parts
        else:
            self.put, self.get = self._put, self._get
        self.put_list, self.get_list = self.put, self.get

    def secure(self, *, consumes: bool) -> None:
        """What is to be set before it is connected: nothing."""

    def _put(self, item: Any) -> None:
        self._socket.send(pickle.dumps(item, 5))

    def _get(self) -> Any:
        return pickle.loads(self._socket.recv())

    def _put_parts(self, item: Any) -> None:
        buffers: list[Any] = []
        data = pickle.dumps(item, 5, buffer_callback=buffers.append)
        self._socket.send_multipart([data, *buffers], copy=False)

    def _get_parts(self) -> Any:
        frames = self._socket.recv_multipart(copy=False)
        return pickle.loads(frames[0].buffer, buffers=[frame.buffer for frame in frames[1:]])

    def end(self) -> None:
        self._context.destroy(linger=10_000)


def zmq_ipc(high_water: int = 10_000, *, out_of_band: bool = False) -> Ends:
    """pyzmq over a Unix socket."""
    return zmq(f"ipc://@sage-bench-{secrets.token_hex(8)}", high_water, out_of_band)


def zmq_tcp(high_water: int = 10_000, *, out_of_band: bool = False) -> Ends:
    """pyzmq over loopback."""
    return zmq(f"tcp://127.0.0.1:{free_port()}", high_water, out_of_band)


def zmq(address: str, high_water: int, out_of_band: bool) -> Ends:
    """The consumer binds `address`, the producer connects."""
    if importlib.util.find_spec("zmq") is None:
        raise NotMeasured("pyzmq is not installed")
    end = partial(ZmqEnd, address, high_water, out_of_band=out_of_band)
    return Ends(partial(end, consumes=False), partial(end, consumes=True))


def free_port() -> int:
    """One that nobody listened on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
