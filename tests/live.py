"""Objects that operators and their test share, although the engine copies operators by pickling them.

In the test's own process a copy is the object itself. In other processes it calls the object over a socket.
"""

import os
import pickle
import socket
import struct
import threading
from typing import Any
from weakref import WeakValueDictionary

from patience import DEADLINE_S

_LIVE: WeakValueDictionary[int, "Live"] = WeakValueDictionary()
_LISTENER = socket.socket(socket.AF_UNIX)
_LISTENER.bind("")  # an abstract name that nobody else has
_LISTENER.listen(64)
_HOME = os.getpid()


class Live:
    """Pickled as a reference to itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        _LIVE[id(self)] = self
        return _find, (id(self), _HOME, _LISTENER.getsockname())


class Far:
    """A `Live` of another process: its methods run there, where they may wait."""

    def __init__(self, number: int, home: int, address: bytes) -> None:
        self._reference = number, home, address
        self._connections = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, self._reference

    def __getattr__(self, method: str) -> Any:
        return lambda *arguments: self._ask(method, arguments)

    def __call__(self, *arguments: Any) -> Any:
        return self._ask("__call__", arguments)

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        number, _, address = self._reference
        if not hasattr(self._connections, "socket"):
            self._connections.socket = socket.socket(socket.AF_UNIX)
            self._connections.socket.connect(address)
        _send(self._connections.socket, (number, method, arguments))
        result, error = _receive(self._connections.socket)
        if error is not None:
            raise error
        return result


def _find(number: int, home: int, address: bytes) -> Any:
    return _LIVE[number] if os.getpid() == home else Far(number, home, address)


def _serve() -> None:
    while True:
        connection, _ = _LISTENER.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        while (request := _receive(connection)) is not None:
            number, method, arguments = request
            try:
                answer = getattr(_LIVE[number], method)(*arguments), None
                pickle.dumps(answer)
            except BaseException as error:
                answer = None, _sendable(error)
            try:
                _send(connection, answer)
            except OSError:
                return


def _sendable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("an error that cannot be sent")
    return error


def _send(connection: socket.socket, message: object) -> None:
    data = pickle.dumps(message)
    connection.sendall(struct.pack("<Q", len(data)) + data)


def _receive(connection: socket.socket) -> Any:
    try:
        (size,) = struct.unpack("<Q", connection.recv(8, socket.MSG_WAITALL))
        return pickle.loads(connection.recv(size, socket.MSG_WAITALL))
    except (OSError, struct.error):  # the other end is gone
        return None


threading.Thread(target=_serve, daemon=True, name="live").start()


class Notes(Live, list[Any]):
    """A list that operators append to."""

    def counted(self) -> int:
        return len(self)

    def rest(self) -> list[Any]:
        return list(self)


class Gate(Live):
    """An event: operators wait at it until the test opens it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    def wait(self) -> None:
        assert self._event.wait(DEADLINE_S), "nobody opened the gate"

    def opened_soon(self) -> None:
        """Wait until another thread, which starts now, opens it: long enough for others to overtake."""
        threading.Thread(target=self.open).start()
        self.wait()


class Tally(Live):
    """Counts from many threads: how many are inside now, and how many there were at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = 0
        self.most = 0
        self.total = 0

    def enter(self) -> None:
        with self._lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)

    def leave(self) -> None:
        with self._lock:
            self.now -= 1
