"""One thread of the process waits for all that its queues wait for: connections, and the end of other processes.

Linux only. The thread is there while there is something to wait for.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

_Call = Callable[[], None]


class Watch:
    """Calls what is to be called when a file becomes readable."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._epoll: select.epoll | None = None
        self._wake = -1

    def when_readable(self, fd: int, call: _Call) -> None:
        """Have `call` called, on the watching thread, as often as `fd` is readable; `call` must make it unreadable."""
        with self._lock:
            if self._epoll is None:
                self._epoll = self._start()
            self._calls[fd] = call
            self._epoll.register(fd, select.EPOLLIN)

    def when_ended(self, process: int, call: _Call) -> int:
        """Have `call` called once, when `process` ends; revoked by `end` of what is returned.

        Raises `ProcessLookupError` where the process is gone.
        """
        fd = os.pidfd_open(process)

        def ended() -> None:
            if self.end(fd):
                call()

        self.when_readable(fd, ended)
        return fd

    def has_ended(self, fd: int) -> bool:
        """Whether the process that `when_ended` returned `fd` for has ended, perhaps before its call was made."""
        with self._lock:
            if fd not in self._calls:
                return fd >= 0
            return _is_readable(fd)

    def end(self, fd: int) -> bool:
        """Close `fd`, and watch it no longer; False where that was done before."""
        with self._lock:
            if self._calls.pop(fd, None) is None:
                return False
            os.close(fd)  # and with it, it leaves the epoll
            if not self._calls:
                os.eventfd_write(self._wake, 1)
            return True

    def _start(self) -> select.epoll:
        epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        epoll.register(self._wake, select.EPOLLIN)
        threading.Thread(target=self._run, args=(epoll, self._wake), name="sage-queue-watch", daemon=True).start()
        return epoll

    def _run(self, epoll: select.epoll, wake: int) -> None:
        while self._is_needed(epoll, wake):
            for fd, _ in epoll.poll():
                if fd == wake:
                    os.eventfd_read(wake)
                elif (call := self._calls.get(fd)) is not None:
                    call()

    def _is_needed(self, epoll: select.epoll, wake: int) -> bool:
        with self._lock:
            if self._calls:
                return True
            self._epoll = None
            epoll.close()
            os.close(wake)
            return False

    def forget_in_child(self) -> None:
        """A forked child has copies of the files, and no thread."""
        if self._epoll is not None:
            self._epoll.close()
            os.close(self._wake)
            for fd in self._calls:
                os.close(fd)
        self._reset()


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


watch = Watch()
"""That of this process."""

os.register_at_fork(after_in_child=watch.forget_in_child)
